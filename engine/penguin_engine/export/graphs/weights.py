"""Weights of a checkpoint as blocks of rows in the type a graph wants, never more than one block in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from penguin_engine.export.graphs.graph import NUMPY_TYPES, Array
from penguin_models.errors import EngineError
from penguin_models.tensor_files import StoredTensor, read_tensors
from penguin_models.types import Float32Array

FLOAT16_LIMIT = 65504.0
"""Largest number of float16."""


class CheckpointWeights:
    """The tensors of a checkpoint by their names in `PenguinVL`."""

    def __init__(self, stored: Mapping[str, StoredTensor]):
        self._stored = stored

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._stored[name].shape

    def blocks(self, name: str, dtype: str) -> Iterator[Array]:
        """Rows of a tensor in turn, as numpy arrays of this type.

        Raises:
            EngineError: a number is beyond float16, infinite, or none.
        """
        for block in self.float_blocks(name):
            if dtype == "float16" and (largest := float(abs(block).max(initial=0.0))) > FLOAT16_LIMIT:
                raise EngineError(f"{name} holds {largest:g}, beyond float16 ({FLOAT16_LIMIT:g}); export bfloat16")
            yield block.astype(NUMPY_TYPES[dtype], copy=False)

    def float_blocks(self, name: str) -> Iterator[Float32Array]:
        """Rows of a tensor in turn, float32.

        Raises:
            EngineError: a number is infinite, or none.
        """
        for _, _, block in read_tensors({name: self._stored[name]}):
            rows = block.to(torch.float32)
            if not torch.isfinite(rows).all():
                raise EngineError(f"{name} holds numbers that are infinite or none; did the run that wrote it diverge?")
            yield rows.numpy()
