"""Micro-batches for one process: what the packing plan says, read by worker processes, from any position on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from penguin_models.errors import DataError, PenguinError
from penguin_models.types import Int64Array
from penguin_training.data.annotations import AnnotationFile
from penguin_training.data.batches import Batch, collate
from penguin_training.data.length_index import LengthIndex
from penguin_training.data.packing import PackingPlan
from penguin_training.data.samples import Example, SampleReader
from penguin_training.data.worker_processes import worker_options

_PREFETCHED = 4  # micro-batches per worker


@dataclass(frozen=True, eq=False)
class IndexedData:
    """Annotation files with their length indexes.

    Attributes:
        files: with the index of each.
        plan: which samples share a micro-batch.
        reader: encodes them.
    """

    files: list[tuple[AnnotationFile, LengthIndex]]
    plan: PackingPlan
    reader: SampleReader

    @property
    def samples(self) -> int:
        """Samples of all files, usable or not."""
        return sum(len(file) for file, _ in self.files)

    def unusable(self) -> list[tuple[str, str]]:
        """(id, reason) of samples that the indexes leave out."""
        return [entry for _, index in self.files for entry in index.unusable.values()]

    def patches(self, numbers: Sequence[int]) -> int:
        """Patches of a micro-batch with these samples."""
        total = 0
        for number in numbers:
            file, row = self.locate(number)
            total += int(self.files[file][1].patches[row])
        return total

    def locate(self, number: int) -> tuple[int, int]:
        """File and row of a sample number."""
        for position, (file, _) in enumerate(self.files):
            if number < len(file):
                return position, number
            number -= len(file)
        raise IndexError(number)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Reads the samples of a micro-batch; those that cannot be read are left out and named."""
        examples: list[Example] = []
        unusable: list[tuple[str, str]] = []
        for number in numbers:
            file, row = self.locate(int(number))
            annotations, index = self.files[file]
            try:
                examples.append(self.reader.encode(annotations[row], index[row]))
            except PenguinError as err:
                unusable.append((annotations.name(row), str(err)))
        return make_batch(self.reader, examples, unusable)


def make_batch(reader: SampleReader, examples: Sequence[Example], unusable: Sequence[tuple[str, str]]) -> Batch:
    """Packs samples with what is known of the model."""
    patch_dim = 3 * reader.processor.images.patch_size**2
    return collate(examples, reader.processor.image_token_id, patch_dim, unusable, reader.data.answer_balance)


class _MicroBatches(Dataset[Batch]):
    def __init__(self, data: IndexedData):
        self._data = data

    def __getitem__(self, numbers: Any) -> Batch:
        return self._data.batch(numbers)


class _FromPosition(Sampler[Any]):
    """Sample numbers of every `world`-th micro-batch, epoch after epoch, without end."""

    def __init__(self, plan: PackingPlan, start: int, world: int):
        self._plan, self._start, self._world = plan, start, world

    def __iter__(self) -> Iterator[Int64Array]:
        epoch, position = 0, self._start
        while True:
            batches = self._plan.micro_batches(epoch)
            while position < len(batches):
                yield batches[position]
                position += self._world
            position -= len(batches)
            epoch += 1


def iterate(data: IndexedData, start: int, rank: int, world: int, workers: int, pin: bool) -> Iterator[Batch]:
    """Micro-batches of one process, without end.

    Args:
        data: what is read.
        start: micro-batches, of all processes together, that were consumed before.
        rank: of this process.
        world: number of processes.
        workers: processes that read; 0 reads in this one.
        pin: put tensors into page-locked memory.
    """
    return iter(
        DataLoader(
            _MicroBatches(data),
            sampler=_FromPosition(data.plan, start + rank, world),
            batch_size=None,
            prefetch_factor=_PREFETCHED if workers else None,
            pin_memory=pin,
            generator=torch.Generator(),  # or it would draw from the run's own
            **worker_options(workers),
        )
    )


def check_unusable(unusable: int, read: int, max_share: float, example: tuple[str, str]) -> None:
    """Raises DataError where too many samples cannot be used.

    Args:
        unusable: samples left out.
        read: samples read, those included; fewer than 200 count as 200, so that one bad sample is no majority.
        max_share: the limit.
        example: (id, reason) of one of them.
    """
    if unusable > max_share * max(read, 200):
        raise DataError(
            f"{unusable} of {read} samples cannot be used, data.max_bad_share allows {max_share:.2%}; "
            f"for example {example[0]}: {example[1]}"
        )
