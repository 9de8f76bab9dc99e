"""The model on TensorRT, from an exported folder whose plans were built for this machine.

Everything stays on the GPU: visual tokens, the KV cache, what goes from one step to the next. How steps are run is in
plan_steps.py, how caches lie in memory in gpu.py; here are the calls of TensorRT and CUDA (memory through pycuda).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pycuda.driver as cuda
import tensorrt as trt

from penguin_engine.cuda_graph import CudaGraph
from penguin_engine.exported import TOKENS_PER_STEP, Array, EmbeddingTable, check_precision, chunks, vision_passes
from penguin_engine.gpu import Addresses, CacheMemory, Recorded, Shapes
from penguin_engine.manifest import PROFILES, Manifest
from penguin_engine.plan_shapes import check_patches, fits_vision_plan
from penguin_engine.plan_steps import DecoderSteps, DeviceVisualTokens, VisionSteps
from penguin_engine.plans import DECODER_PLAN, FOLDER, VISION_PLAN, Machine, PlanManifest
from penguin_engine.runtime import Part, RuntimeInfo, check_fits, part_length
from penguin_models.errors import EngineError
from penguin_models.types import Float32Array, PatchedImage


class TensorRTRuntime:
    """A `Runtime` over the plans of an exported folder.

    Args:
        folder: made by `penguin-vl export` and `penguin-vl build`.
        device: "cuda" or "cuda:N".
        precision: what the folder is expected to hold; anything if None.

    Raises:
        EngineError: there are no plans, they do not fit this machine, or they cannot be loaded.
    """

    def __init__(self, folder: str | Path, device: str = "cuda", precision: str | None = None):
        folder = Path(folder)
        manifest = Manifest.read(folder)
        check_precision(manifest, precision, folder)
        plan = PlanManifest.read(folder)
        self._gpu = gpu = CudaDevice(device)
        plan.check(folder, gpu.machine)
        self._limits, self._command = plan.limits, plan.command(folder)
        self._equal_frames = PROFILES[manifest.profile].equal_frames
        with gpu.active():
            loader = trt.Runtime(trt.Logger(trt.Logger.ERROR))
            vision = TensorRTPlan(loader, folder / FOLDER / VISION_PLAN, gpu, self._command)
            decoder = TensorRTPlan(loader, folder / FOLDER / DECODER_PLAN, gpu, self._command)
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
        check_patches(images, self._limits, self._command)
        encoded: dict[int, DeviceVisualTokens] = {}
        with self._gpu.active():
            for vision_pass in vision_passes(images, self._equal_frames, fits_vision_plan):
                encoded.update(zip(vision_pass.indices, self._vision.run(vision_pass), strict=True))
        return [encoded[i] for i in range(len(images))]

    def open_cache(self, max_length: int) -> TensorRTCache:
        """An empty cache."""
        check_fits(max_length, self._info.context_length, "the cache")
        with self._gpu.active():
            return TensorRTCache(self._decoder, self._decoder.open_memory(max_length), self._gpu, max_length)

    def synchronize(self) -> None:
        """Returns when the GPU has done everything that it was given."""
        with self._gpu.active():
            self._gpu.wait()


class TensorRTCache:
    """A `Cache` in GPU memory that is reserved once."""

    def __init__(self, decoder: DecoderSteps, memory: CacheMemory, gpu: CudaDevice, max_length: int):
        self._decoder, self._gpu, self._max_length = decoder, gpu, max_length
        self._memory: CacheMemory | None = memory
        self._recorded: dict[int, Recorded] = {}
        self._length = 0

    @property
    def length(self) -> int:
        """Tokens held."""
        return self._length

    def append(self, parts: Sequence[Part]) -> Float32Array:
        """Extends the cache; see `Cache.append`."""
        new = sum(part_length(part) for part in parts)
        check_fits(self._length + new, self._max_length, "the cache")
        assert new > 0, "nothing to append"
        assert self._memory is not None, "the cache is closed"
        with self._gpu.active():
            for chunk in chunks(parts, TOKENS_PER_STEP):
                part = chunk[0].part
                if new == 1 and isinstance(part, Sequence):
                    self._decoder.decode(int(part[0]), self._length, self._memory, self._recorded)
                    self._length += 1
                else:
                    self._length += self._decoder.prefill(chunk, self._length, self._memory)
            return self._decoder.logits()

    def truncate(self, length: int) -> None:
        """Forgets everything after the first `length` tokens."""
        assert 0 <= length <= self._length, f"cannot truncate {self._length} tokens to {length}"
        self._length = length

    def close(self) -> None:
        """Frees the memory."""
        with self._gpu.active():
            for recorded in self._recorded.values():
                recorded.close()
            self._recorded.clear()
            self._memory = None


class TensorRTPlan:
    """A loaded plan with an execution context for each profile."""

    def __init__(self, loader: Any, path: Path, gpu: CudaDevice, command: str):
        self._gpu, self._name = gpu, path.name
        # Mapped: a copy in memory beside TensorRT's own would not fit where GPU and processor share theirs.
        self._engine = loader.deserialize_cuda_engine(np.memmap(path, np.uint8, mode="r"))
        if self._engine is None:
            raise EngineError(f"TensorRT {trt.__version__} cannot load {path}; build it again: {command}")
        strategy = trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
        self._contexts = []
        for profile in range(self._engine.num_optimization_profiles):
            context = self._engine.create_execution_context(strategy)
            if context is None or not context.set_optimization_profile_async(profile, gpu.stream.handle):
                raise EngineError(f"there is not enough GPU memory to run {path}; lower --max-tokens: {command}")
            self._contexts.append(context)
        self._shapes: list[Shapes] = [{} for _ in self._contexts]
        self._addresses: list[Addresses] = [{} for _ in self._contexts]
        gpu.wait()

    def run(self, profile: int, shapes: Shapes, addresses: Addresses) -> None:
        """Puts one execution onto the stream.

        Only what has changed is told to TensorRT: a recorded execution must follow one of the same shapes, after which
        nothing may be set anew.
        """
        context, set_shapes, set_addresses = self._contexts[profile], self._shapes[profile], self._addresses[profile]
        for name, shape in shapes.items():
            if set_shapes.get(name) != shape:
                if not context.set_input_shape(name, shape):
                    set_shapes.pop(name, None)
                    raise EngineError(f"{self._name} does not take {name} of shape {list(shape)}")
                set_shapes[name] = shape
        for name, address in addresses.items():
            if set_addresses.get(name) != address:
                if not context.set_tensor_address(name, address):
                    raise EngineError(f"{self._name} does not take address {address:#x} for {name}")
                set_addresses[name] = address
        if not context.execute_async_v3(self._gpu.stream.handle):
            raise EngineError(f"{self._name} failed to run; see TensorRT's messages above")


class CudaDevice:
    """A CUDA device with its primary context and one stream: a `Gpu`."""

    def __init__(self, device: str):
        kind, _, index = device.partition(":")
        if kind != "cuda" or not (index or "0").isdigit():
            raise EngineError(f"device {device!r} is unknown to the tensorrt runtime; choose cuda, cuda:1, ...")
        cuda.init()
        self.index = int(index or 0)
        if self.index >= cuda.Device.count():
            raise EngineError(f"device {device!r} does not exist here: CUDA finds {cuda.Device.count()} GPUs")
        self._device = cuda.Device(self.index)
        self._context = self._device.retain_primary_context()
        with self.active():
            self.stream = cuda.Stream()

    @property
    def machine(self) -> Machine:
        """What plans depend on."""
        major, minor = self._device.compute_capability()
        return Machine(trt.__version__, self._device.name(), f"{major}.{minor}")

    @contextmanager
    def active(self) -> Iterator[None]:
        """Makes the device current in this thread."""
        self._context.push()
        try:
            yield
        finally:
            cuda.Context.pop()

    def allocate(self, size: int) -> Any:
        """So many bytes.

        Raises:
            EngineError: there are not so many.
        """
        try:
            return cuda.mem_alloc(size)
        except cuda.MemoryError as err:
            raise EngineError(f"the GPU has no {size / 2**20:.0f} MiB left; lower the token budget") from err

    def page_locked(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Host memory that the GPU reads and writes by itself."""
        memory: Array = cuda.pagelocked_empty(shape, dtype)
        return memory

    def event(self) -> _Mark:
        """A mark that is not on the stream yet."""
        return _Mark(self.stream)

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


class _Mark:
    """A CUDA event on one stream."""

    def __init__(self, stream: Any):
        self._stream, self._event = stream, cuda.Event()

    def record(self) -> None:
        """Puts the mark onto the stream."""
        self._event.record(self._stream)

    def wait(self) -> None:
        """Returns when the stream has reached it."""
        self._event.synchronize()


def this_machine(device: str = "cuda") -> Machine:
    """What plans that are built here depend on.

    Raises:
        EngineError: there is no such GPU.
    """
    return CudaDevice(device).machine
