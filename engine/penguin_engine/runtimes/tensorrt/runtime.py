"""The model on TensorRT, from an exported folder whose plans were built for this machine.

Everything stays on the GPU: visual tokens, the KV cache, what goes from one step to the next. How steps are run is in
plan_steps.py, how caches lie in memory in gpu.py; here are the calls of TensorRT and CUDA (memory through pycuda).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pycuda.driver as cuda
import tensorrt as trt

from penguin_engine.export.manifest import DECODER_PLAN, PLAN_FOLDER, PROFILES, VISION_PLAN, Manifest
from penguin_engine.runtimes.base import RuntimeInfo, check_fits
from penguin_engine.runtimes.exported import Array, EmbeddingTable, check_precision, vision_passes
from penguin_engine.runtimes.tensorrt.cuda_graph import CudaGraph
from penguin_engine.runtimes.tensorrt.gpu import Addresses, Recorded, Shapes
from penguin_engine.runtimes.tensorrt.kv_cache import PlanCache
from penguin_engine.runtimes.tensorrt.plans import Machine, PlanManifest
from penguin_engine.runtimes.tensorrt.release import Releases
from penguin_engine.runtimes.tensorrt.shapes import check_patches, fits_vision_plan
from penguin_engine.runtimes.tensorrt.steps import DecoderSteps, DeviceVisualTokens, VisionSteps
from penguin_models.errors import EngineError
from penguin_models.types import PatchedImage


class TensorRTRuntime:
    """A `Runtime` over the plans of an exported folder.

    Args:
        folder: made by `penguin-vl export` and `penguin-vl build`.
        device: "cuda" or "cuda:N".
        precision: what the folder is expected to hold; anything if None.

    Attributes:
        manifest: of the folder.

    Raises:
        EngineError: there are no plans, they do not fit this machine, or they cannot be loaded.
    """

    def __init__(self, folder: str | Path, device: str = "cuda", precision: str | None = None):
        folder = Path(folder)
        self.manifest = manifest = Manifest.read(folder)
        check_precision(manifest, precision, folder)
        plan = PlanManifest.read(folder)
        self._gpu = gpu = CudaDevice(device)
        plan.check(folder, manifest, gpu.machine, device)
        self._limits, self._command_for_patches = plan.limits, partial(plan.command, folder, device)
        self._equal_frames = PROFILES[manifest.profile].equal_frames
        with gpu.active():
            loader = trt.Runtime(trt.Logger(trt.Logger.ERROR))
            vision, decoder = (
                TensorRTPlan(loader, folder / PLAN_FOLDER / name, gpu, plan.command(folder, device))
                for name in (VISION_PLAN, DECODER_PLAN)
            )
            self._vision = VisionSteps(vision, manifest, plan.limits, gpu)
            self._decoder = DecoderSteps(decoder, manifest, plan.limits, EmbeddingTable(folder, manifest), gpu)
        self._info = RuntimeInfo(
            name="tensorrt",
            device=f"cuda:{gpu.index}",
            dtype=manifest.precision,
            context_length=min(manifest.decoder.context_length, plan.limits.max_tokens),
            vocab_size=manifest.decoder.vocab,
        )

    @property
    def info(self) -> RuntimeInfo:
        """What this runtime is."""
        return self._info

    def encode(self, images: Sequence[PatchedImage]) -> list[DeviceVisualTokens]:
        """Visual tokens of each image.

        Raises:
            EngineError: an image is larger than the plan takes.
        """
        check_patches(images, self._limits, self._command_for_patches)
        encoded: dict[int, DeviceVisualTokens] = {}
        with self._gpu.active():
            for vision_pass in vision_passes(images, self._equal_frames, fits_vision_plan):
                encoded.update(zip(vision_pass.indices, self._vision.run(vision_pass), strict=True))
        return [encoded[i] for i in range(len(images))]

    def open_cache(self, max_length: int) -> PlanCache:
        """An empty cache."""
        check_fits(max_length, self._info.context_length, "the cache")
        with self._gpu.active():
            return PlanCache(self._decoder, self._decoder.open_memory(max_length), self._gpu, max_length)

    def synchronize(self) -> None:
        """Returns when the GPU has done everything that it was given."""
        with self._gpu.active():
            self._gpu.wait()


class TensorRTPlan:
    """A loaded plan, and the memory for what it calculates meanwhile.

    All executions share that memory: they are put onto one stream, where one follows the other.
    """

    def __init__(self, loader: Any, path: Path, gpu: CudaDevice, command: str):
        self._gpu, self._path, self._command = gpu, path, command
        # Mapped: a copy in memory beside TensorRT's own would not fit where GPU and processor share theirs.
        self._engine = loader.deserialize_cuda_engine(np.memmap(path, np.uint8, mode="r"))
        if self._engine is None:
            raise EngineError(f"TensorRT {trt.__version__} cannot load {path}; build it again: {command}")
        profiles = range(self._engine.num_optimization_profiles)
        self._size = max(1, *(self._engine.get_device_memory_size_for_profile_v2(profile) for profile in profiles))
        try:
            self._memory = gpu.allocate(self._size)
        except EngineError as err:
            raise self._too_little_memory() from err

    def execution(self, profile: int) -> TensorRTExecution:
        """An execution context of its own."""
        context = self._engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None or not context.set_optimization_profile_async(profile, self._gpu.stream.handle):
            raise self._too_little_memory()
        context.set_device_memory(int(self._memory), self._size)
        self._gpu.wait()
        return TensorRTExecution(context, self._path.name, self._gpu, self._memory)

    def _too_little_memory(self) -> EngineError:
        return EngineError(
            f"there is not enough GPU memory to run {self._path}, which needs {self._size / 2**20:.0f} MiB beside its "
            f"weights; lower --max-patches or --max-tokens: {self._command}"
        )


class TensorRTExecution:
    """An execution context, with what it has been told."""

    def __init__(self, context: Any, name: str, gpu: CudaDevice, memory: DeviceMemory):
        self._context, self._name, self._gpu = context, name, gpu
        self._memory = memory  # TensorRT has its address only
        self._shapes: Shapes = {}
        self._addresses: Addresses = {}

    def run(self, shapes: Shapes, addresses: Addresses) -> None:
        """Puts one execution onto the stream.

        Only what has changed is told to TensorRT: a recorded execution must follow one of the same shapes, after which
        nothing may be set anew.
        """
        for name, shape in shapes.items():
            if self._shapes.get(name) != shape:
                if not self._context.set_input_shape(name, shape):
                    self._shapes.pop(name, None)
                    raise EngineError(f"{self._name} does not take {name} of shape {list(shape)}")
                self._shapes[name] = shape
        for name, address in addresses.items():
            if self._addresses.get(name) != address:
                if not self._context.set_tensor_address(name, address):
                    raise EngineError(f"{self._name} does not take address {address:#x} for {name}")
                self._addresses[name] = address
        if not self._context.execute_async_v3(self._gpu.stream.handle):
            raise EngineError(f"{self._name} failed to run; see TensorRT's messages above")


class CudaDevice:
    """A CUDA device with its primary context and one stream: a `Gpu`."""

    def __init__(self, device: str):
        kind, _, index = device.partition(":")
        if kind != "cuda" or not (index or "0").isdigit():
            raise EngineError(f"device {device!r} is unknown to the tensorrt runtime; choose cuda, cuda:1, ...")
        try:
            cuda.init()
        except cuda.Error as err:
            raise EngineError(f"CUDA cannot be started here: {err}; is there a GPU, and its driver?") from err
        self.index = int(index or 0)
        if self.index >= cuda.Device.count():
            raise EngineError(f"device {device!r} does not exist here: CUDA finds {cuda.Device.count()} GPUs")
        self._device = cuda.Device(self.index)
        self._context = self._device.retain_primary_context()
        self._releases = Releases(partial(_current, self._context))
        with self.active():
            self._streams = [cuda.Stream()]
        self._releases.after(self, self._streams.clear)

    @property
    def stream(self) -> Any:
        """Where all work goes."""
        return self._streams[0]

    @property
    def machine(self) -> Machine:
        """What plans depend on."""
        major, minor = self._device.compute_capability()
        return Machine(trt.__version__, self._device.name(), f"{major}.{minor}")

    @contextmanager
    def active(self) -> Iterator[None]:
        """Makes the device current in this thread, and releases what was dropped."""
        with _current(self._context):
            self._releases.run()
            try:
                yield
            finally:
                self._releases.run()

    def allocate(self, size: int) -> DeviceMemory:
        """So many bytes.

        Raises:
            EngineError: there are not so many.
        """
        try:
            return DeviceMemory(cuda.mem_alloc(size), self._releases)
        except cuda.MemoryError as err:
            raise EngineError(f"the GPU has no {size / 2**20:.0f} MiB left; lower the token budget") from err

    def page_locked(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Host memory that the GPU reads and writes by itself."""
        memory: Any = cuda.pagelocked_empty(shape, dtype)
        shown: Array = memory.view()  # pycuda's array holds what releases it
        self._releases.after(shown, memory.base.free)
        return shown

    def event(self) -> _Mark:
        """A mark that is not on the stream yet."""
        return _Mark(self.stream, self._releases)

    def to_device(self, target: int, source: Array) -> None:
        """Copies page-locked memory to the GPU."""
        cuda.memcpy_htod_async(target, source, self.stream)

    def to_host(self, target: Array, source: int) -> None:
        """Copies from the GPU into page-locked memory."""
        cuda.memcpy_dtoh_async(target, source, self.stream)

    def copy(self, target: int, source: int, size: int) -> None:
        """Copies bytes on the GPU."""
        cuda.memcpy_dtod_async(target, source, size, self.stream)

    def copy_rows(self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int) -> None:
        """Copies `rows` pieces of `width` bytes that lie a pitch apart."""
        copy = cuda.Memcpy2D()
        copy.set_src_device(source)
        copy.set_dst_device(target)
        copy.src_pitch, copy.dst_pitch = source_pitch, target_pitch
        copy.width_in_bytes, copy.height = width, rows
        copy(self.stream)

    def fill(self, target: int, bits: int, count: int) -> None:
        """Writes `count` times the same 32 bits."""
        cuda.memset_d32_async(target, bits, count, self.stream)

    def record(self, work: Callable[[], None]) -> Recorded:
        """Records what `work` puts onto the stream."""
        return CudaGraph(self.stream.handle, work)

    def wait(self) -> None:
        """Returns when the stream is empty."""
        self.stream.synchronize()


@contextmanager
def _current(context: Any) -> Iterator[None]:
    context.push()
    try:
        yield
    finally:
        cuda.Context.pop()


class DeviceMemory:
    """Some memory of the GPU, which is freed when the device is next used after nobody holds this any more."""

    def __init__(self, allocation: Any, releases: Releases):
        self._address = int(allocation)
        releases.after(self, allocation.free)

    def __int__(self) -> int:
        return self._address


class _Mark:
    """A CUDA event on one stream."""

    def __init__(self, stream: Any, releases: Releases):
        self._stream, self._events = stream, [cuda.Event()]
        releases.after(self, self._events.clear)

    def record(self) -> None:
        """Puts the mark onto the stream."""
        self._events[0].record(self._stream)

    def wait(self) -> None:
        """Returns when the stream has reached it."""
        self._events[0].synchronize()
