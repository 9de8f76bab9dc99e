"""The input in shards, each of which one worker reads from start to end: WebDataset, Parquet, JSONL, or image files.

.tar        a shard is an archive
.parquet    a shard is a row group
.jsonl      a shard is a thousand samples in the annotation format; .json, a list of them, is a single shard
a folder    all such files in it and below; or else its image files, a thousand to a shard
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from penguin_models.errors import DataError

SAMPLES_PER_SHARD = 1000
Kind = Literal["tar", "parquet", "jsonl", "json", "images"]
_FILES = (".tar", ".parquet", ".jsonl", ".json")


@dataclass(frozen=True)
class Shard:
    """A part of the input.

    Attributes:
        path: Its file, or the folder of its image files.
        kind: What it is.
        first: Where it begins: row group, byte in the file, or number of the first image file; 0 for a whole file.
        size: Size of the file in bytes, or number of image files, by which a changed input is noticed.
        root: Folder that paths in it are relative to.
    """

    path: str
    kind: Kind
    first: int
    size: int
    root: str


def find_shards(inputs: Sequence[Path], root: Path | None = None, out: Path | None = None) -> list[Shard]:
    """Returns the shards of files and folders, in the order in which samples are numbered.

    Args:
        inputs: Files and folders.
        root: Folder that paths in tables and annotation files are relative to; that of each file if None.
        out: Output folder, which must not lie in the input.

    Raises:
        DataError: An input is missing, empty, given twice, damaged as a whole, or of another kind.
    """
    for path in inputs:
        if out is not None and path.resolve() in (out.resolve(), *out.resolve().parents):
            raise DataError(f"the output folder {out} lies in the input {path}; choose a folder outside of it")
    shards = [shard for path in inputs for shard in _shards_of(path.absolute(), root)]
    if len({(shard.path, shard.first) for shard in shards}) < len(shards):
        raise DataError("a file is among the inputs twice; give it once")
    return shards


def image_files(folder: Path) -> list[Path]:
    """Returns the image files in a folder and below, by their names."""
    endings = Image.registered_extensions()
    return sorted(
        file for file in folder.rglob("*") if file.suffix.lower() in endings and not file.name.startswith(".")
    )


def _shards_of(path: Path, root: Path | None) -> Iterator[Shard]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in _FILES and file.is_file())
        for file in files:
            yield from _file_shards(file, root)
        if not files:
            count = len(image_files(path))
            if not count:
                raise DataError(f"{path} holds no {', '.join(_FILES)} or image files; give another folder")
            yield from (
                Shard(str(path), "images", first, count, str(path)) for first in range(0, count, SAMPLES_PER_SHARD)
            )
    elif not path.is_file():
        raise DataError(f"the input {path} does not exist; give files or folders of them")
    elif path.suffix not in _FILES:
        raise DataError(f"the input {path} ends with {path.suffix!r}, but {', '.join(_FILES)} are read; convert it")
    else:
        yield from _file_shards(path, root)


def _file_shards(path: Path, root: Path | None) -> Iterator[Shard]:
    size, base = path.stat().st_size, str((root or path.parent).absolute())
    if path.suffix == ".parquet":
        from pyarrow import ArrowException, parquet

        try:
            groups = parquet.read_metadata(path).num_row_groups
        except (OSError, ArrowException) as err:
            raise DataError(f"{path} is no Parquet file: {' '.join(str(err).split())[:200]}; remove it") from err
        yield from (Shard(str(path), "parquet", group, size, base) for group in range(groups))
    elif path.suffix == ".jsonl":
        yield from (Shard(str(path), "jsonl", first, size, base) for first in _line_offsets(path))
    else:
        yield Shard(str(path), "tar" if path.suffix == ".tar" else "json", 0, size, base)


def _line_offsets(path: Path) -> Iterator[int]:
    """Yields the byte at which each shard of a JSONL file begins; blank lines are no samples."""
    lines = position = 0
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                if lines % SAMPLES_PER_SHARD == 0:
                    yield position
                lines += 1
            position += len(line)
