"""The length index of an annotation file: the lengths of its samples and the frames of its clips, measured once.

It lies next to its file and holds the file's hash and the settings that lengths depend on: an index of another file or
of other settings is never used.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from penguin_engine.scene.memory import MemoryConfig
from penguin_models.atomic_write import atomic_write
from penguin_models.errors import DataError, PenguinError
from penguin_models.processor import Visual
from penguin_models.types import FrameKind, Int64Array, Size
from penguin_training.data.annotations import AnnotationFile
from penguin_training.data.sample_reader import MeasuredSample, MediaInfo, SampleReader
from penguin_training.data.worker_processes import worker_options

_VERSION = 2
_UNUSABLE = MeasuredSample(-1, 0, 0, ())


@dataclass(frozen=True, eq=False)
class LengthIndex:
    """Lengths of the samples of one file."""

    tokens: Int64Array  # int64 [samples]; 0 if only the encoder sees the sample, -1 if it cannot be used
    visual_tokens: Int64Array  # int64 [samples]
    patches: Int64Array  # int64 [samples]
    unusable: dict[int, tuple[str, str]]  # (id, reason) by row
    media: Int64Array  # int64 [samples + 1], index of the first image or clip of each sample
    sizes: Int64Array  # int64 [media, 3], height and width in pixels and merge size
    frames: Int64Array  # int64 [media + 1], index of the first frame of each image or clip
    kinds: Any  # uint8 [frames]
    times_s: Any  # float64 [frames]; NaN for images
    digest: str = ""  # Hash of the file and of the sizes of its samples

    def packed_sizes(self) -> Int64Array:
        """Returns what each sample takes of a token budget; 0 if it cannot be used."""
        return np.where(self.tokens < 0, 0, np.maximum(self.tokens, self.visual_tokens))

    def __getitem__(self, row: int) -> MeasuredSample:
        media = []
        for number in range(self.media[row], self.media[row + 1]):
            span = slice(self.frames[number], self.frames[number + 1])
            height, width, merge_size = (int(v) for v in self.sizes[number])
            kinds = tuple(FrameKind(int(kind)) for kind in self.kinds[span])
            times_s = tuple(float(t) for t in self.times_s[span] if not np.isnan(t))
            media.append(MediaInfo(Visual(Size(height, width), kinds, merge_size), times_s))
        tokens, visual_tokens, patches = (int(a[row]) for a in (self.tokens, self.visual_tokens, self.patches))
        return MeasuredSample(tokens, visual_tokens, patches, tuple(media))


def index_path(file: AnnotationFile, reader: SampleReader) -> Path:
    """Returns the path of a file's index for these settings."""
    data = reader.data
    settings = {
        "version": _VERSION,
        "tokenizer": hashlib.sha256(reader.processor.tokenizer.to_str().encode()).hexdigest(),
        "images": vars(reader.processor.images),
        "clips": [data.fps, data.max_frames, data.keyframe_policy, data.sizes],
        "max_image_pixels": data.max_image_pixels,
        "visual_tokens": reader.max_visual_tokens,
        "tokens": reader.max_tokens,
        "stage": [reader.multimodal, reader.reconstructs, *([True] if reader.rewards else [])],
        "only": file.only,
        "conversations": file.conversations,
    }
    if data.memory is not None:  # it takes the place of `clips`, and is drawn by the seed
        settings["clips"] = [asdict(data.memory), asdict(MemoryConfig()), reader.seed]
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
    return file.path.with_name(f"{file.path.name}.lengths-{fingerprint}.npz")


def build_index(
    file: AnnotationFile,
    reader: SampleReader,
    workers: int = 0,
    progress: Callable[[], None] = lambda: None,
    known: LengthIndex | None = None,
) -> Path:
    """Measures the samples of a file, writes the index next to it and returns its path.

    With a current index as `known`, only samples that it could not use are measured again. `progress` is called after
    each sample. Raises WriteError, before anything is measured, if the index cannot be written.
    """
    path = index_path(file, reader)
    with atomic_write(path, "wb") as out:  # opened first: whether it can be written is known before the measuring
        measured = [_UNUSABLE] * len(file) if known is None else [known[row] for row in range(len(file))]
        unusable: dict[int, tuple[str, str]] = {}
        rows = range(len(file)) if known is None else sorted(known.unusable)
        loader = DataLoader(_Measurements(file, reader, rows), batch_size=None, **worker_options(workers))
        for row, result in zip(rows, loader, strict=True):
            if isinstance(result, MeasuredSample):
                measured[row] = result
            else:
                unusable[row] = result
            progress()
        header = {"file_sha256": _file_hash(file.path), "samples": len(file), "unusable": unusable}
        np.savez_compressed(out, header=np.array(json.dumps(header)), **_columns(measured))
    return path


def load_index(file: AnnotationFile, reader: SampleReader) -> LengthIndex:
    """Reads the index of a file; raises DataError if it is missing, damaged or outdated."""
    path = index_path(file, reader)
    remedy = "run `penguin-vl prepare lengths STAGE.yaml`"
    if not path.is_file():
        raise DataError(f"{file.path} has no length index for these settings ({path.name}); {remedy}")
    try:
        with np.load(path, allow_pickle=False) as stored:
            columns = dict(stored)
        header = json.loads(str(columns.pop("header")))
        unusable = {int(row): (name, reason) for row, (name, reason) in header["unusable"].items()}
        index = LengthIndex(unusable=unusable, **columns)
        sizes_hash = hashlib.sha256(index.packed_sizes().tobytes()).hexdigest()
        index = replace(index, digest=f"{header['file_sha256'][:16]}-{sizes_hash[:16]}")
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as err:
        raise DataError(f"length index {path} is damaged ({err}); delete it and {remedy}") from err
    if header["file_sha256"] != _file_hash(file.path) or header["samples"] != len(file):
        raise DataError(f"{file.path} has changed since its length index {path.name} was made; {remedy} again")
    return index


class _Measurements(Dataset[Any]):
    """Measured samples; (id, reason) of those that cannot be used."""

    def __init__(self, file: AnnotationFile, reader: SampleReader, rows: Sequence[int]):
        self._file, self._reader, self._rows = file, reader, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> MeasuredSample | tuple[str, str]:
        row = self._rows[number]
        try:
            return self._reader.measure(self._file[row])
        except PenguinError as err:
            return self._file.name(row), str(err)


def _columns(measured: Sequence[MeasuredSample]) -> dict[str, Any]:
    media = [info for m in measured for info in m.media]
    kinds = [kind for info in media for kind in info.visual.kinds]
    times = [time for info in media for time in (info.times_s or (np.nan,) * len(info.visual.kinds))]
    sizes = [(*info.visual.source_size, info.visual.merge_size) for info in media]
    return {
        "tokens": np.array([m.tokens for m in measured], np.int64),
        "visual_tokens": np.array([m.visual_tokens for m in measured], np.int64),
        "patches": np.array([m.patches for m in measured], np.int64),
        "media": np.cumsum([0, *(len(m.media) for m in measured)]).astype(np.int64),
        "sizes": np.array(sizes, np.int64).reshape(-1, 3),
        "frames": np.cumsum([0, *(len(info.visual.kinds) for info in media)]).astype(np.int64),
        "kinds": np.array(kinds, np.uint8),
        "times_s": np.array(times, np.float64),
    }


def _file_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
