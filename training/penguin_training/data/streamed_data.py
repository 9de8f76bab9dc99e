"""Annotations read as a stream: by `datasets` from large files, URLs or the hub, or rendered from table-top scenes.

The stream is cut into blocks of samples; each block is measured, shuffled and packed by itself, and belongs to one
reader (a worker process of a training process). A run stops between two micro-batches and stores the position of every
reader, so that it resumes with the very next micro-batch. What lies before that is read again, but not decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from penguin_models.errors import DataError, PenguinError
from penguin_training.data.annotations import Annotation, is_selected, parse_annotation, parse_line, sample_id
from penguin_training.data.batch import Batch, read_batch
from penguin_training.data.packing import PackingPlan
from penguin_training.data.sample_reader import MeasuredSample, SampleReader
from penguin_training.data.tabletop_source import SceneSource
from penguin_training.data.worker_processes import worker_options
from penguin_training.settings.data import DataFile
from penguin_training.settings.stage import StageSettings

_READ_ROWS = 64
_ANNOTATION_FILES = (".json", ".jsonl", ".gz", ".zst")


class _Row(NamedTuple):
    """A sample of the stream: its name, and a function that reads it."""

    name: str
    read: Callable[[], Annotation]


@dataclass(frozen=True)
class Position:
    """Where a reader is: the next micro-batch of a block of an epoch."""

    reader: int
    epoch: int = 0
    block: int = 0
    micro_batch: int = 0


class StreamedData:
    """The stage's files as one stream."""

    # Not known before the stream is read
    micro_batches_per_epoch = None
    unusable: Sequence[tuple[str, str]] = ()
    digests: Sequence[str] = ()

    def __init__(self, settings: StageSettings, reader: SampleReader):
        """Opens the stream and reads its first sample; raises PenguinError if that fails."""
        self._settings, self._reader = settings, reader
        assert settings.schedule.steps is not None
        self.steps = settings.schedule.steps
        memory = settings.data.memory
        fps = max(1.0, memory.rate_hz[1]) if memory else settings.data.fps
        images, seed = reader.processor.images, settings.engine.seed
        self._scenes = [
            SceneSource(file.tabletop, fps, memory, images, seed) if file.tabletop else None
            for file in settings.data.files
        ]
        if next(self._rows(), None) is None:
            raise DataError("data.files hold no samples")

    def sample_batch(self) -> Batch:
        """Reads the first micro-batch of the stream."""
        return next(self.micro_batches(Position(0), readers=1))

    def batches(self, step: int, state: dict[str, Any], rank: int, world: int) -> Iterator[Batch]:
        """Returns the micro-batches of process `rank` of `world`, without end.

        `state` holds the positions of its readers, empty at the beginning, and is updated as micro-batches are taken.
        """
        workers = self._settings.data.workers
        own = max(1, workers)
        if not state:
            state |= {"next": 0, "positions": [[rank * own + i, 0, 0, 0] for i in range(own)]}
        # The loader asks its workers in turn, the first one first: it gets the reader whose turn it is.
        turn = state["next"]
        positions = [Position(*state["positions"][(turn + i) % own]) for i in range(own)]
        stream = _ReaderStream(self, positions, world * own)
        generator = torch.Generator()  # or it would draw from the run's own
        pin = torch.cuda.is_available()
        loader = DataLoader(stream, batch_size=None, pin_memory=pin, generator=generator, **worker_options(workers))
        return _track_positions(loader, state)

    def micro_batches(self, position: Position, readers: int) -> Iterator[Batch]:
        """Yields the micro-batches of one reader from a position on, epoch after epoch."""
        while True:
            found = False
            for block, rows in self._blocks(position, readers):
                found = True
                first = position.micro_batch if block == position.block else 0
                yield from self._read_block(rows, replace(position, block=block, micro_batch=first))
            if not found and position.block == 0:
                raise DataError(
                    f"the stream has no samples for reader {position.reader} of {readers}; lower data.block"
                )
            position = Position(position.reader, position.epoch + 1)

    def _blocks(self, position: Position, readers: int) -> Iterator[tuple[int, list[_Row]]]:
        rows = self._rows()
        for block in count():
            taken = list(islice(rows, self._settings.data.block))
            if not taken:
                return
            if block % readers == position.reader and block >= position.block:
                yield block, taken

    def _read_block(self, rows: list[_Row], position: Position) -> Iterator[Batch]:
        """Yields the micro-batches of a block from a position on; the first one also names unusable samples."""
        measured: list[tuple[Annotation, MeasuredSample]] = []
        unusable: list[tuple[str, str]] = []
        for row in rows:
            try:
                annotation = self._reader.through_memory(row.read())  # before the frames of a block fill the memory
                measured.append((annotation, self._reader.measure(annotation)))
            except PenguinError as err:
                unusable.append((row.name, str(err)))
        sizes = np.array([sample.size for _, sample in measured], np.int64)
        seed, budget = self._settings.engine.seed + position.block, self._settings.budgets.tokens
        plan = PackingPlan(sizes, [(len(sizes), 1.0)], budget, seed)
        micro_batches = plan.micro_batches(position.epoch) or [sizes]  # an empty one, if no sample can be used
        for number in range(position.micro_batch, len(micro_batches)):
            samples = (measured[i] for i in micro_batches[number])
            batch = read_batch(self._reader, samples, unusable if number == 0 else ())
            yield replace(batch, position=(position.reader, position.epoch, position.block, number + 1))

    def _rows(self) -> Iterator[_Row]:
        for file, scenes in zip(self._settings.data.files, self._scenes, strict=True):
            if file.tabletop is None or scenes is None:
                yield from self._file_rows(file)
            else:
                for number in range(file.tabletop.scenes):
                    yield _Row(f"tabletop:{number}", partial(scenes.read, number))

    def _file_rows(self, file: DataFile) -> Iterator[_Row]:
        root, path = self._settings.data.root, file.name
        stream = _open_stream(path, Path(root or "."))
        media_root = Path(root or (Path(path).parent if _is_local(path) else "."))
        try:
            for number, raw in enumerate(_raw_samples(stream, _is_jsonl(path))):
                place = f"{Path(path).name}:{number + 1}"
                if is_selected(raw, file.only):
                    read = partial(parse_annotation, raw, media_root, place, file.conversations)
                    yield _Row(sample_id(raw, place), read)
        except _stream_errors() as err:
            raise DataError(f"the stream {path} ends early: {' '.join(str(err).split())[:200]}") from err


