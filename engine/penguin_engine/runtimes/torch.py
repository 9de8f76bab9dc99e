"""The model on torch: any CPU or CUDA device, no export needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache as TransformersCache
from transformers.cache_utils import DynamicLayer

from penguin_engine.runtime import Part, RuntimeInfo, check_fits, part_length
from penguin_models.types import Float32Array, PatchedImage
from penguin_models.vlm import PenguinVL

# Tokens appended at once to a cache that holds something: bounds the attention mask to this times the cache.
_CHUNK_TOKENS = 512


@dataclass(frozen=True, eq=False)
class TorchVisualTokens:
    """Embeddings [length, hidden] on the model's device."""

    embeddings: Tensor

    @property
    def length(self) -> int:
        """Visual tokens."""
        return self.embeddings.shape[0]


class TorchRuntime:
    """A `Runtime` over a loaded `PenguinVL`."""

    def __init__(self, model: PenguinVL):
        self._model = model
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
        """Visual tokens of each image."""
        # Cloned: a view would keep the tokens of all images encoded with it alive.
        return [TorchVisualTokens(tokens.clone()) for tokens in self._model.encode(images)]

    def open_cache(self, max_length: int) -> TorchCache:
        """An empty cache."""
        check_fits(max_length, self._info.context_length, "the cache")
        return TorchCache(self._model, max_length)


class TorchCache:
    """A `Cache` in memory reserved once: appending never copies what is held."""

    def __init__(self, model: PenguinVL, max_length: int):
        self._model = model
        self._max_length = max_length
        layers = model.language_model.config.num_hidden_layers
        self._cache: Any = TransformersCache(layers=[_ReservedLayer(max_length) for _ in range(layers)])

    @property
    def length(self) -> int:
        """Tokens held."""
        return int(self._cache.get_seq_length())

    @torch.inference_mode()
    def append(self, parts: Sequence[Part]) -> Float32Array:
        """Extends the cache; see `Cache.append`."""
        new = sum(part_length(part) for part in parts)
        check_fits(self.length + new, self._max_length, "the cache")
        assert new > 0, "nothing to append"
        embeddings = torch.cat([self._embed(part) for part in parts if part_length(part)])[None]
        chunk = new if self.length == 0 else _CHUNK_TOKENS
        for start in range(0, new, chunk):
            output = self._model.language_model(
                inputs_embeds=embeddings[:, start : start + chunk],
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        logits: Float32Array = output.logits[0, -1].float().cpu().numpy()
        return logits

    def truncate(self, length: int) -> None:
        """Forgets everything after the first `length` tokens."""
        surplus = self.length - length
        assert length >= 0 and surplus >= 0, f"cannot truncate {self.length} tokens to {length}"
        for layer in self._cache.layers:
            layer.crop(-surplus)

    def close(self) -> None:
        """Frees the memory."""
        self._cache = None

    def _embed(self, part: Part) -> Tensor:
        if isinstance(part, TorchVisualTokens):
            return part.embeddings
        assert isinstance(part, Sequence), f"a part of another runtime: {type(part).__name__}"
        return self._model.embed_tokens(torch.tensor(part, device=self._model.device))


class _ReservedLayer(DynamicLayer):  # type: ignore[misc]
    """transformers' growing cache layer, growing inside memory that is reserved once."""

    def __init__(self, capacity: int):
        super().__init__()
        self._capacity = capacity

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Reserves the memory when the first keys show its shape and type."""
        self.dtype, self.device = key_states.dtype, key_states.device
        batch, heads, _, width = key_states.shape
        self._key_memory, self._value_memory = key_states.new_empty(2, batch, heads, self._capacity, width)
        self.keys, self.values = self._key_memory[:, :, :0], self._value_memory[:, :, :0]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes behind what is held; the result are views."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        self._key_memory[:, :, start:end] = key_states
        self._value_memory[:, :, start:end] = value_states
        self.keys, self.values = self._key_memory[:, :, :end], self._value_memory[:, :, :end]
        return self.keys, self.values
