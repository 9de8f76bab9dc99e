"""Annotation files with length indexes: a packing plan says which samples share a micro-batch, workers read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from penguin_models.errors import DataError
from penguin_models.types import Int64Array
from penguin_training.data.annotations import AnnotationFile
from penguin_training.data.batch import Batch, read_batch
from penguin_training.data.length_index import LengthIndex
from penguin_training.data.packing import PackingPlan
from penguin_training.data.sample_reader import SampleReader
from penguin_training.data.worker_processes import worker_options
from penguin_training.settings.stage import StageSettings

_PREFETCHED = 4  # micro-batches per worker
_SCANNED = 2000  # micro-batches among which the largest is looked for


@dataclass(frozen=True, eq=False)
class IndexedData(Dataset[Batch]):
    """The annotation files of a stage with their length indexes, and the plan of their micro-batches."""

    settings: StageSettings
    files: list[tuple[AnnotationFile, LengthIndex]]
    plan: PackingPlan
    reader: SampleReader

    @property
    def micro_batches_per_epoch(self) -> int:
        """Micro-batches of the first epoch, summed over all processes."""
        return len(self.plan.micro_batches(0))

    @cached_property
    def steps(self) -> int:
        """Optimiser steps of the stage; raises DataError if there is too little data for one."""
        schedule, per_step = self.settings.schedule, self.settings.budgets.micro_batches
        if schedule.steps is not None:
            return schedule.steps
        whole, part = divmod(float(schedule.epochs or 0), 1)
        micro_batches = sum(len(self.plan.micro_batches(epoch)) for epoch in range(int(whole)))
        if part:
            micro_batches += int(part * len(self.plan.micro_batches(int(whole))))
        if micro_batches < per_step:
            raise DataError(
                f"{schedule.epochs:g} epochs make {micro_batches} micro-batches, but one step takes {per_step}; "
                "lower budgets.micro_batches or train for more epochs"
            )
        return micro_batches // per_step

    @property
    def unusable(self) -> list[tuple[str, str]]:
        """(id, reason) of the samples that the indexes leave out."""
        return [entry for _, index in self.files for entry in index.unusable.values()]

    @property
    def digests(self) -> list[str]:
        """Hashes of the files and the lengths of their samples."""
        return [index.digest for _, index in self.files]

    def __getitem__(self, numbers: Int64Array) -> Batch:
        """Reads the samples of a micro-batch; those that cannot be read are left out and named."""
        places = map(self._locate, numbers)
        return read_batch(self.reader, ((file[row], index[row]) for file, index, row in places))

    def sample_batch(self) -> Batch:
        """Reads the micro-batch with the most patches, of the first ones of the first epoch."""
        patches = np.concatenate([index.patches for _, index in self.files])
        candidates = self.plan.micro_batches(0)[:_SCANNED]
        return self[max(candidates, key=lambda numbers: (patches[numbers].sum(), self.plan.size(numbers)))]

    def batches(self, step: int, state: dict[str, Any], rank: int, world: int) -> Iterator[Batch]:
        """Returns the micro-batches of process `rank` of `world` from an optimiser step on, without end."""
        workers = self.settings.data.workers
        start = step * self.settings.budgets.micro_batches + rank
        return iter(
            DataLoader(
                self,
                sampler=_micro_batches_from(self.plan, start, world),
                batch_size=None,
                prefetch_factor=_PREFETCHED if workers else None,
                pin_memory=torch.cuda.is_available(),
                generator=torch.Generator(),  # or it would draw from the run's own
                **worker_options(workers),
            )
        )

    def _locate(self, number: int) -> tuple[AnnotationFile, LengthIndex, int]:
        for file, index in self.files:
            if number < len(file):
                return file, index, int(number)
            number -= len(file)
        raise IndexError(number)


def _micro_batches_from(plan: PackingPlan, position: int, world: int) -> Iterator[Int64Array]:
    """Yields the sample numbers of every `world`-th micro-batch, epoch after epoch, without end."""
    for epoch in count():
        batches = plan.micro_batches(epoch)
        while position < len(batches):
            yield batches[position]
            position += world
        position -= len(batches)
