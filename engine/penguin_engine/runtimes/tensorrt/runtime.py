"""The TensorRT backend: runs an exported folder whose plans were built for this machine.

Visual tokens, the KV cache and everything passed between steps stay on the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from penguin_engine.export.manifest import DECODER_PLAN, PLAN_FOLDER, VISION_PLAN, Manifest
from penguin_engine.runtimes.base import KVCache, PromptSegment, RuntimeInfo, check_fits
from penguin_engine.runtimes.exported import (
    TOKENS_PER_STEP,
    EmbeddingTable,
    check_precision,
    split_into_chunks,
    vision_passes,
)
from penguin_engine.runtimes.tensorrt.cuda_device import CudaDevice
from penguin_engine.runtimes.tensorrt.cuda_graph import CudaGraph
from penguin_engine.runtimes.tensorrt.loaded_plan import PlanLoader
from penguin_engine.runtimes.tensorrt.plans import Machine, PlanManifest
from penguin_engine.runtimes.tensorrt.shapes import check_patches, fits_vision_plan, vision_profiles
from penguin_engine.runtimes.tensorrt.steps import DecoderSteps, DeviceVisualTokens, VisionSteps
from penguin_models.errors import EngineError
from penguin_models.types import Float32Array, PatchedImage


class TensorRTRuntime:
    """A `Runtime` for the plans of an exported folder, whose `manifest` it has; arguments as for `open_runtime`.

    Raises:
        EngineError: There are no plans, they do not fit this machine, or they cannot be loaded.
    """

    def __init__(self, folder: str | Path, device: str = "cuda", precision: str | None = None):
        folder = Path(folder)
        self.manifest = manifest = Manifest.read(folder)
        check_precision(manifest, precision, folder)
        plan = PlanManifest.read(folder)
        flavour = plan.load_flavour(folder)
        self._gpu = gpu = CudaDevice(device)
        if flavour.is_rtx and gpu.compute_capability not in flavour.compute_capabilities:
            raise EngineError(
                f"{flavour.title} has no kernels for the GPU {gpu.name!r} of compute capability "
                f"{gpu.compute_capability}, only for {', '.join(flavour.compute_capabilities)}; use another runtime, "
                "or build with --flavour tensorrt"
            )
        here = Machine(flavour.name, flavour.version, (gpu.compute_capability,), gpu.name)
        plan.check(folder, manifest, here, device)
        self._limits, self._command_for_patches = plan.limits, partial(plan.command, folder, device)
        with gpu.active():
            self._loader = loader = PlanLoader(flavour, gpu, folder / PLAN_FOLDER, plan.command(folder, device))
            vision, decoder = map(loader.load, (VISION_PLAN, DECODER_PLAN))
            table = EmbeddingTable(folder, manifest)
            profiles = vision_profiles(manifest, plan.limits)
            self._vision: VisionSteps | None = VisionSteps(vision, manifest, profiles, gpu)
            self._decoder: DecoderSteps | None = DecoderSteps(decoder, manifest, table, gpu)
        context_length = min(manifest.decoder.context_length, plan.limits.max_tokens)
        self.info = RuntimeInfo(
            "tensorrt", f"cuda:{gpu.index}", manifest.precision, context_length, manifest.decoder.vocab
        )

    def encode(self, images: Sequence[PatchedImage]) -> list[DeviceVisualTokens]:
        """See `Runtime.encode`."""
        assert self._vision is not None, "the runtime is closed"
        check_patches(images, self._limits, self._command_for_patches)
        encoded: dict[int, DeviceVisualTokens] = {}
        with self._gpu.active():
            for vision_pass in vision_passes(images, False, fits_vision_plan):
                encoded.update(zip(vision_pass.indices, self._vision.run(vision_pass), strict=True))
        return [encoded[i] for i in range(len(images))]

    def open_cache(self, max_length: int) -> TensorRTCache:
        """See `Runtime.open_cache`."""
        assert self._decoder is not None, "the runtime is closed"
        check_fits(max_length, self.info.context_length, "the cache")
        return TensorRTCache(self._decoder, self._gpu, max_length, self.info.dtype)

    def synchronize(self) -> None:
        """See `Runtime.synchronize`."""
        with self._gpu.active():
            self._gpu.wait()

    def close(self) -> None:
        """See `Runtime.close`."""
        with self._gpu.active():
            self._gpu.wait()
            self._loader.save_kernels()
            self._vision = self._decoder = None


class TensorRTCache(KVCache):
    """A `KVCache` in GPU memory that is reserved once, with the decoding steps recorded for it."""

    def __init__(self, decoder: DecoderSteps, gpu: CudaDevice, max_length: int, dtype: str):
        super().__init__(max_length, dtype)
        self._decoder, self._gpu = decoder, gpu
        with gpu.active():
            self._memory = decoder.open_memory(max_length)
        self._recorded: dict[int, CudaGraph] = {}

    def _extend(self, segments: Sequence[PromptSegment], new: int) -> Float32Array:
        with self._gpu.active():
            for chunk in split_into_chunks(segments, TOKENS_PER_STEP):
                segment = chunk[0].segment
                if new == 1 and isinstance(segment, Sequence):
                    self._decoder.decode(int(segment[0]), self.length, self._memory, self._recorded)
                    self.length += 1
                else:
                    self.length += self._decoder.prefill(chunk, self.length, self._memory)
            return self._decoder.logits()

    def _free(self) -> None:
        with self._gpu.active():
            for graph in self._recorded.values():
                graph.close()
            del self._memory, self._decoder, self._recorded
