"""The torch backend: runs a checkpoint on any CPU or CUDA device, without an export.

On CUDA a decoding step is a recorded CUDA graph (torch_graphs.py); vision attention is packed if torch has a kernel for
it (penguin_models.encoder).
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from penguin_engine.runtimes.base import KVCache, PromptSegment, RuntimeInfo, check_fits, segment_length
from penguin_engine.runtimes.torch_graphs import CacheTensors, CudaGraphRecorder, DecodingSteps, Recorder
from penguin_models.errors import oom_as_error
from penguin_models.types import Float32Array, PatchedImage
from penguin_models.vlm import PenguinVL

# Tokens appended at once to a cache that is not empty: bounds the attention mask to this times the cache length.
_CHUNK_TOKENS = 512
_REMEDY = "Use fewer visual tokens (--max-tokens, token_budget), or load the weights in 16 bits (bfloat16)."


@dataclass(frozen=True, eq=False)
class TorchVisualTokens:
    """Visual tokens [length, hidden] on the model's device."""

    embeddings: Tensor

    @property
    def length(self) -> int:
        """Number of visual tokens."""
        return self.embeddings.shape[0]

    def part(self, start: int, stop: int) -> TorchVisualTokens:
        """See `VisualTokens.part`."""
        return TorchVisualTokens(self.embeddings[start:stop])


class TorchRuntime:
    """A `Runtime` for a loaded `PenguinVL`.

    `record` records decoding steps; if it is None, CUDA graphs do on CUDA and nothing does elsewhere.
    """

    def __init__(self, model: PenguinVL, record: Recorder | None = None):
        self._model: PenguinVL | None = model
        self._device, self._record = model.device, record
        dtype, config = str(model.dtype).removeprefix("torch."), model.config
        self.info = RuntimeInfo("torch", str(model.device), dtype, config.context_length, config.vocab_size)

    @torch.inference_mode()
    def encode(self, images: Sequence[PatchedImage]) -> list[TorchVisualTokens]:
        """See `Runtime.encode`; all images together must fit into the device's memory."""
        assert self._model is not None, "the runtime is closed"
        patches = sum(image.grid.area for image in images)
        with oom_as_error(f"encoding {patches} patches on {self.info.device}", _REMEDY):
            # Cloned, because a view would keep the tokens of all images encoded with it alive.
            return [TorchVisualTokens(tokens.clone()) for tokens in self._model.encode(images)]

    def open_cache(self, max_length: int) -> TorchCache:
        """See `Runtime.open_cache`; memory is reserved by the first `append`."""
        assert self._model is not None, "the runtime is closed"
        check_fits(max_length, self.info.context_length, "the cache")
        record = self._record
        if record is None and self._device.type == "cuda":
            record = CudaGraphRecorder(self._device)
        return TorchCache(self._model, max_length, self.info.dtype, record)

    def synchronize(self) -> None:
        """See `Runtime.synchronize`."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def close(self) -> None:
        """See `Runtime.close`; weights are freed unless the caller still refers to the model."""
        self._model = None
        if self._device.type == "cuda":
            gc.collect()  # torch returns memory to the driver only once nothing refers to it
            torch.cuda.empty_cache()


class TorchCache(KVCache):
    """A `KVCache` whose memory is reserved once: appending never copies cached tokens."""

    def __init__(self, model: PenguinVL, max_length: int, dtype: str, record: Recorder | None):
        super().__init__(max_length, dtype)
        layers = model.language_model.config.num_hidden_layers
        self._model = model
        self._tensors = CacheTensors(layers, max_length, zeroed=record is not None)
        self._steps = DecodingSteps(model, self._tensors, record) if record else None

    @torch.inference_mode()
    def _extend(self, segments: Sequence[PromptSegment], new: int) -> Float32Array:
        action = f"a cache of {self._max_length} tokens, {self.length + new} of them in use,"
        with oom_as_error(action, _REMEDY):
            logits: Float32Array = self._logits(segments, new).float().cpu().numpy()
        self.length += new
        return logits

    def _logits(self, segments: Sequence[PromptSegment], new: int) -> Tensor:
        segment = segments[0]
        if self._steps is not None and self.length and new == len(segments) == 1 and isinstance(segment, Sequence):
            return self._steps.run(segment[0], self.length)
        embeddings = torch.cat([self._embed(segment) for segment in segments if segment_length(segment)])[None]
        chunk = new if self.length == 0 else _CHUNK_TOKENS
        for start in range(0, new, chunk):
            output = self._model.language_model(
                inputs_embeds=embeddings[:, start : start + chunk],
                past_key_values=self._tensors.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: Tensor = output.logits[0, -1]
        return logits

    def truncate(self, length: int) -> None:
        """See `KVCache.truncate`."""
        super().truncate(length)
        self._tensors.set_length(length)

    def _free(self) -> None:
        del self._model, self._tensors, self._steps

    def _embed(self, segment: PromptSegment) -> Tensor:
        if isinstance(segment, TorchVisualTokens):
            return segment.embeddings
        assert isinstance(segment, Sequence), f"a segment of another runtime: {type(segment).__name__}"
        return self._model.embed_tokens(torch.tensor(segment, device=self._model.device))
