"""How the KV cache of a compiled decoder lies in GPU memory, for each of the two cache layouts of exported graphs."""

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


class BufferMemory:
    """Buffers [1, kv_heads, capacity, head_dim] that the plan updates in place: each output is also an input."""

    def __init__(self, shape: DecoderShape, capacity: int, itemsize: int, gpu: CudaDevice):
        size = shape.kv_heads * capacity * shape.head_dim * itemsize
        self._buffers = {name: gpu.allocate(size) for name in shape.cache_names}
        for buffer in self._buffers.values():
            gpu.fill(int(buffer), 0, size // 4)  # masked values must not be NaN
        self._addresses = {
            f"{side}_{name}": int(buffer) for name, buffer in self._buffers.items() for side in ("past", "present")
        }
        buffer_shape = (1, shape.kv_heads, capacity, shape.head_dim)
        self._shapes: Shapes = {f"past_{name}": buffer_shape for name in shape.cache_names}

    def prepare(self, length: int) -> None:
        """Does nothing: the plan masks rows by their positions."""

    def extend(self, length: int, new: int) -> None:
        """Does nothing: the plan has written the new rows."""

    def shapes(self, length: int) -> Shapes:
        """Returns the shapes of the plan's inputs, which never change."""
        return self._shapes

    def addresses(self) -> Addresses:
        """Returns the addresses of the plan's inputs and outputs, which never change."""
        return self._addresses

    def bucket(self, length: int) -> int:
        """Returns the same number for every length, because the shapes never change."""
        return 0


class RowMemory:
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


CacheMemory: TypeAlias = BufferMemory | RowMemory
