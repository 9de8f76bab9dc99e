"""A fake of what runs TensorRT's plans, which cannot run here because it needs an NVIDIA GPU.

Its plans, from `write_plans`, name a graph, which runs on ONNX Runtime. It checks what the manuals require: addresses
aligned to 256 bytes, shapes inside the profile, one execution context per captured graph. A plan runs only on the kind
of GPU for which it was written. GPU memory is that of fake_cuda.py. Parser and builder are real in the tests; nothing
here proves that a GPU runs what they build.
"""

import ctypes
import json
import types

import numpy as np
import onnxruntime as ort
from fake_cuda import ALIGNMENT, GPUS, new_module, view

from penguin_engine.export.manifest import (
    DECODER,
    DECODER_PLAN,
    PLAN_FOLDER,
    PLAN_MANIFEST,
    VISION,
    VISION_PLAN,
    Manifest,
    hash_files,
    write_json,
)
from penguin_engine.runtimes.tensorrt.plans import PRECISIONS, Machine, PlanManifest, export_hash
from penguin_engine.runtimes.tensorrt.shapes import decoder_profiles, plan_shapes, vision_profiles


def write_plans(folder, limits, flavour="tensorrt", version="10.16.1", gpu=0):
    """Writes fake plans of an exported folder for one of the simulated GPUs, as `build` writes real ones."""
    manifest, plans = Manifest.read(folder), folder / PLAN_FOLDER
    plans.mkdir(exist_ok=True)
    for graph, name, profiles in (
        (VISION, VISION_PLAN, vision_profiles(manifest, limits)),
        (DECODER, DECODER_PLAN, decoder_profiles(manifest, limits)),
    ):
        plan = {"path": str(folder / graph), "profiles": profiles, "gpu": GPUS[gpu]}
        (plans / name).write_text(json.dumps(plan))
    name, capability = GPUS[gpu]
    machine = Machine(flavour, version, (capability,), None if flavour == "rtx" else name)
    precision = next(key for key, held in PRECISIONS.items() if held == manifest.precision)
    files = hash_files(plans, [VISION_PLAN, DECODER_PLAN])
    shapes = plan_shapes(manifest, limits)
    plan = PlanManifest(machine, precision, limits, shapes, export_hash(folder), files)
    write_json(plan, plans / PLAN_MANIFEST)
    return plan


def fake_tensorrt(device, version):
    """Returns a module with the parts of `tensorrt` and `tensorrt_rtx` that run plans."""

    class ILogger:
        ERROR, INTERNAL_ERROR = "error", "internal error"

    class IRuntimeCache:
        content = b""

        def deserialize(self, blob):
            self.content = bytes(blob)
            return True

        def serialize(self):
            return self.content + b"k"

    class IRuntimeConfig:
        dynamic_shapes_kernel_specialization_strategy = "lazy"
        strategy = cache = None

        def set_execution_context_allocation_strategy(self, strategy):
            self.strategy = strategy

        def create_runtime_cache(self):
            device.check_current()
            return IRuntimeCache()

        def set_runtime_cache(self, cache):
            self.cache = cache
            return True

    class IExecutionContext:
        def __init__(self, engine, configuration):
            self._configuration = configuration
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

        def is_stream_capturable(self, stream):
            return stream == 4711 and device.capturing is None

        def execute_async_v3(self, stream_handle):
            assert stream_handle == 4711
            device.check(self._memory, self._engine.memory_bytes)
            assert not self._captured, "each captured graph needs an execution context of its own"
            self._captured = device.capturing is not None
            if isinstance(self._configuration, IRuntimeConfig) and self._captured:
                eager = self._configuration.dynamic_shapes_kernel_specialization_strategy == "eager"
                assert eager, "kernels that are compiled in the background are not in the recording"
            shapes, addresses = dict(self._shapes), dict(self._addresses)
            assert shapes.keys() == self._engine.inputs.keys(), shapes.keys() ^ self._engine.inputs.keys()
            assert addresses.keys() == self._engine.inputs.keys() | self._engine.outputs.keys()
            device.do(lambda: self._engine.execute(shapes, addresses))
            return True

    class ICudaEngine:
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

        def create_runtime_config(self):
            return IRuntimeConfig()

        def create_execution_context(self, configuration):
            is_rtx = isinstance(configuration, IRuntimeConfig)
            assert (configuration.strategy if is_rtx else configuration) == "user managed"
            assert not is_rtx or configuration.cache is not None
            return IExecutionContext(self, configuration)

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
            return ICudaEngine(plan) if plan["gpu"] == GPUS[device.current] else None

    module = new_module("tensorrt")
    module.__version__ = version
    module.ExecutionContextAllocationStrategy = types.SimpleNamespace(USER_MANAGED="user managed")
    module.DynamicShapesKernelSpecializationStrategy = types.SimpleNamespace(EAGER="eager", LAZY="lazy")
    module.ComputeCapability = types.SimpleNamespace(__members__={"SM87": 87, "SM110": 110})  # those of the fake GPUs
    for kind in (ILogger, Runtime, ICudaEngine, IExecutionContext, IRuntimeConfig, IRuntimeCache):
        setattr(module, kind.__name__, kind)
    return module


TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