def _track_positions(loader: DataLoader[Any], state: dict[str, Any]) -> Iterator[Batch]:
    for batch in loader:
        if isinstance(batch, PenguinError):
            raise batch
        state["positions"][state["next"]] = list(batch.position)
        state["next"] = (state["next"] + 1) % len(state["positions"])
        yield batch


class _ReaderStream(IterableDataset[Any]):
    """Micro-batches of the reader that this worker process is; an error is yielded as the last value."""

    def __init__(self, data: StreamedData, positions: list[Position], readers: int):
        self._data, self._positions, self._readers = data, positions, readers

    def __iter__(self) -> Iterator[Batch | PenguinError]:
        info = get_worker_info()
        try:
            yield from self._data.micro_batches(self._positions[info.id if info else 0], self._readers)
        except PenguinError as err:
            yield err


def _raw_samples(stream: Any, is_jsonl: bool) -> Iterator[Any]:
    """Yields all samples, and a DataError for a line that is not JSON.

    Iterates over batches, because `datasets` would share single samples among the worker processes.
    """
    for columns in stream.iter(batch_size=_READ_ROWS):
        if not is_jsonl:
            yield from (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
            continue
        yield from map(parse_line, filter(str.strip, columns["text"]))


def _is_jsonl(path: str) -> bool:
    """Returns whether it is an annotation file with one sample per line, not a list."""
    return path.endswith(_ANNOTATION_FILES) and not path.removesuffix(".gz").removesuffix(".zst").endswith(".json")


def _is_local(path: str) -> bool:
    """Returns whether it is a local file, neither a URL nor a data set of the hub."""
    return path.endswith(_ANNOTATION_FILES) and "://" not in path


def _open_stream(path: str, root: Path) -> Any:
    import datasets  # slow to import, and not needed for indexed files

    try:
        if not path.endswith(_ANNOTATION_FILES):
            return datasets.load_dataset(path, split="train", streaming=True)
        location = str(root / path) if _is_local(path) else path
        options: dict[str, Any] = {"data_files": location, "split": "train", "streaming": True}
        if _is_jsonl(path):
            # A byte that is not UTF-8 becomes `\xNN`, which is not JSON, so that only its line is left out. For
            # compressed files and URLs `datasets` ignores this option, and the stream ends there with an error.
            return datasets.load_dataset("text", encoding_errors="backslashreplace", **options)
        return datasets.load_dataset("json", **options)
    except _stream_errors() as err:
        raise DataError(f"{path} cannot be streamed: {' '.join(str(err).split())[:200]}") from err


def _stream_errors() -> tuple[type[Exception], ...]:
    """Returns what file systems, servers and parsers raise for missing or damaged streams."""
    from datasets.exceptions import DatasetsError

    return (OSError, ValueError, TypeError, KeyError, DatasetsError)
