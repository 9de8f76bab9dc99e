"""Encode, prefill and decode rates of anything that has the operations of a `Runtime`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from penguin_engine.bench.machine import timed
from penguin_engine.runtimes.base import KVCache, Runtime
from penguin_models.types import PatchedImage, Size

if TYPE_CHECKING:
    from penguin_engine.bench.llama_cpp import LlamaSequence

FRAME = Size(32, 40)
"""Patches of the frames that are encoded: 448x560 pixels, 320 tokens."""
_PATCH_VALUES = 3 * 14 * 14
_VOCABULARY = 200
"""Token ids below this exist in every model."""


def token_rates(cache: KVCache | LlamaSequence, prompt_tokens: int, new_tokens: int) -> dict[str, float]:
    """Returns prefill and decode rates; the empty cache must hold `prompt_tokens + new_tokens`."""
    ids = np.random.default_rng(0).integers(0, _VOCABULARY, prompt_tokens).tolist()

    def prefill() -> None:
        cache.truncate(0)
        cache.append([ids])

    def decode() -> None:
        cache.truncate(prompt_tokens)
        for token in range(new_tokens):
            cache.append([[token % _VOCABULARY]])

    cache.append([ids[:8]])  # libraries allocate their workspaces
    prefill_s = timed(prefill)
    cache.append([[1]])
    decode_s = timed(decode)
    return {"prefill_tokens_per_s": prompt_tokens / prefill_s, "decode_tokens_per_s": new_tokens / decode_s}


def runtime_rates(
    runtime: Runtime, prompt_tokens: int = 512, new_tokens: int = 32, frames: int = 3
) -> dict[str, float]:
    """Returns the rates of encoding frames together, and of prefilling and then decoding tokens."""
    random = np.random.default_rng(0)
    patches = random.standard_normal((frames, FRAME.area, _PATCH_VALUES), dtype=np.float32)
    images = [PatchedImage(frame, FRAME, 2) for frame in patches]

    def encode() -> None:
        runtime.encode(images)
        runtime.synchronize()

    encode()
    encode_s = timed(encode)
    cache = runtime.open_cache(prompt_tokens + new_tokens)
    rates = token_rates(cache, prompt_tokens, new_tokens)
    cache.close()
    return {"encode_patches_per_s": frames * FRAME.area / encode_s, **rates}
