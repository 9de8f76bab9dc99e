"""A TensorRT plan loaded on a GPU, and the execution contexts that run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt

from penguin_engine.runtimes.tensorrt.cache_memory import Addresses, Shapes
from penguin_engine.runtimes.tensorrt.cuda_device import CudaDevice, DeviceMemory
from penguin_models.errors import EngineError


class LoadedPlan:
    """A loaded plan and the memory for its intermediate results; error messages name the command that builds it again.

    All executions share that memory, because they run on one stream, one after the other.
    """

    def __init__(self, loader: Any, path: Path, gpu: CudaDevice, command: str):
        self._gpu, self._path, self._command = gpu, path, command
        # Memory-mapped, because a copy besides TensorRT's own may not fit if GPU and CPU share their memory.
        self._engine = loader.deserialize_cuda_engine(np.memmap(path, np.uint8, mode="r"))
        if self._engine is None:
            raise EngineError(f"TensorRT {trt.__version__} cannot load {path}; build it again: {command}")
        profiles = range(self._engine.num_optimization_profiles)
        self._size = max(1, *(self._engine.get_device_memory_size_for_profile_v2(profile) for profile in profiles))
        try:
            self._memory = gpu.allocate(self._size)
        except EngineError as err:
            raise self._too_little_memory() from err

    def execution(self, profile: int) -> PlanExecution:
        """Creates an execution context for one of the plan's optimisation profiles."""
        context = self._engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None or not context.set_optimization_profile_async(profile, self._gpu.stream.handle):
            raise self._too_little_memory()
        context.set_device_memory(int(self._memory), self._size)
        self._gpu.wait()
        return PlanExecution(context, self._path.name, self._gpu, self._memory)

    def _too_little_memory(self) -> EngineError:
        return EngineError(
            f"there is not enough GPU memory to run {self._path}, which needs {self._size / 2**20:.0f} MiB besides its "
            f"weights; lower --max-patches or --max-tokens: {self._command}"
        )


class PlanExecution:
    """An execution context; one whose run was recorded must not be used for anything else."""

    def __init__(self, context: Any, name: str, gpu: CudaDevice, memory: DeviceMemory):
        self._context, self._name, self._gpu = context, name, gpu
        self._memory = memory  # referenced because TensorRT only has its address
        self._shapes: Shapes = {}
        self._addresses: Addresses = {}

    def run(self, shapes: Shapes, addresses: Addresses) -> None:
        """Enqueues one execution on the stream.

        Only changes are passed to TensorRT: before a run is recorded, the same shapes must have run once, and nothing
        may be set between the two.
        """
        for name, shape in shapes.items():
            if self._shapes.get(name) != shape:
                if not self._context.set_input_shape(name, shape):
                    self._shapes.pop(name, None)
                    raise EngineError(f"{self._name} does not accept {name} of shape {list(shape)}")
                self._shapes[name] = shape
        for name, address in addresses.items():
            if self._addresses.get(name) != address:
                if not self._context.set_tensor_address(name, address):
                    raise EngineError(f"{self._name} does not accept address {address:#x} for {name}")
                self._addresses[name] = address
        if not self._context.execute_async_v3(self._gpu.stream.handle):
            raise EngineError(f"{self._name} failed to run; see TensorRT's messages above")
