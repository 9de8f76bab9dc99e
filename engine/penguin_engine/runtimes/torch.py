"""The model on torch: any CPU or CUDA device, no export needed.

On CUDA a decoding step is a recorded CUDA graph (torch_decode.py); vision attention is packed wherever torch has a
kernel for it (penguin_models.encoder).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from penguin_engine.runtimes.base import PromptSegment, RuntimeInfo, check_fits, segment_length
from penguin_engine.runtimes.torch_graphs import CudaGraphRecorder, DecodingSteps, Recorder, ReservedCache
from penguin_models.out_of_memory import oom_as_error
from penguin_models.errors import DeviceMemoryError
from penguin_models.types import Float32Array, PatchedImage
from penguin_models.vlm import PenguinVL

# Tokens appended at once to a cache that holds something: bounds the attention mask to this times the cache.
_CHUNK_TOKENS = 512
_REMEDY = "Use fewer visual tokens (--max-tokens, token_budget), or load the weights in 16 bits (bfloat16)."


@dataclass(frozen=True, eq=False)
class TorchVisualTokens:
    """Embeddings [length, hidden] on the model's device."""

    embeddings: Tensor

    @property
    def length(self) -> int:
        """Visual tokens."""
        return self.embeddings.shape[0]


class TorchRuntime:
    """A `Runtime` over a loaded `PenguinVL`.

    Args:
        model: on its device.
        record: what records decoding steps; CUDA graphs where the model is on CUDA and nothing elsewhere if None.
    """

    def __init__(self, model: PenguinVL, record: Recorder | None = None):
        self._model, self._record = model, record
        self._info = RuntimeInfo(
            name="torch",
            device=str(model.device),
            dtype=str(model.dtype).removeprefix("torch."),
            context_length=model.config.context_length,
            vocab_size=model.config.vocab_size,
        )

    @property
    def info(self) -> RuntimeInfo:
        """What this runtime is."""
        return self._info

    @torch.inference_mode()
    def encode(self, images: Sequence[PatchedImage]) -> list[TorchVisualTokens]:
        """Visual tokens of each image.

        Raises:
            DeviceMemoryError: they do not fit into the device's memory together.
        """
        patches = sum(image.grid.area for image in images)
        with oom_as_error(f"encoding {patches} patches on {self._info.device}", _REMEDY):
            # Cloned: a view would keep the tokens of all images encoded with it alive.
            return [TorchVisualTokens(tokens.clone()) for tokens in self._model.encode(images)]

    def open_cache(self, max_length: int) -> TorchCache:
        """An empty cache."""
        check_fits(max_length, self._info.context_length, "the cache")
        record = self._record
        if record is None and self._model.device.type == "cuda":
            record = CudaGraphRecorder(self._model.device)
        return TorchCache(self._model, max_length, record)

    def synchronize(self) -> None:
        """Returns when the device has done everything that it was given."""
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)


class TorchCache:
    """A `KVCache` in memory reserved once: appending never copies what is held."""

    def __init__(self, model: PenguinVL, max_length: int, record: Recorder | None):
        self._model = model
        self._max_length = max_length
        layers = model.language_model.config.num_hidden_layers
        self._reserved: ReservedCache | None = ReservedCache(layers, max_length, zeroed=record is not None)
        self._steps = DecodingSteps(model, self._reserved, record) if record else None

    @property
    def length(self) -> int:
        """Tokens held."""
        return self._open.length

    @torch.inference_mode()
    def append(self, parts: Sequence[PromptSegment]) -> Float32Array:
        """Extends the cache; see `KVCache.append`.

        Raises:
            ContextLengthError: the parts do not fit; the cache is as before.
            DeviceMemoryError: they do not fit into the device's memory; the cache is as before.
        """
        held, new = self.length, sum(segment_length(part) for part in parts)
        check_fits(held + new, self._max_length, "the cache")
        assert new > 0, "nothing to append"
        try:
            with oom_as_error(f"a cache of {self._max_length} tokens, {held + new} of them in use,", _REMEDY):
                return self._extend(parts, new)
        except DeviceMemoryError:
            self.truncate(held)  # layers may have got to different lengths
            raise

    def _extend(self, parts: Sequence[PromptSegment], new: int) -> Float32Array:
        part = parts[0]
        if self._steps is not None and self.length and new == len(parts) == 1 and isinstance(part, Sequence):
            return _on_host(self._steps.run(part[0]))
        embeddings = torch.cat([self._embed(part) for part in parts if segment_length(part)])[None]
        chunk = new if self.length == 0 else _CHUNK_TOKENS
        for start in range(0, new, chunk):
            output = self._model.language_model(
                inputs_embeds=embeddings[:, start : start + chunk],
                past_key_values=self._open.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return _on_host(output.logits[0, -1])

    def truncate(self, length: int) -> None:
        """Forgets everything after the first `length` tokens."""
        assert 0 <= length <= self.length, f"cannot truncate {self.length} tokens to {length}"
        self._open.show(length)

    def close(self) -> None:
        """Frees the memory."""
        self._reserved = self._steps = None

    @property
    def _open(self) -> ReservedCache:
        assert self._reserved is not None, "the cache is closed"
        return self._reserved

    def _embed(self, part: PromptSegment) -> Tensor:
        if isinstance(part, TorchVisualTokens):
            return part.embeddings
        assert isinstance(part, Sequence), f"a part of another runtime: {type(part).__name__}"
        return self._model.embed_tokens(torch.tensor(part, device=self._model.device))


def _on_host(logits: Tensor) -> Float32Array:
    found: Float32Array = logits.float().cpu().numpy()
    return found
