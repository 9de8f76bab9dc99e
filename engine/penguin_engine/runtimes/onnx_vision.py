"""The vision graph of an exported folder on ONNX Runtime: images -> visual tokens, or features of the encoder alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from penguin_engine.export.manifest import PROFILES, VISION
from penguin_engine.runtimes.exported import STORAGE, Array, vision_passes
from penguin_engine.runtimes.onnx_bindings import bind_host_output, check_inputs
from penguin_engine.runtimes.onnx_session import Device, open_session, run
from penguin_models.types import PatchedImage


class OnnxVision:
    """A session of `vision.onnx`; `width` and `dtype` are those of its tokens.

    Raises:
        EngineError: The graph is damaged or takes other patches, or ONNX Runtime cannot run it on this device.
    """

    def __init__(
        self, folder: Path, device: Device, threads: int | None, profile: str, patch_dim: int, width: int, dtype: str
    ):
        self._profile, self._width, self._dtype = PROFILES[profile], width, dtype
        self._session = open_session(folder / VISION, device, threads)
        check_inputs(self._session, {"patches": ("float32", [patch_dim])}, folder / VISION)

    def encode(self, images: Sequence[PatchedImage]) -> list[Array]:
        """Returns the tokens of each image, [tokens, width], in host memory."""
        encoded: dict[int, Array] = {}
        for vision_pass in vision_passes(images, self._profile.equal_frames):
            tokens = self._run(vision_pass.inputs)
            ends = np.cumsum(vision_pass.tokens)
            for index, end, count in zip(vision_pass.indices, ends, vision_pass.tokens, strict=True):
                # Copied, because a view would keep the tokens of all images of the pass alive.
                encoded[index] = tokens[end - count : end].copy()
        return [encoded[i] for i in range(len(images))]

    def _run(self, inputs: dict[str, Array]) -> Array:
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        tokens = np.empty((inputs["blocks"].shape[0], self._width), STORAGE[self._dtype])
        bind_host_output(binding, "tokens", tokens, self._dtype)
        remedy = "lower the token budget, which makes images smaller"
        if not self._profile.contrib:
            remedy += (
                f", or export with --profile onnxruntime: the {self._profile.name} profile stores the attention scores "
                "of every pair of patches of an image"
            )
        run(self._session, binding, f"encoding {inputs['patches'].shape[0]} patches", remedy)
        return tokens
