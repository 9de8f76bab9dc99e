"""Fakes of `pycuda.driver` and libcuda, which cannot run here because they need an NVIDIA GPU and its driver.

GPU memory is host memory whose bounds are checked, and work on a stream runs immediately. The fakes check what the
manuals require: page-locked memory, addresses inside one allocation, a context that is current in the thread. They do
not prove that the code runs on a GPU.
"""

import ctypes
import itertools
import threading
import types
import weakref
from collections import defaultdict
from importlib.machinery import ModuleSpec

import numpy as np

ALIGNMENT = 256
GPUS = (["Orin", "8.7"], ["Thor", "11.0"])
"""Name and compute capability of each GPU."""


class Device:
    """The simulated state of the GPUs.

    Attributes:
        blocks: Allocated memory by address.
        lost: Descriptions of objects dropped while their context was not current, which pycuda would leak.
        broken: Message with which CUDA fails to start; empty if it starts.
        limit: Largest possible allocation in bytes.
    """

    def __init__(self):
        self.blocks = {}
        self.lost = []
        self.broken = ""
        self._pushed = defaultdict(list)
        self.capturing = None
        self.limit = 2**40
        self.copied_bytes = 0
        self.launches = 0
        self.executions = []

    @property
    def current(self):
        """The GPU whose context is current in this thread, or None."""
        pushed = self._pushed[threading.get_ident()]
        return pushed[-1] if pushed else None

    def push(self, index):
        self._pushed[threading.get_ident()].append(index)

    def pop(self):
        self._pushed[threading.get_ident()].pop()

    def check_current(self):
        assert self.current is not None, "no context is current"

    def allocate(self, size):
        self.check_current()
        assert size > 0
        if size > self.limit:
            raise FakeMemoryError("out of memory")
        raw = np.full(size + ALIGNMENT, 0xFF, np.uint8)  # 0xFFFF is NaN in every float type
        address = -(-raw.ctypes.data // ALIGNMENT) * ALIGNMENT
        self.blocks[address] = (size, raw, self.current)
        return address

    def release(self, what, gpu, address=None):
        """Frees an object of a context, or records that it leaked: a finaliser cannot raise."""
        if self.current != gpu or self.capturing is not None:
            self.lost.append(what)
        elif address is not None:
            del self.blocks[address]

    def check(self, address, size):
        self.check_current()
        for start, (length, _, gpu) in self.blocks.items():
            if start <= address < start + length:
                assert gpu == self.current, f"memory of GPU {gpu} while {self.current} is current"
                assert address + size <= start + length, (
                    f"{size} bytes exceed the allocation by {address + size - start - length}"
                )
                return
        raise AssertionError(f"address {address:#x} is not allocated")

    def do(self, work):
        """Runs work on the stream, or records it while a graph is captured."""
        self.check_current()
        work() if self.capturing is None else self.capturing.append(work)


class FakeError(Exception):
    pass


class FakeMemoryError(FakeError):
    pass


class Owned:
    """An object owned by a context and freed when it is dropped."""

    def __init__(self, device, what, address=None):
        device.check_current()
        self._free = weakref.finalize(self, device.release, what, device.current, address)
        self._free.atexit = False

    def free(self):
        self._free()


class Allocation(Owned):
    def __init__(self, device, size):
        self._address = device.allocate(size)
        super().__init__(device, f"{size} bytes", self._address)

    def __int__(self):
        return self._address


class PageLocked(Owned):
    """Page-locked host memory; the arrays that use it have it as their base."""

    def __init__(self, device, shape, dtype):
        self._memory = np.empty(shape, dtype)
        self.__array_interface__ = self._memory.__array_interface__
        super().__init__(device, f"{self._memory.nbytes} page-locked bytes")


def fake_pycuda(device):
    """Returns a module with the functions of `pycuda.driver` that the product uses."""
    locked = {}

    def init():
        if device.broken:
            raise FakeError(device.broken)

    def pagelocked_empty(shape, dtype):
        memory = PageLocked(device, shape, dtype)
        array = np.asarray(memory)
        assert array.base is memory
        locked[array.ctypes.data] = array.nbytes
        weakref.finalize(memory, locked.pop, array.ctypes.data).atexit = False
        return array

    def check_locked(array):
        start, end = array.ctypes.data, array.ctypes.data + array.nbytes
        assert array.flags.c_contiguous
        assert any(base <= start and end <= base + size for base, size in locked.items()), "not page-locked"

    def memcpy_htod_async(dest, src, stream=None):
        check_locked(src)
        device.check(int(dest), src.nbytes)
        device.do(lambda: ctypes.memmove(int(dest), src.ctypes.data, src.nbytes))

    def memcpy_dtoh_async(dest, src, stream=None):
        check_locked(dest)
        device.check(int(src), dest.nbytes)
        device.do(lambda: ctypes.memmove(dest.ctypes.data, int(src), dest.nbytes))

    def memcpy_dtod_async(dest, src, size, stream=None):
        device.check(int(dest), size)
        device.check(int(src), size)
        device.copied_bytes += size
        device.do(lambda: ctypes.memmove(int(dest), int(src), size))

    def memset_d32_async(dest, data, count, stream=None):
        device.check(int(dest), 4 * count)
        device.do(lambda: np.copyto(view(int(dest), (count,), np.uint32), np.uint32(data)))

    class Memcpy2D:
        def set_src_device(self, address):
            self.source = int(address)

        def set_dst_device(self, address):
            self.target = int(address)

        def __call__(self, stream):
            span = (self.height - 1) * np.array([self.src_pitch, self.dst_pitch]) + self.width_in_bytes
            assert self.width_in_bytes <= min(self.src_pitch, self.dst_pitch)
            device.check(self.source, int(span[0]))
            device.check(self.target, int(span[1]))
            device.copied_bytes += self.height * self.width_in_bytes
            steps = [
                (self.target + row * self.dst_pitch, self.source + row * self.src_pitch) for row in range(self.height)
            ]
            device.do(lambda: [ctypes.memmove(to, start, self.width_in_bytes) for to, start in steps])

    class Context:
        def __init__(self, index):
            self._index = index

        def push(self):
            device.push(self._index)

        @staticmethod
        def pop():
            device.pop()

    class Stream(Owned):
        handle = 4711

        def __init__(self):
            super().__init__(device, "a stream")

        def synchronize(self):
            assert device.capturing is None, "a stream must not be synchronised while it is captured"

    class Event(Owned):
        def __init__(self):
            super().__init__(device, "an event")

        def record(self, stream):
            assert isinstance(stream, Stream)

        def synchronize(self):
            assert device.capturing is None

    class CudaDevice:
        def __init__(self, index):
            self._index = index

        @staticmethod
        def count():
            return len(GPUS)

        def name(self):
            return GPUS[self._index][0]

        def compute_capability(self):
            return tuple(map(int, GPUS[self._index][1].split(".")))

        def retain_primary_context(self):
            return Context(self._index)

    module = new_module("pycuda.driver")
    module.init, module.Error = init, FakeError
    module.mem_alloc = lambda size: Allocation(device, size)
    module.MemoryError = FakeMemoryError
    module.Device, module.Context, module.Stream, module.Event = CudaDevice, Context, Stream, Event
    for function in (pagelocked_empty, memcpy_htod_async, memcpy_dtoh_async, memcpy_dtod_async, memset_d32_async):
        setattr(module, function.__name__, function)
    module.Memcpy2D = Memcpy2D
    return module


class FakeDriver:
    """The graph functions of libcuda.

    Attributes:
        graphs: Captured graphs by handle, until they are destroyed.
        executables: Executable graphs by handle, until they are destroyed.
        fail: Name of the function that returns an error; empty for none.
    """

    def __init__(self, device):
        self._device, self._handles = device, itertools.count(1)
        self.graphs, self.executables = {}, {}
        self.fail = ""

    def __getattr__(self, name):
        steps = {
            "cuStreamBeginCapture_v2": self._begin,
            "cuStreamEndCapture": self._end,
            "cuGraphInstantiateWithFlags": self._instantiate,
            "cuGraphLaunch": self._launch,
            "cuGraphExecDestroy": lambda executable: self.executables.pop(executable.value),
            "cuGraphDestroy": lambda graph: self.graphs.pop(graph.value),
        }

        def call(*arguments):
            if name == self.fail:
                return 719
            steps[name](*arguments)
            return 0

        return call

    def _begin(self, stream, mode):
        assert stream.value == 4711 and mode == 1 and self._device.capturing is None
        self._device.capturing = []

    def _end(self, stream, graph):
        graph._obj.value = next(self._handles)
        self.graphs[graph._obj.value] = self._device.capturing
        self._device.capturing = None

    def _instantiate(self, executable, graph, flags):
        assert isinstance(flags, ctypes.c_ulonglong)
        executable._obj.value = next(self._handles)
        self.executables[executable._obj.value] = self.graphs[graph.value]

    def _launch(self, executable, stream):
        self._device.launches += 1
        for work in self.executables[executable.value]:
            work()


def view(address, shape, dtype):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(buffer, dtype).reshape(shape)


def new_module(name):
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    return module
