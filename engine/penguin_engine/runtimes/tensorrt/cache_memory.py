"""The KV cache of a compiled decoder in GPU memory."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from penguin_engine.export.manifest import MASKED, DecoderShape
from penguin_engine.runtimes.exported import TOKENS_PER_STEP
from penguin_engine.runtimes.tensorrt.cuda_device import CudaDevice
from penguin_engine.runtimes.tensorrt.shapes import BUCKET_TOKENS

_MASKED_BITS = int(np.float32(MASKED).view(np.uint32))
Shapes: TypeAlias = dict[str, tuple[int, ...]]
Addresses: TypeAlias = dict[str, int]


class CacheMemory:
    """Rows [capacity, kv_heads, head_dim] per layer, and a mask over rows that are not cached tokens.

    The plan sees a whole number of buckets. It writes new rows to separate memory, and one strided copy moves them to
    their places, so cached tokens are never copied.
    """

    def __init__(self, shape: DecoderShape, max_length: int, itemsize: int, gpu: CudaDevice):
        capacity = self.bucket(max_length) * BUCKET_TOKENS
        self._gpu, self._row = gpu, (shape.kv_heads, shape.head_dim)
        self._row_bytes = shape.kv_heads * shape.head_dim * itemsize
        self._pitch, self._new_pitch = capacity * self._row_bytes, TOKENS_PER_STEP * self._row_bytes
        self._names = shape.cache_names
        self._rows = gpu.allocate(len(self._names) * self._pitch)
        self._new = gpu.allocate(len(self._names) * self._new_pitch)
        self._mask = gpu.allocate(4 * capacity)
        gpu.fill(int(self._rows), 0, len(self._names) * self._pitch // 4)  # masked values must not be NaN
        gpu.fill(int(self._mask), _MASKED_BITS, capacity)
        self._unmasked = 0

    def prepare(self, length: int) -> None:
        """Before a step after `length` tokens: masks rows that were truncated since the last step."""
        if length < self._unmasked:
            self._gpu.fill(int(self._mask) + 4 * length, _MASKED_BITS, self._unmasked - length)
            self._unmasked = length

    def extend(self, length: int, new: int) -> None:
        """After a step: copies the new rows of all layers to their places after `length` tokens and unmasks them."""
        target, width = int(self._rows) + length * self._row_bytes, new * self._row_bytes
        self._gpu.copy_rows(target, self._pitch, int(self._new), self._new_pitch, width, len(self._names))
        self._gpu.fill(int(self._mask) + 4 * length, 0, new)
        self._unmasked = length + new

    def shapes(self, length: int) -> Shapes:
        """Returns the shapes of the plan's inputs for a step after `length` tokens."""
        past = self.bucket(length) * BUCKET_TOKENS
        shapes: Shapes = {f"past_{name}": (past, *self._row) for name in self._names}
        return shapes | {"past_mask": (past,)}

    def addresses(self) -> Addresses:
        """Returns the addresses of the plan's inputs and outputs, which never change."""
        past = {f"past_{name}": int(self._rows) + i * self._pitch for i, name in enumerate(self._names)}
        new = {f"new_{name}": int(self._new) + i * self._new_pitch for i, name in enumerate(self._names)}
        return past | new | {"past_mask": int(self._mask)}

    def bucket(self, length: int) -> int:
        """Returns the number of buckets that `length` tokens need, at least 1; it determines the shapes of a step."""
        return -(-max(length, 1) // BUCKET_TOKENS)
