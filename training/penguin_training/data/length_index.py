"""The length index of an annotation file: how long each sample is, and what clips look like, measured once.

It lies beside its file and carries the file's hash and the settings that lengths depend on: an index that is of
another file or of other settings is not found or refused, never used.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from penguin_models.errors import DataError, PenguinError
from penguin_models.processor import Visual
from penguin_models.types import FrameKind, Int64Array, Size
from penguin_training.data.annotations import AnnotationFile
from penguin_training.data.samples import Measured, SampleReader, Shown
from penguin_training.data.worker_processes import worker_options

_VERSION = 1


@dataclass(frozen=True, eq=False)
class LengthIndex:
    """Lengths of the samples of one file.

    Attributes:
        tokens: int64 [samples]; 0 where only the encoder sees the sample, -1 where it cannot be used.
        visual_tokens: int64 [samples].
        patches: int64 [samples].
        unusable: (id, reason) by row.
        digest: of the file and of what its samples take of a budget.
        pictures: first picture of each sample: int64 [samples + 1].
        sizes: int64 [pictures, 3], height and width in pixels and merge size.
        frames: first frame of each picture: int64 [pictures + 1].
        kinds: uint8 [frames].
        times_s: float64 [frames]; NaN for images.
    """

    tokens: Int64Array
    visual_tokens: Int64Array
    patches: Int64Array
    unusable: dict[int, tuple[str, str]]
    pictures: Int64Array
    sizes: Int64Array
    frames: Int64Array
    kinds: Any
    times_s: Any
    digest: str = ""

    def packed_sizes(self) -> Int64Array:
        """What each sample takes of a budget; 0 where it cannot be used."""
        return np.where(self.tokens < 0, 0, np.maximum(self.tokens, self.visual_tokens))

    def __getitem__(self, row: int) -> Measured:
        shown = []
        for picture in range(self.pictures[row], self.pictures[row + 1]):
            span = slice(self.frames[picture], self.frames[picture + 1])
            height, width, merge_size = (int(v) for v in self.sizes[picture])
            times = self.times_s[span]
            kinds = tuple(FrameKind(int(kind)) for kind in self.kinds[span])
            known = () if np.isnan(times).any() else tuple(float(t) for t in times)
            shown.append(Shown(Visual(Size(height, width), kinds, merge_size), known))
        numbers = (int(a[row]) for a in (self.tokens, self.visual_tokens, self.patches))
        return Measured(*numbers, tuple(shown))


def index_path(file: AnnotationFile, reader: SampleReader) -> Path:
    """Where the index of a file for these settings lies."""
    data = reader.data
    settings = {
        "version": _VERSION,
        "tokenizer": hashlib.sha256(reader.processor.tokenizer.to_str().encode()).hexdigest(),
        "images": vars(reader.processor.images),
        "clips": [data.fps, data.max_frames, data.key_frames, data.sizes],
        "visual_tokens": reader.max_visual_tokens,
        "tokens": reader.max_tokens,
        "sees": [reader.sees, reader.reconstructs],
        "only": file.only,
        "conversations": file.conversations,
    }
    fingerprint = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
    return file.path.with_name(f"{file.path.name}.lengths-{fingerprint}.npz")


def build_index(
    file: AnnotationFile,
    reader: SampleReader,
    workers: int = 0,
    progress: Callable[[], None] = lambda: None,
    known: LengthIndex | None = None,
) -> Path:
    """Measures samples of a file and writes the index beside it.

    Args:
        file: the annotation file.
        reader: measures with the stage's settings.
        workers: processes that measure.
        progress: called after each sample that is measured.
        known: an index of the same file and settings: only what it could not use is measured again.

    Returns:
        Where the index lies.

    Raises:
        DataError: the index cannot be written; said before anything is measured.
    """
    path = index_path(file, reader)
    partial = path.with_name(f".{path.name}.partial")
    with _writing(path):
        partial.touch()
        partial.unlink()
    rows = range(len(file)) if known is None else sorted(known.unusable)
    found: dict[int, Measured | tuple[str, str]] = {}
    for row, result in zip(rows, _measure_all(file, reader, rows, workers), strict=True):
        found[row] = result
        progress()
    unusable = {row: result for row, result in found.items() if not isinstance(result, Measured)}
    measured = [_measured(found[row] if known is None or row in found else known[row]) for row in range(len(file))]
    header = {"file_sha256": _hash(file.path), "samples": len(file), "unusable": unusable}
    with _writing(path):
        with partial.open("wb") as out:
            np.savez_compressed(out, header=np.array(json.dumps(header)), **_columns(measured))
        partial.replace(path)
    return path


def load_index(file: AnnotationFile, reader: SampleReader) -> LengthIndex:
    """Reads the index of a file.

    Raises:
        DataError: there is none for these settings, it is damaged, or the file has changed since.
    """
    path = index_path(file, reader)
    remedy = "make it with `penguin-vl prepare lengths STAGE.yaml`"
    if not path.is_file():
        raise DataError(f"{file.path} has no length index for these settings ({path.name}); {remedy}")
    try:
        with np.load(path, allow_pickle=False) as stored:
            columns = dict(stored)
        header = json.loads(str(columns.pop("header")))
        unusable = {int(row): (name, reason) for row, (name, reason) in header["unusable"].items()}
        index = LengthIndex(unusable=unusable, **columns)
        sizes = hashlib.sha256(index.packed_sizes().tobytes()).hexdigest()
        index = replace(index, digest=f"{header['file_sha256'][:16]}-{sizes[:16]}")
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as err:
        raise DataError(f"length index {path} is damaged ({err}); delete it and {remedy}") from err
    if header["file_sha256"] != _hash(file.path) or header["samples"] != len(file):
        raise DataError(f"{file.path} has changed since its length index {path.name} was made; {remedy} again")
    return index


def current_index(file: AnnotationFile, reader: SampleReader) -> LengthIndex | None:
    """The index of the file as it is, for these settings; None where there is no whole one."""
    try:
        return load_index(file, reader)
    except DataError:
        return None


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise DataError(f"the length index {path} cannot be written: {err.strerror}") from err


class _Rows(Dataset[Any]):
    """Measurements of some rows; (id, reason) where there is none."""

    def __init__(self, file: AnnotationFile, reader: SampleReader, rows: Sequence[int]):
        self._file, self._reader, self._rows = file, reader, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Measured | tuple[str, str]:
        row = self._rows[number]
        try:
            return self._reader.measure(self._file[row])
        except PenguinError as err:
            return self._file.name(row), str(err)


def _measure_all(
    file: AnnotationFile, reader: SampleReader, rows: Sequence[int], workers: int
) -> Iterator[Measured | tuple[str, str]]:
    yield from DataLoader(_Rows(file, reader, rows), batch_size=None, **worker_options(workers))


def _measured(result: Measured | tuple[str, str]) -> Measured:
    """What stands in the index: -1 tokens where the sample cannot be used."""
    return result if isinstance(result, Measured) else Measured(-1, 0, 0, ())


def _columns(measured: Sequence[Measured]) -> dict[str, Any]:
    shown = [s for m in measured for s in m.shown]
    kinds = [kind for s in shown for kind in s.visual.kinds]
    times = [time for s in shown for time in (s.times_s or (np.nan,) * len(s.visual.kinds))]
    sizes = [(*s.visual.source_size, s.visual.merge_size) for s in shown]
    return {
        "tokens": np.array([m.tokens for m in measured], np.int64),
        "visual_tokens": np.array([m.visual_tokens for m in measured], np.int64),
        "patches": np.array([m.patches for m in measured], np.int64),
        "pictures": np.cumsum([0, *(len(m.shown) for m in measured)]).astype(np.int64),
        "sizes": np.array(sizes, np.int64).reshape(-1, 3),
        "frames": np.cumsum([0, *(len(s.visual.kinds) for s in shown)]).astype(np.int64),
        "kinds": np.array(kinds, np.uint8),
        "times_s": np.array(times, np.float64),
    }


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
