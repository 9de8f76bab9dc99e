"""A CUDA device with one stream, through pycuda: memory, copies, events and graphs.

pycuda frees memory, streams and events when their last reference is dropped. But in a thread in which their context is
not current, unless that thread created the context, it fails silently and leaks them. Visual tokens are dropped in any
thread at any time, so what is dropped is queued and freed when the device is next used.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from penguin_engine.runtimes.exported import Array
from penguin_engine.runtimes.tensorrt.cuda_graph import CudaGraph
from penguin_models.errors import EngineError

try:
    import pycuda.driver as cuda
except ImportError as err:  # mostly because there is no libcuda.so.1
    raise EngineError(f"pycuda cannot be loaded ({err}); check that there is an NVIDIA GPU and its driver") from err


class CudaDevice:
    """A CUDA device with its primary context and one stream, on which all work is executed in order.

    Everything except `machine` needs the device to be current in the thread; see `active`. Addresses are integers, and
    memory stays allocated as long as its `DeviceMemory` is referenced.
    """

    def __init__(self, device: str):
        kind, _, index = device.partition(":")
        if kind != "cuda" or not (index or "0").isdigit():
            raise EngineError(f"device {device!r} is unknown to the tensorrt runtime; choose cuda, cuda:1, ...")
        try:
            cuda.init()
        except cuda.Error as err:
            raise EngineError(f"CUDA cannot be started ({err}); check that there is a GPU and its driver") from err
        self.index = int(index or 0)
        if self.index >= cuda.Device.count():
            raise EngineError(f"device {device!r} does not exist: CUDA finds {cuda.Device.count()} GPUs")
        self._device = cuda.Device(self.index)
        self._context = self._device.retain_primary_context()
        self._dropped = _Dropped(self._context)
        with self.active():
            self._streams = [cuda.Stream()]
        self._dropped.free_later(self, self._streams.clear)

    @property
    def stream(self) -> Any:
        """The stream."""
        return self._streams[0]

    @property
    def name(self) -> str:
        """Name of the GPU."""
        return str(self._device.name())

    @property
    def compute_capability(self) -> str:
        """Compute capability, for example "8.7"."""
        major, minor = self._device.compute_capability()
        return f"{major}.{minor}"

    @contextmanager
    def active(self) -> Iterator[None]:
        """Makes the device current in this thread, and frees what was dropped."""
        with _current(self._context):
            self._dropped.free()
            try:
                yield
            finally:
                self._dropped.free()

    def allocate(self, size: int) -> DeviceMemory:
        """Allocates `size` bytes of GPU memory; raises EngineError if not enough is free."""
        try:
            return DeviceMemory(cuda.mem_alloc(size), self._dropped)
        except cuda.MemoryError as err:
            raise EngineError(f"the GPU has no {size / 2**20:.0f} MiB left; lower the token budget") from err

    def page_locked(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Allocates host memory that the GPU can access directly."""
        memory: Any = cuda.pagelocked_empty(shape, dtype)
        view: Array = memory.view()  # pycuda's own array refers to the object that frees it
        self._dropped.free_later(view, memory.base.free)
        return view

    def event(self) -> CudaEvent:
        """Creates an event that is not recorded yet."""
        return CudaEvent(self.stream, self._dropped)

    def to_device(self, target: int, source: Array) -> None:
        """Copies page-locked memory to the GPU."""
        cuda.memcpy_htod_async(target, source, self.stream)

    def to_host(self, target: Array, source: int) -> None:
        """Copies GPU memory to page-locked memory."""
        cuda.memcpy_dtoh_async(target, source, self.stream)

    def copy(self, target: int, source: int, size: int) -> None:
        """Copies bytes within the GPU."""
        cuda.memcpy_dtod_async(target, source, size, self.stream)

    def copy_rows(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        """Copies `rows` rows of `width` bytes within the GPU; rows start one pitch apart."""
        copy = cuda.Memcpy2D()
        copy.set_src_device(source)
        copy.set_dst_device(target)
        copy.src_pitch, copy.dst_pitch = source_pitch, target_pitch
        copy.width_in_bytes, copy.height = width, rows
        copy(self.stream)

    def fill(self, target: int, bits: int, count: int) -> None:
        """Writes the same 32 bits `count` times."""
        cuda.memset_d32_async(target, bits, count, self.stream)

    def record(self, work: Callable[[], None]) -> CudaGraph:
        """Records the work that a function enqueues on the stream, without executing it."""
        return CudaGraph(self.stream.handle, work)

    def wait(self) -> None:
        """Waits until the stream is empty."""
        self.stream.synchronize()


class DeviceMemory:
    """GPU memory, which is freed when the device is next used after the last reference was dropped."""

    def __init__(self, allocation: Any, dropped: _Dropped):
        self._address = int(allocation)
        dropped.free_later(self, allocation.free)

    def __int__(self) -> int:
        return self._address


class CudaEvent:
    """A point in the stream that can be waited for."""

    def __init__(self, stream: Any, dropped: _Dropped):
        self._stream, self._events = stream, [cuda.Event()]
        dropped.free_later(self, self._events.clear)

    def record(self) -> None:
        """Marks the end of all work that is on the stream now."""
        self._events[0].record(self._stream)

    def wait(self) -> None:
        """Waits until the stream has reached the mark; returns at once if there is none."""
        self._events[0].synchronize()


_Free: TypeAlias = Callable[[], object]


class _Dropped:
    """A queue of functions that free dropped objects, to be called while their context is current."""

    def __init__(self, context: Any):
        self._queue: deque[_Free] = deque()
        last = weakref.finalize(self, _free_last, context, self._queue)
        last.atexit = False  # the context may be gone at exit, and the process returns everything anyway

    def free_later(self, owner: object, free: _Free) -> None:
        """Queues `free`, which must not refer to the owner, when the last reference to the owner is dropped."""
        weakref.finalize(owner, self._enqueue, free).atexit = False  # the method keeps this queue alive until then

    def free(self) -> None:
        """Frees what is queued; the context must be current, and its stream not being recorded."""
        _free(self._queue)

    def _enqueue(self, free: _Free) -> None:
        self._queue.append(free)


def _free(queue: deque[_Free]) -> None:
    while queue:
        queue.popleft()()


def _free_last(context: Any, queue: deque[_Free]) -> None:
    with _current(context):
        _free(queue)


@contextmanager
def _current(context: Any) -> Iterator[None]:
    context.push()
    try:
        yield
    finally:
        cuda.Context.pop()
