"""A TensorRT plan loaded on a GPU, and the execution contexts that run it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from penguin_engine.export.manifest import KERNEL_CACHE
from penguin_engine.runtimes.tensorrt.cache_memory import Addresses, Shapes
from penguin_engine.runtimes.tensorrt.cuda_device import CudaDevice, DeviceMemory
from penguin_engine.runtimes.tensorrt.flavour import Flavour, Messages
from penguin_models.atomic_write import atomic_write
from penguin_models.errors import EngineError, WriteError

_log = logging.getLogger(__name__)


class PlanLoader:
    """Loads plans of a folder onto a GPU; error messages name the `command` that builds them again.

    TensorRT for RTX compiles kernels when shapes first occur; the folder keeps them for the next start.
    """

    def __init__(self, flavour: Flavour, gpu: CudaDevice, folder: Path, command: str):
        self.flavour, self.gpu, self.command = flavour, gpu, command
        self._folder = folder
        self._kernels: Any = None
        # The loader must exist as long as what it loads.
        self.messages = Messages(flavour.api)
        self._runtime = flavour.api.Runtime(self.messages.logger)

    def load(self, name: str) -> LoadedPlan:
        """Loads a plan; raises EngineError if TensorRT refuses it, or too little memory is free."""
        # Memory-mapped, because a copy besides TensorRT's own may not fit if GPU and CPU share their memory.
        path = self._folder / name
        engine = self._runtime.deserialize_cuda_engine(np.memmap(path, np.uint8, mode="r"))
        if engine is None:
            raise EngineError(
                f"{self.flavour.title} cannot load {path}: {self.messages.reason()}; build it again: {self.command}"
            )
        return LoadedPlan(self, engine, path)

    def use_kernels(self, configuration: Any) -> None:
        """Makes an execution context use kernels that were compiled before, and keep new ones."""
        if self._kernels is None:
            self._kernels = configuration.create_runtime_cache()
            try:  # `deserialize` leaves the cache empty if the GPU or driver differs
                self._kernels.deserialize((self._folder / KERNEL_CACHE).read_bytes())
            except FileNotFoundError:
                pass  # the first start
            except OSError as err:
                _log.warning("kernels will be compiled again: %s", err)
        configuration.set_runtime_cache(self._kernels)

    def save_kernels(self) -> None:
        """Stores compiled kernels, if there are any; logs a warning if the folder cannot be written."""
        content = None if self._kernels is None else self._kernels.serialize()
        if content is None:
            return
        try:
            with atomic_write(self._folder / KERNEL_CACHE, "wb") as file:
                file.write(content)
        except WriteError as err:
            _log.warning("kernels will be compiled again at the next start: %s", err)


class LoadedPlan:
    """A loaded plan and the memory for its intermediate results.

    All executions share that memory, because they run on one stream, one after the other.
    """

    def __init__(self, loader: PlanLoader, engine: Any, path: Path):
        self._loader, self._engine, self._path = loader, engine, path
        profiles = range(engine.num_optimization_profiles)
        self._size = max(1, *(engine.get_device_memory_size_for_profile_v2(profile) for profile in profiles))
        try:
            self._memory = loader.gpu.allocate(self._size)
        except EngineError as err:
            raise self._too_little_memory() from err

    def execution(self, profile: int, recorded: bool = False) -> PlanExecution:
        """Creates an execution context for one of the plan's optimisation profiles.

        `recorded` says that its second run will be recorded: kernels for its shapes must then exist after the first.
        """
        gpu = self._loader.gpu
        context = self._engine.create_execution_context(self._configuration(recorded))
        if context is None:
            raise self._too_little_memory()
        try:
            context.set_optimization_profile_async(profile, gpu.stream.handle)
        except RuntimeError as err:  # the bindings never return False
            raise self._too_little_memory() from err
        context.set_device_memory(int(self._memory), self._size)
        gpu.wait()
        return PlanExecution(context, self._path.name, self._loader, self._memory)

    def _configuration(self, recorded: bool) -> Any:
        """Returns the argument of `create_execution_context`."""
        trt = self._loader.flavour.api
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self._loader.flavour.is_rtx:
            return strategy
        configuration = self._engine.create_runtime_config()
        configuration.set_execution_context_allocation_strategy(strategy)
        # By default, kernels for new shapes are compiled in the background, and a recording would keep general ones.
        kinds = trt.DynamicShapesKernelSpecializationStrategy
        configuration.dynamic_shapes_kernel_specialization_strategy = kinds.EAGER if recorded else kinds.LAZY
        self._loader.use_kernels(configuration)
        return configuration

    def _too_little_memory(self) -> EngineError:
        return EngineError(
            f"there is not enough GPU memory to run {self._path}, which needs {self._size / 2**20:.0f} MiB besides its "
            f"weights; lower --max-patches or --max-tokens: {self._loader.command}"
        )


class PlanExecution:
    """An execution context; one whose run was recorded must not be used for anything else."""

    def __init__(self, context: Any, name: str, loader: PlanLoader, memory: DeviceMemory):
        self._context, self._name, self._gpu, self._messages = context, name, loader.gpu, loader.messages
        # Referenced because TensorRT only has the memory's address, and the kernels must outlive the context.
        self._memory, self._loader = memory, loader
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
            raise EngineError(f"{self._name} failed to run: {self._messages.reason()}")

    def check_recordable(self) -> None:
        """Raises EngineError if a run with these shapes cannot be recorded; only TensorRT for RTX can tell."""
        capturable = getattr(self._context, "is_stream_capturable", None)
        if capturable is not None and not capturable(self._gpu.stream.handle):
            raise EngineError(f"the steps of {self._name} cannot be recorded: {self._messages.reason()}")
