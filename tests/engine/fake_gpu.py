"""Stand-ins for the modules `tensorrt` and `pycuda.driver` and for the CUDA driver library, for machines without them.

GPU memory is host memory whose bounds are checked, streams run at once, plans run on ONNX Runtime. They hold the code
to what the documentation asks for: memory that is page-locked, addresses that are aligned to 256 bytes and inside one
allocation, shapes inside the profile, a cache output at the address of its input, strongly typed networks, a context
that is current. They are no proof that the code runs on a GPU.
"""

import ctypes
import json
import types
import weakref
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError

ALIGNMENT = 256


class Device:
    """The state of the one GPU."""

    def __init__(self):
        self.blocks = {}
        self.current = 0
        self.capturing = None
        self.limit = 2**40
        self.copied_bytes = 0
        self.launches = 0
        self.executions = []

    def allocate(self, size):
        assert self.current, "no context is current"
        assert size > 0
        if size > self.limit:
            raise FakeMemoryError("out of memory")
        raw = np.full(size + ALIGNMENT, 0xFF, np.uint8)  # 0xFFFF is not a number in any float
        address = -(-raw.ctypes.data // ALIGNMENT) * ALIGNMENT
        self.blocks[address] = (size, raw)
        return address

    def check(self, address, size):
        assert self.current, "no context is current"
        for start, (length, _) in self.blocks.items():
            if start <= address < start + length:
                assert address + size <= start + length, f"{size} bytes run {address + size - start - length} over"
                return
        raise AssertionError(f"address {address:#x} is not allocated")

    def do(self, work):
        """Runs work of the stream, or records it."""
        assert self.current, "no context is current"
        work() if self.capturing is None else self.capturing.append(work)


class FakeMemoryError(Exception):
    pass


class Allocation:
    def __init__(self, device, size):
        self._address = device.allocate(size)
        weakref.finalize(self, device.blocks.pop, self._address)

    def __int__(self):
        return self._address


def fake_pycuda(device):
    """The parts of `pycuda.driver` that are documented and used."""
    locked = {}

    def pagelocked_empty(shape, dtype):
        array = np.empty(shape, dtype)
        locked[array.ctypes.data] = array
        return array

    def check_locked(array):
        start, end = array.ctypes.data, array.ctypes.data + array.nbytes
        assert array.flags.c_contiguous
        assert any(base <= start and end <= base + whole.nbytes for base, whole in locked.items()), "not page-locked"

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
        def push(self):
            device.current += 1

        @staticmethod
        def pop():
            device.current -= 1

    class Stream:
        handle = 4711

        def synchronize(self):
            assert device.capturing is None, "a capturing stream must not be waited for"

    class Event:
        def record(self, stream):
            assert isinstance(stream, Stream)

        def synchronize(self):
            assert device.capturing is None

    class CudaDevice:
        def __init__(self, index):
            assert index == 0

        @staticmethod
        def count():
            return 1

        def name(self):
            return "Orin"

        def compute_capability(self):
            return (8, 7)

        def retain_primary_context(self):
            return Context()

    module = new_module("pycuda.driver")
    module.init = lambda: None
    module.mem_alloc = lambda size: Allocation(device, size)
    module.MemoryError = FakeMemoryError
    module.Device, module.Context, module.Stream, module.Event = CudaDevice, Context, Stream, Event
    for function in (pagelocked_empty, memcpy_htod_async, memcpy_dtoh_async, memcpy_dtod_async, memset_d32_async):
        setattr(module, function.__name__, function)
    module.Memcpy2D = Memcpy2D
    return module


class FakeDriver:
    """libcuda's graph functions."""

    def __init__(self, device):
        self._device, self._graphs, self._count = device, {}, 0
        self.fail = ""

    def __getattr__(self, name):
        steps = {
            "cuStreamBeginCapture_v2": self._begin,
            "cuStreamEndCapture": self._end,
            "cuGraphInstantiateWithFlags": self._instantiate,
            "cuGraphLaunch": self._launch,
            "cuGraphExecDestroy": lambda executable: self._graphs[executable.value],
            "cuGraphDestroy": lambda graph: self._graphs.pop(graph.value),
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
        self._count += 1
        number = self._count
        self._graphs[number] = self._device.capturing
        self._device.capturing = None
        graph._obj.value = number

    def _instantiate(self, executable, graph, flags):
        assert isinstance(flags, ctypes.c_ulonglong)
        executable._obj.value = graph.value

    def _launch(self, executable, stream):
        self._device.launches += 1
        for work in self._graphs[executable.value]:
            work()


def view(address, shape, dtype):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(buffer, dtype).reshape(shape)


@dataclass
class Input:
    name: str
    shape: tuple


@dataclass
class Network:
    flags: int
    path: str = ""
    inputs: list = field(default_factory=list)

    @property
    def num_inputs(self):
        return len(self.inputs)

    def get_input(self, index):
        return self.inputs[index]


class Profile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, input, min, opt, max):
        assert all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True)), (input, min, opt, max)
        self.shapes[input] = (min, opt, max)

    def __bool__(self):
        return True


class TimingCache:
    def __init__(self, content):
        self.content = bytes(content)

    def serialize(self):
        return self.content + b"t"


class Config:
    def __init__(self):
        self.profiles, self.pools, self.progress_monitor = [], {}, None

    def add_optimization_profile(self, profile):
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def set_memory_pool_limit(self, pool, pool_size):
        self.pools[pool] = pool_size

    def create_timing_cache(self, serialized_timing_cache):
        return None if serialized_timing_cache == b"damaged" else TimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache, ignore_mismatch):
        self._cache = cache
        return not cache.content.startswith(b"other version")

    def get_timing_cache(self):
        return self._cache


