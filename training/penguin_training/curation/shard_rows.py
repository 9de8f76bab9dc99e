"""Reads the samples of a shard.

In an archive (WebDataset), neighbouring files with the same name up to the first dot are a sample. In a table, images
are in one of the columns below: bytes, {"bytes", "path"}, relative paths, or lists of these. Lines are samples in the
annotation format, of which only the media are read.

Ray's own readers end a whole run at the first damaged line or archive; here it is an error in place of a sample.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from penguin_models.errors import DataError
from penguin_training.curation.shards import SAMPLES_PER_SHARD, Shard, image_files
from penguin_training.data.annotations import parse_annotation, parse_line, sample_id
from penguin_training.data.media_reference import MediaReference, decode_image, read_reference

_VIDEO_ENDINGS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
_IMAGE_COLUMNS = ("image", "images", "img", "jpg", "jpeg", "png", "webp")
_VIDEO_COLUMNS = ("video", "videos", "mp4", "webm")
_NAME_COLUMNS = ("id", "key", "__key__", "uid")
_READ_ROWS = 32  # of a table at a time
Media = tuple[MediaReference, ...]


class Row(NamedTuple):
    """A sample of a shard."""

    name: str
    media: Callable[[Path], Media]
    """Returns its pictures and clips, or raises PenguinError; clips that are not files are written to the folder."""
    source: Any  # What `selected_files.py` writes: members of an archive, a row as a dict, a sample, or a path


def read_shard(shard: Shard) -> Iterator[Row | DataError]:
    """Yields the samples of a shard in order; an error for one that is malformed, and where the file breaks off."""
    readers = {"tar": _tar_rows, "parquet": _table_rows, "jsonl": _line_rows, "json": _list_rows, "images": _image_rows}
    try:
        yield from readers[shard.kind](shard)
    except (OSError, EOFError, ValueError, tarfile.TarError) as err:  # pyarrow raises OSError and ValueError
        yield DataError(f"{Path(shard.path).name} breaks off here: {' '.join(str(err).split())[:200]}")


def _tar_rows(shard: Shard) -> Iterator[Row | DataError]:
    def members() -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        with tarfile.open(shard.path, "r|") as archive:
            for member in archive:
                if member.isreg():
                    file = archive.extractfile(member)
                    assert file is not None
                    yield member, file.read()

    def key(found: tuple[tarfile.TarInfo, bytes]) -> str:
        path = Path(found[0].name)
        return str(path.with_name(path.name.split(".")[0] or path.name))

    for name, group in groupby(members(), key):
        files = list(group)
        yield Row(name, partial(_tar_media, [(member.name, content) for member, content in files]), files)


def _tar_media(files: list[tuple[str, bytes]], folder: Path) -> Media:
    endings = Image.registered_extensions()
    media: list[MediaReference] = []
    for name, content in sorted(files):
        ending = Path(name).suffix.lower()
        if ending in _VIDEO_ENDINGS:
            media.append(_clip(content, folder / f"{len(media)}{ending}"))
        elif ending in endings:
            media.append(decode_image(content, f"image {name}"))
    if not media:
        raise DataError(f"it has no image or video, only {', '.join(name for name, _ in files)[:200]}")
    return tuple(media)


def _clip(content: bytes, file: Path) -> MediaReference:
    file.write_bytes(content)
    return MediaReference(file, is_clip=True)


def _table_rows(shard: Shard) -> Iterator[Row | DataError]:
    from pyarrow import parquet

    path = Path(shard.path)
    with parquet.ParquetFile(path) as file:
        before = sum(file.metadata.row_group(group).num_rows for group in range(shard.first))
        for batch in file.iter_batches(_READ_ROWS, [shard.first]):
            for values in batch.to_pylist():
                before += 1
                found = (str(values[name]) for name in _NAME_COLUMNS if values.get(name) is not None)
                name = next(found, f"{path.name}:{before}")
                yield Row(name, partial(_table_media, values, Path(shard.root)), values)


def _table_media(values: dict[str, Any], root: Path, folder: Path) -> Media:
    media: list[MediaReference] = []
    for column in (*_IMAGE_COLUMNS, *_VIDEO_COLUMNS):
        found = values.get(column)
        for item in found if isinstance(found, list) else [] if found is None else [found]:
            media.append(_table_medium(item, column, root, folder / f"{len(media)}.video"))
    if not media:
        known = ", ".join((*_IMAGE_COLUMNS, *_VIDEO_COLUMNS))
        raise DataError(f"it has no image or video: columns {', '.join(values)[:200]}; name one of them as in {known}")
    return tuple(media)


def _table_medium(item: Any, column: str, root: Path, clip: Path) -> MediaReference:
    if isinstance(item, dict):
        item = item["bytes"] if item.get("bytes") is not None else item.get("path")
    if not isinstance(item, bytes):
        return read_reference(item, column, root, column in _VIDEO_COLUMNS)
    return _clip(item, clip) if column in _VIDEO_COLUMNS else decode_image(item, f"column {column}")


def _line_rows(shard: Shard) -> Iterator[Row | DataError]:
    path, number = Path(shard.path), 0
    with path.open("rb") as file:
        file.seek(shard.first)
        for line in islice(filter(bytes.strip, file), SAMPLES_PER_SHARD):
            number += 1
            yield _sample_row(parse_line(line), Path(shard.root), f"{path.name}:byte {shard.first}, line {number}")


def _list_rows(shard: Shard) -> Iterator[Row | DataError]:
    path = Path(shard.path)
    samples = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(samples, list):
        raise ValueError(f"it holds a {type(samples).__name__}, not a list of samples")
    for number, raw in enumerate(samples, 1):
        yield _sample_row(raw, Path(shard.root), f"{path.name}:{number}")


def _sample_row(raw: Any, root: Path, place: str) -> Row | DataError:
    if isinstance(raw, DataError):
        return DataError(f"{place}: {raw}")
    return Row(sample_id(raw, place), lambda folder: parse_annotation(raw, root, place, False).media, raw)


@lru_cache(maxsize=1)
def _listed(folder: str, count: int) -> list[Path]:
    """Lists a folder once in a process, and again if its number of files differs."""
    return image_files(Path(folder))


def _image_rows(shard: Shard) -> Iterator[Row | DataError]:
    for file in _listed(shard.path, shard.size)[shard.first : shard.first + SAMPLES_PER_SHARD]:
        yield Row(file.name, partial(_file_media, file), file)


def _file_media(file: Path, folder: Path) -> Media:
    return (MediaReference(file, is_clip=False),)
