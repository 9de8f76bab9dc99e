"""Reads a checkpoint's weights as blocks of rows in the type a graph needs, one block in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from penguin_engine.export.graphs.graph import NUMPY_TYPES, Array
from penguin_models.errors import EngineError
from penguin_models.tensor_files import StoredTensor, read_tensors
from penguin_models.types import Float32Array

FLOAT16_LIMIT = 65504.0
"""Largest finite float16 number."""


class CheckpointWeights:
    """The tensors of a checkpoint by their names in `PenguinVL`."""

    def __init__(self, stored: Mapping[str, StoredTensor]):
        self._stored = stored

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor."""
        return self._stored[name].shape

    def blocks(self, name: str, dtype: str) -> Iterator[Array]:
        """Yields the rows of a tensor in blocks of this type; raises EngineError if one does not fit float16."""
        for block in self.float_blocks(name):
            if dtype == "float16" and (largest := float(abs(block).max(initial=0.0))) > FLOAT16_LIMIT:
                raise EngineError(
                    f"{name} contains {largest:g}, beyond the float16 limit of {FLOAT16_LIMIT:g}; export bfloat16"
                )
            yield block.astype(NUMPY_TYPES[dtype], copy=False)

    def float_blocks(self, name: str) -> Iterator[Float32Array]:
        """Yields the rows of a tensor in blocks, as float32; raises EngineError if one is infinite or NaN."""
        for _, _, block in read_tensors({name: self._stored[name]}):
            rows = block.to(torch.float32)
            if not torch.isfinite(rows).all():
                raise EngineError(
                    f"{name} contains infinite or NaN weights; check whether the training run of this checkpoint "
                    "diverged"
                )
            yield rows.numpy()
