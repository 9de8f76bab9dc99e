"""Annotations read as a stream by `datasets`: files too large for an index, URLs, or data sets of the model hub; and
scenes of the table-top that are rendered on the way.

The stream is cut into blocks of samples; each block is measured, shuffled and packed by itself, and belongs to one
reader (a worker process of a training process). A run stops between two micro-batches; where every reader stands is
part of its state, so that it goes on with the very next one. What lies before is read again, but only its text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from penguin_models.errors import DataError, PenguinError, TrainingError
from penguin_training.data.annotations import Annotation, parse_annotation, pictures_of, sample_id, wanted
from penguin_training.data.batches import Batch
from penguin_training.data.loader import make_batch
from penguin_training.data.packing import PackingPlan
from penguin_training.data.samples import Example, Measured, SampleReader
from penguin_training.data.tabletop_source import open_scenes, read_scene
from penguin_training.data.worker_processes import worker_options
from penguin_training.run.training_state import Progress
from penguin_training.settings.data import DataFile
from penguin_training.settings.stage import StageSettings

_ROWS = 64
_ANNOTATIONS = (".json", ".jsonl", ".gz", ".zst")


class _Row(NamedTuple):
    """A sample of the stream: what it is called, and what reads it."""

    name: str
    read: Callable[[], Annotation]


@dataclass(frozen=True)
class Position:
    """Where a reader stands: the next micro-batch of a block of a pass over the data."""

    reader: int
    epoch: int = 0
    block: int = 0
    micro_batch: int = 0


class StreamedData:
    """The stage's files as one stream."""

    def __init__(self, settings: StageSettings, reader: SampleReader):
        """Opens the stream and reads its first sample.

        Raises:
            DataError: it cannot be opened or is empty, or a file is to be repeated.
            TabletopError: scenes cannot be rendered.
        """
        self._settings, self._reader = settings, reader
        for file in settings.data.files:
            if file.repeat != 1:
                raise DataError(
                    f"{file.name} is to be repeated {file.repeat:g} times, which a stream cannot; leave it 1"
                )
        fps = settings.data.fps
        self._scenes = [open_scenes(file.tabletop, fps) if file.tabletop else None for file in settings.data.files]
        self.first()

    def first(self) -> Batch:
        """The first micro-batch of the stream.

        Raises:
            DataError: there is none.
        """
        return next(self.micro_batches(Position(0), readers=1))

    def iterate(self, progress: Progress, rank: int, world: int, workers: int, pin: bool) -> Iterator[Batch]:
        """Micro-batches of one process, without end; each moves `progress.stream` on when it is taken.

        Args:
            progress: of the run, with the readers' positions where it is resumed.
            rank: of this process.
            world: number of processes.
            workers: processes that read; 0 reads in this one.
            pin: put tensors into page-locked memory.

        Raises:
            TrainingError: the run is resumed with another number of workers.
        """
        own = max(1, workers)
        state = progress.stream or {"next": 0, "positions": [[rank * own + i, 0, 0, 0] for i in range(own)]}
        if len(state["positions"]) != own:
            raise TrainingError(
                f"the run was stopped with data.workers {len(state['positions'])}, it is {workers} now; set it back"
            )
        # The loader asks its workers in turn, beginning with the first: that one takes up the reader whose turn it is.
        turn = state["next"]
        positions = [Position(*state["positions"][(turn + i) % own]) for i in range(own)]
        stream = _Stream(self, positions, world * own)
        own_seeds = torch.Generator()  # or it would draw from the run's own
        loader = DataLoader(stream, batch_size=None, pin_memory=pin, generator=own_seeds, **worker_options(workers))
        progress.stream = state
        return _taken(loader, state)

    def micro_batches(self, position: Position, readers: int) -> Iterator[Batch]:
        """Micro-batches of one reader from a position on, pass after pass, each with the position after it.

        Raises:
            DataError: the stream breaks off, or holds nothing for this reader.
        """
        while True:
            found = False
            for block, rows in self._blocks(position, readers):
                first = position.micro_batch if block == position.block else 0
                for number, read in enumerate(self._pack(rows, block, position.epoch)):
                    found = True
                    if number >= first:
                        yield replace(read(), position=(position.reader, position.epoch, block, number + 1))
            if not found and position.block == 0:
                raise DataError(f"the stream has nothing for reader {position.reader} of {readers}; lower data.block")
            position = Position(position.reader, position.epoch + 1)

    def _blocks(self, position: Position, readers: int) -> Iterator[tuple[int, list[_Row]]]:
        """The reader's blocks from a position on, with their numbers."""
        rows = self._rows()
        block, size = 0, self._settings.data.block
        while True:
            mine = block % readers == position.reader and block >= position.block
            if mine:
                taken = list(islice(rows, size))
                if not taken:
                    return
                yield block, taken
            elif next(islice(rows, size - 1, size), None) is None:
                return
            block += 1

    def _pack(self, rows: list[_Row], block: int, epoch: int) -> list[Any]:
        """Functions that read the micro-batches of a block; the first one also names what cannot be used."""
        measured: list[tuple[Annotation, Measured]] = []
        unusable: list[tuple[str, str]] = []
        for row in rows:
            try:
                annotation = row.read()
                measured.append((annotation, self._reader.measure(annotation)))
            except PenguinError as err:
                unusable.append((row.name, str(err)))
        if not measured:
            return [lambda: make_batch(self._reader, [], unusable)] if unusable else []
        sizes = np.array([m.size for _, m in measured], np.int64)
        seed = self._settings.engine.seed + block
        plan = PackingPlan(sizes, [(len(sizes), 1.0)], self._settings.budgets.tokens, seed)

        def read(numbers: Any, left_out: list[tuple[str, str]]) -> Batch:
            examples: list[Example] = []
            for annotation, known in (measured[i] for i in numbers):
                try:
                    examples.append(self._reader.encode(annotation, known))
                except PenguinError as err:
                    left_out = [*left_out, (annotation.id, str(err))]
            return make_batch(self._reader, examples, left_out)

        batches = plan.micro_batches(epoch)
        return [
            lambda numbers=numbers, left_out=unusable if i == 0 else []: read(numbers, left_out)
            for i, numbers in enumerate(batches)
        ]

    def _rows(self) -> Iterator[_Row]:
        """The samples of all files, one file after the other."""
        for file, scenes in zip(self._settings.data.files, self._scenes, strict=True):
            if scenes is None:
                yield from self._file_rows(file)
            elif file.tabletop:
                for number in range(file.tabletop.scenes):
                    yield _Row(f"tabletop:{number}", partial(read_scene, scenes, number))

    def _file_rows(self, file: DataFile) -> Iterator[_Row]:
        root, path = self._settings.data.root, file.name
        stream = _open_stream(path, Path(root or "."))
        pictures = Path(root or (Path(path).parent if _is_local(path) else "."))
        try:
            for number, raw in enumerate(_samples(stream, _holds_lines(path))):
                place = f"{Path(path).name}:{number + 1}"
                if isinstance(raw, DataError):
                    yield _Row(place, partial(_raise, raw))
                elif wanted(raw, file.only):
                    shown = raw if file.conversations else pictures_of(raw)
                    yield _Row(sample_id(raw, place), partial(parse_annotation, shown, pictures, place))
        except _stream_errors() as err:
            raise DataError(f"the stream {path} breaks off: {' '.join(str(err).split())[:200]}") from err


