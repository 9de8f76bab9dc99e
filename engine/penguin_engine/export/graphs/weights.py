"""Reads a checkpoint's weights as blocks of rows in the type a graph needs, one block in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from penguin_engine.export.graphs.graph import NUMPY_TYPES, Array
from penguin_engine.export.progress import Phase, Progress, silent
from penguin_models.errors import EngineError
from penguin_models.tensor_files import StoredTensor, read_tensors
from penguin_models.types import Float32Array

FLOAT16_LIMIT = 65504.0
"""Largest finite float16 number."""


class CheckpointWeights:
    """The tensors of a checkpoint by their names in `PenguinVL`; reports how much of each phase has been read."""

    def __init__(self, stored: Mapping[str, StoredTensor], show: Progress = silent):
        self._stored, self._show = stored, show
        self._phase: Phase | None = None
        self._counted: set[str] = set()  # tensors that were read in this phase

    def begin(self, phase: str, prefix: str) -> None:
        """Starts a phase in which the tensors are read whose names start like this."""
        sizes = [math.prod(tensor.shape) for name, tensor in self._stored.items() if name.startswith(prefix)]
        self._phase, self._counted = Phase(self._show, phase, sum(sizes)), set()

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor."""
        return self._stored[name].shape

    def blocks(self, name: str, dtype: str) -> Iterator[Array]:
        """Yields the rows of a tensor in blocks of this type; raises EngineError if one does not fit float16."""
        for rows, largest in self._checked(name):
            if dtype == "float16" and largest > FLOAT16_LIMIT:
                raise EngineError(
                    f"{name} contains {largest:g}, beyond the float16 limit of {FLOAT16_LIMIT:g}; export bfloat16"
                )
            if dtype == "bfloat16":  # torch converts faster than numpy, but numpy has no type for the result
                yield rows.to(torch.bfloat16).view(torch.int16).numpy().view(NUMPY_TYPES[dtype])
            else:
                yield rows.to(getattr(torch, dtype)).numpy()

    def float_blocks(self, name: str) -> Iterator[Float32Array]:
        """Yields the rows of a tensor in blocks, as float32; raises EngineError if one is infinite or NaN."""
        return (rows.numpy() for rows, _ in self._checked(name))

    def _checked(self, name: str) -> Iterator[tuple[Tensor, float]]:
        """Yields the rows of a tensor in float32 blocks, and the largest absolute value of each."""
        for _, _, block in read_tensors({name: self._stored[name]}):
            rows = block.to(torch.float32)
            low, high = rows.aminmax()  # NaN if any weight is
            largest = max(-float(low), float(high))
            if not math.isfinite(largest):
                raise EngineError(
                    f"{name} contains infinite or NaN weights; check whether the training run of this checkpoint "
                    "diverged"
                )
            yield rows, largest
            if self._phase is not None and name not in self._counted:
                self._phase.add(rows.numel())
        self._counted.add(name)
