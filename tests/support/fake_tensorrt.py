"""A fake of `tensorrt`, which cannot run here because it needs an NVIDIA GPU: its plans run on ONNX Runtime.

It checks what the manuals require: addresses aligned to 256 bytes, shapes inside the profile, one execution context per
captured graph, a cache output at the address of its input, strongly typed networks, and the same GPU current from the
creation of a builder to its last use. A plan runs only on the kind of GPU that built it. GPU memory is that of
fake_cuda.py. The fake does not prove that TensorRT can build or run a graph.
"""

import ctypes
import json
import types
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime as ort
from fake_cuda import ALIGNMENT, GPUS, new_module, view
from google.protobuf.message import DecodeError


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
    def __init__(self, logger, device):
        device.check_current()
        self._logger, self._device, self._gpu = logger, device, device.current

    def create_network(self, flags=0):
        assert flags == 1 << 1, "not strongly typed"
        return Network(flags)

    def create_builder_config(self):
        return Config()

    def create_optimization_profile(self):
        return Profile()

    def build_serialized_network(self, network, config):
        assert self._device.current == self._gpu, "the builder was created while another GPU was current"
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
            assert not in_place or min(item.shape) > 0, f"{item.name}: a buffer updated in place needs a fixed size"
        profiles = [profile.shapes for profile in config.profiles]
        plan = {"path": network.path, "profiles": profiles, "gpu": GPUS[self._gpu]}
        return json.dumps(plan).encode()

    def _nodes(self, network):
        return onnx.load(network.path, load_external_data=False).graph.node


class Severity:
    ERROR, INTERNAL_ERROR, WARNING = "error", "internal error", "warning"


def fake_tensorrt(device, version="10.3.0"):
    """Returns a module with the parts of `tensorrt` that the product uses."""

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
            self._memory, self._captured = 0, False

        def set_optimization_profile_async(self, profile_index, stream_handle):
            assert stream_handle == 4711
            self._profile = self._engine.profiles[profile_index]
            return True

        def set_device_memory(self, memory, size):
            device.check(memory, size)
            assert memory % ALIGNMENT == 0 and size >= self._engine.memory_bytes
            self._memory = memory

        def set_input_shape(self, name, shape):
            assert device.capturing is None, "a shape was set between the warm-up execution and the captured one"
            low, _, high = self._profile[name]
            if not all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
                return False
            self._shapes[name] = tuple(shape)
            return True

        def set_tensor_address(self, name, memory):
            assert device.capturing is None, "an address was set between the warm-up execution and the captured one"
            assert isinstance(memory, int) and memory % ALIGNMENT == 0, f"{name} is not aligned"
            assert name in self._engine.inputs or name in self._engine.outputs, name
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle):
            assert stream_handle == 4711
            device.check(self._memory, self._engine.memory_bytes)
            assert not self._captured, "each captured graph needs an execution context of its own"
            self._captured = device.capturing is not None
            shapes, addresses = dict(self._shapes), dict(self._addresses)
            assert shapes.keys() == self._engine.inputs.keys(), shapes.keys() ^ self._engine.inputs.keys()
            assert addresses.keys() == self._engine.inputs.keys() | self._engine.outputs.keys()
            for name in self._engine.outputs:
                if name.startswith("present_"):
                    assert addresses[name] == addresses[name.replace("present_", "past_")], "not written in place"
            device.do(lambda: self._engine.execute(shapes, addresses))
            return True

    class DeviceBuilder(Builder):
        def __init__(self, logger):
            super().__init__(logger, device)

    class Engine:
        memory_bytes = 3000

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
            assert strategy == "user managed"
            return ExecutionContext(self)

        def get_device_memory_size_for_profile_v2(self, profile_index):
            return (1 + profile_index) * self.memory_bytes // self.num_optimization_profiles

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
                plan = json.loads(bytes(serialized_engine))
            except ValueError:
                return None
            return Engine(plan) if plan["gpu"] == GPUS[device.current] else None

    module = new_module("tensorrt")
    module.__version__ = version
    module.NetworkDefinitionCreationFlag = types.SimpleNamespace(STRONGLY_TYPED=1)
    module.MemoryPoolType = types.SimpleNamespace(WORKSPACE="workspace")
    module.ExecutionContextAllocationStrategy = types.SimpleNamespace(USER_MANAGED="user managed")
    for kind in (ILogger, Logger, IProgressMonitor, Runtime):
        setattr(module, kind.__name__, kind)
    module.Builder, module.OnnxParser = DeviceBuilder, Parser
    return module


TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
