"""What compiled plans need of a GPU, and the memory of a KV cache on it. The GPU itself is behind a protocol.

Addresses are plain integers; whoever holds a `Memory` keeps it allocated.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from penguin_engine.export.manifest import MASKED, DecoderShape
from penguin_engine.runtimes.exported import TOKENS_PER_STEP, Array
from penguin_engine.runtimes.tensorrt.shapes import BUCKET_TOKENS

_MASKED_BITS = int(np.float32(MASKED).view(np.uint32))
Shapes = dict[str, tuple[int, ...]]
Addresses = dict[str, int]


class Memory(Protocol):
    """Some memory of the GPU; freed when nobody holds it."""

    def __int__(self) -> int:
        """Its address."""
        ...


class Event(Protocol):
    """A mark on the stream."""

    def record(self) -> None:
        """Puts the mark behind all work that is on the stream now."""
        ...

    def wait(self) -> None:
        """Returns when the stream has reached the mark; at once if it was never put there."""
        ...


class Recorded(Protocol):
    """Work that was recorded and can be put onto the stream as one piece."""

    def launch(self) -> None:
        """Puts it onto the stream."""
        ...

    def close(self) -> None:
        """Frees it."""
        ...


class Gpu(Protocol):
    """A GPU with one stream, onto which everything is put in order."""

    def active(self) -> AbstractContextManager[None]:
        """Makes the device current in this thread; everything else happens inside."""
        ...

    def allocate(self, size: int) -> Memory:
        """So many bytes."""
        ...

    def page_locked(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Host memory that the GPU reads and writes by itself."""
        ...

    def event(self) -> Event:
        """A mark that is not on the stream yet."""
        ...

    def to_device(self, target: int, source: Array) -> None:
        """Copies page-locked memory to the GPU."""
        ...

    def to_host(self, target: Array, source: int) -> None:
        """Copies from the GPU into page-locked memory."""
        ...

    def copy(self, target: int, source: int, size: int) -> None:
        """Copies bytes on the GPU."""
        ...

    def copy_rows(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        """Copies `rows` pieces of `width` bytes that lie a pitch apart."""
        ...

    def fill(self, target: int, bits: int, count: int) -> None:
        """Writes `count` times the same 32 bits."""
        ...

    def record(self, work: Callable[[], None]) -> Recorded:
        """Records what `work` puts onto the stream, without running it."""
        ...

    def wait(self) -> None:
        """Returns when the stream is empty."""
        ...


class Execution(Protocol):
    """What runs a compiled graph. One that was recorded must not be used for anything else."""

    def run(self, shapes: Shapes, addresses: Addresses) -> None:
        """Puts one execution onto the stream: shapes of the inputs, addresses of inputs and outputs."""
        ...


class Plan(Protocol):
    """A compiled graph."""

    def execution(self, profile: int) -> Execution:
        """What runs it in one of its profiles."""
        ...


class CacheMemory(Protocol):
    """The memory of a KV cache."""

    def prepare(self, length: int) -> None:
        """Before a step behind `length` tokens."""
        ...

    def extend(self, length: int, new: int) -> None:
        """After a step that put `new` tokens behind `length`."""
        ...

    def shapes(self, length: int) -> Shapes:
        """Of the plan's inputs, for a step behind `length` tokens."""
        ...

    def addresses(self) -> Addresses:
        """Of the plan's inputs and outputs; they never change."""
        ...

    def kind(self, length: int) -> int:
        """Steps of one kind have the same shapes."""
        ...


class BufferMemory:
    """Buffers [1, kv_heads, capacity, head_dim] that the plan updates by itself: output and input are one."""

    def __init__(self, shape: DecoderShape, capacity: int, itemsize: int, gpu: Gpu):
        names = [f"{name}_{layer}" for layer in range(shape.layers) for name in ("key", "value")]
        size = shape.kv_heads * capacity * shape.head_dim * itemsize
        self._buffers = {name: gpu.allocate(size) for name in names}
        for buffer in self._buffers.values():
            gpu.fill(int(buffer), 0, size // 4)  # what is masked must be a number all the same
        self._addresses = {
            f"{side}_{name}": int(buffer) for name, buffer in self._buffers.items() for side in ("past", "present")
        }
        self._shapes: Shapes = {f"past_{name}": (1, shape.kv_heads, capacity, shape.head_dim) for name in names}

    def prepare(self, length: int) -> None:
        """Nothing: the positions hide what lies behind `length`."""

    def extend(self, length: int, new: int) -> None:
        """Nothing: the plan has written."""

    def shapes(self, length: int) -> Shapes:
        """Always the same."""
        return self._shapes

    def addresses(self) -> Addresses:
        """Each output is its input."""
        return self._addresses

    def kind(self, length: int) -> int:
        """There is one kind."""
        return 0


class RowMemory:
    """Rows [capacity, kv_heads, head_dim] for each layer, and a mask that hides those that are not held.

    The plan sees a whole number of buckets. Its new rows go aside and then, in one strided copy, to their places: what
    is held is never copied.
    """

    def __init__(self, shape: DecoderShape, max_length: int, itemsize: int, gpu: Gpu):
        capacity = self.kind(max_length) * BUCKET_TOKENS
        self._gpu, self._row = gpu, (shape.kv_heads, shape.head_dim)
        self._row_bytes = shape.kv_heads * shape.head_dim * itemsize
        self._pitch, self._new_pitch = capacity * self._row_bytes, TOKENS_PER_STEP * self._row_bytes
        self._names = [f"{name}_{layer}" for layer in range(shape.layers) for name in ("key", "value")]
        self._rows = gpu.allocate(len(self._names) * self._pitch)
        self._new = gpu.allocate(len(self._names) * self._new_pitch)
        self._mask = gpu.allocate(4 * capacity)
        gpu.fill(int(self._rows), 0, len(self._names) * self._pitch // 4)  # masked, but it must be numbers
        gpu.fill(int(self._mask), _MASKED_BITS, capacity)
        self._shown = 0

    def prepare(self, length: int) -> None:
        """Hides what was forgotten since the last step."""
        if length < self._shown:
            self._gpu.fill(int(self._mask) + 4 * length, _MASKED_BITS, self._shown - length)
            self._shown = length

    def extend(self, length: int, new: int) -> None:
        """Copies the new rows of all layers behind the held ones, and shows them."""
        target, width = int(self._rows) + length * self._row_bytes, new * self._row_bytes
        self._gpu.copy_rows(target, self._pitch, int(self._new), self._new_pitch, width, len(self._names))
        self._gpu.fill(int(self._mask) + 4 * length, 0, new)
        self._shown = length + new

    def shapes(self, length: int) -> Shapes:
        """As many rows as there are in the buckets that are begun."""
        past = self.kind(length) * BUCKET_TOKENS
        shapes: Shapes = {f"past_{name}": (past, *self._row) for name in self._names}
        return shapes | {"past_mask": (past,)}

    def addresses(self) -> Addresses:
        """Rows that are held and rows that are new."""
        held = {f"past_{name}": int(self._rows) + i * self._pitch for i, name in enumerate(self._names)}
        new = {f"new_{name}": int(self._new) + i * self._new_pitch for i, name in enumerate(self._names)}
        return held | new | {"past_mask": int(self._mask)}

    def kind(self, length: int) -> int:
        """Buckets that are begun, at least one."""
        return -(-max(length, 1) // BUCKET_TOKENS)