def _taken(loader: DataLoader[Any], state: dict[str, Any]) -> Iterator[Batch]:
    """What a loader gives, with the state moved on; raises what its workers could not."""
    for batch in loader:
        if isinstance(batch, PenguinError):
            raise batch
        state["positions"][state["next"]] = list(batch.position)
        state["next"] = (state["next"] + 1) % len(state["positions"])
        yield batch


class _Stream(IterableDataset[Any]):
    """Micro-batches of the reader that a worker process is; an error comes as the last value, to be raised whole."""

    def __init__(self, data: StreamedData, positions: list[Position], readers: int):
        self._data, self._positions, self._readers = data, positions, readers

    def __iter__(self) -> Iterator[Batch | PenguinError]:
        info = get_worker_info()
        try:
            yield from self._data.micro_batches(self._positions[info.id if info else 0], self._readers)
        except PenguinError as err:
            yield err


def _samples(stream: Any, are_lines: bool) -> Iterator[Any]:
    """Samples of a stream, all of them in every process: by itself `datasets` would share them among workers.

    A line that is no JSON comes as the DataError that says so.
    """
    for columns in stream.iter(batch_size=_ROWS):
        if are_lines:
            yield from (_parsed(line) for line in columns["text"] if line.strip())
            continue
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as err:
        return DataError(f"not JSON: {err}")


def _raise(error: DataError) -> Annotation:
    raise error


def _holds_lines(path: str) -> bool:
    """Whether it is an annotation file with one sample a line, and not a list of samples."""
    return path.endswith(_ANNOTATIONS) and not path.removesuffix(".gz").removesuffix(".zst").endswith(".json")


def _is_local(path: str) -> bool:
    """Whether it is a file of this machine, neither a URL nor a data set of the model hub."""
    return path.endswith(_ANNOTATIONS) and "://" not in path


def _open_stream(path: str, root: Path) -> Any:
    """A stream of raw samples, or of the lines that hold them.

    Raises:
        DataError: there is neither such a file nor such a data set.
    """
    import datasets  # slow to import, and not needed for indexed files

    try:
        if path.endswith(_ANNOTATIONS):
            place = str(root / path) if _is_local(path) else path
            options: dict[str, Any] = {"data_files": place, "split": "train", "streaming": True}
            if _holds_lines(path):
                # A byte that is no UTF-8 becomes `\xNN`, which is no JSON: its line is left out. For compressed files
                # and URLs `datasets` passes over this option, and the stream breaks off there.
                return datasets.load_dataset("text", encoding_errors="backslashreplace", **options)
            return datasets.load_dataset("json", **options)
        return datasets.load_dataset(path, split="train", streaming=True)
    except _stream_errors() as err:
        raise DataError(f"{path} cannot be streamed: {' '.join(str(err).split())[:200]}") from err


def _stream_errors() -> tuple[type[Exception], ...]:
    """What file systems, servers and parsers make of streams that are not there or not whole."""
    from datasets.exceptions import DatasetsError

    return (OSError, ValueError, TypeError, KeyError, DatasetsError)