class Parser:
    def __init__(self, network, logger):
        self._network, self._errors = network, []

    def parse_from_file(self, model):
        try:
            graph = onnx.load(model, load_external_data=False).graph
        except (OSError, DecodeError) as err:
            self._errors.append(str(err))
            return False
        self._network.path = model
        dimensions = lambda i: tuple(d.dim_value or -1 for d in i.type.tensor_type.shape.dim)  # noqa: E731
        self._network.inputs = [Input(i.name, dimensions(i)) for i in graph.input]
        return True

    @property
    def num_errors(self):
        return len(self._errors)

    def get_error(self, index):
        return types.SimpleNamespace(desc=lambda: self._errors[index])


class Builder:
    def __init__(self, logger):
        self._logger = logger

    def create_network(self, flags=0):
        assert flags == 1 << 1, "not strongly typed"
        return Network(flags)

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        monitor = config.progress_monitor
        monitor.phase_start("Building", None, 2)
        for step in range(2):
            if not monitor.step_complete("Building", step):
                return None
        monitor.phase_finish("Building")
        for item in network.inputs:
            for profile in config.profiles:
                low, _, high = profile.shapes[item.name]
                assert len(low) == len(item.shape), item
                fixed = [(n, a, b) for n, a, b in zip(item.shape, low, high, strict=True) if n >= 0]
                if any(not n == a == b for n, a, b in fixed):
                    self._logger.log(Severity.ERROR, f"{item.name} is fixed at {item.shape}")
                    return None
            in_place = any("TensorScatter" in n.op_type and item.name in n.input for n in self._nodes(network))
            assert not in_place or min(item.shape) > 0, f"{item.name}: an updated buffer needs a fixed size"
        plan = {"path": network.path, "profiles": [profile.shapes for profile in config.profiles]}
        return json.dumps(plan).encode()

    def _nodes(self, network):
        return onnx.load(network.path, load_external_data=False).graph.node


class Severity:
    ERROR, INTERNAL_ERROR, WARNING = "error", "internal error", "warning"


def fake_tensorrt(device, version="10.3.0"):
    """The parts of `tensorrt` that are documented and used."""

    class ILogger:
        ERROR, INTERNAL_ERROR, WARNING = Severity.ERROR, Severity.INTERNAL_ERROR, Severity.WARNING

    class Logger(ILogger):
        def __init__(self, severity):
            pass

    class IProgressMonitor:
        pass

    class ExecutionContext:
        def __init__(self, engine):
            self._engine, self._shapes, self._addresses, self._profile = engine, {}, {}, None

        def set_optimization_profile_async(self, profile_index, stream_handle):
            assert stream_handle == 4711
            self._profile = self._engine.profiles[profile_index]
            return True

        def set_input_shape(self, name, shape):
            assert device.capturing is None, "a shape set after the execution that precedes a recorded one"
            low, _, high = self._profile[name]
            if not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
                return False
            self._shapes[name] = tuple(shape)
            return True

        def set_tensor_address(self, name, memory):
            assert device.capturing is None, "an address set after the execution that precedes a recorded one"
            assert isinstance(memory, int) and memory % ALIGNMENT == 0, f"{name} is not aligned"
            assert name in self._engine.inputs or name in self._engine.outputs, name
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle):
            assert stream_handle == 4711
            shapes, addresses = dict(self._shapes), dict(self._addresses)
            assert shapes.keys() == self._engine.inputs.keys(), shapes.keys() ^ self._engine.inputs.keys()
            assert addresses.keys() == self._engine.inputs.keys() | self._engine.outputs.keys()
            for name in self._engine.outputs:
                if name.startswith("present_"):
                    assert addresses[name] == addresses[name.replace("present_", "past_")], "not in place"
            device.do(lambda: self._engine.execute(shapes, addresses))
            return True

    class Engine:
        def __init__(self, plan):
            self.profiles = plan["profiles"]
            options = ort.SessionOptions()
            options.log_severity_level = 3
            self._session = ort.InferenceSession(plan["path"], options, providers=["CPUExecutionProvider"])
            self.inputs = {i.name: TYPES[i.type] for i in self._session.get_inputs()}
            self.outputs = {o.name: TYPES[o.type] for o in self._session.get_outputs()}

        @property
        def num_optimization_profiles(self):
            return len(self.profiles)

        def create_execution_context(self, strategy):
            assert strategy == "on profile change"
            return ExecutionContext(self)

        def execute(self, shapes, addresses):
            device.executions.append(shapes)
            feeds = {}
            for name, dtype in self.inputs.items():
                size = int(np.prod(shapes[name])) * np.dtype(dtype).itemsize
                device.check(addresses[name], size)
                feeds[name] = view(addresses[name], shapes[name], dtype).copy()
            for name, value in zip(self.outputs, self._session.run(None, feeds), strict=True):
                device.check(addresses[name], value.nbytes)
                ctypes.memmove(addresses[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)

    class Runtime:
        def __init__(self, logger):
            pass

        def deserialize_cuda_engine(self, serialized_engine):
            try:
                return Engine(json.loads(bytes(serialized_engine)))
            except ValueError:
                return None

    module = new_module("tensorrt")
    module.__version__ = version
    module.NetworkDefinitionCreationFlag = types.SimpleNamespace(STRONGLY_TYPED=1)
    module.MemoryPoolType = types.SimpleNamespace(WORKSPACE="workspace")
    module.ExecutionContextAllocationStrategy = types.SimpleNamespace(ON_PROFILE_CHANGE="on profile change")
    for kind in (ILogger, Logger, IProgressMonitor, Runtime):
        setattr(module, kind.__name__, kind)
    module.Builder, module.OnnxParser = Builder, Parser
    return module


def new_module(name):
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    return module


TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
