"""Whether two KV caches give the same logits and tokens, and how fast they decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penguin_engine.bench.machine import timed
from penguin_engine.runtimes.base import KVCache, PromptSegment, segment_length
from penguin_models.types import Float32Array


@dataclass(frozen=True)
class Decoded:
    """Logits after a prompt and after each token, and the decoding rate."""

    logits: Float32Array  # [1 + tokens, vocab]
    tokens: list[int]  # that were appended one by one
    tokens_per_s: float

    def relative_error(self, reference: Decoded) -> float:
        """Returns the largest relative difference of the logits of one position."""
        difference = np.linalg.norm(self.logits - reference.logits, axis=1)
        return float((difference / np.linalg.norm(reference.logits, axis=1)).max())

    def same_tokens(self, reference: Decoded) -> int:
        """Returns how often the most likely token is the same."""
        return int((self.logits.argmax(1) == reference.logits.argmax(1)).sum())

    def agreement(self, reference: Decoded) -> str:
        """Returns both for people."""
        return (
            f"logits differ by {100 * self.relative_error(reference):.2g} %, {self.same_tokens(reference)} of "
            f"{len(self.logits)} tokens are equal"
        )


def decode(
    cache: KVCache,
    prompt: Sequence[PromptSegment],
    new_tokens: int,
    tokens: Sequence[int] | None = None,
    at_least_s: float = 1.0,
) -> Decoded:
    """Appends a prompt to an empty cache and then single tokens: the given ones, or the most likely."""
    rows, appended = [cache.append(prompt)], list(tokens or ())
    for i in range(new_tokens):
        if tokens is None:
            appended.append(int(rows[-1].argmax()))
        rows.append(cache.append([[appended[i]]]))
    length = sum(map(segment_length, prompt))

    def again() -> None:
        cache.truncate(length)
        for token in appended:
            cache.append([[token]])

    return Decoded(np.stack(rows), appended, new_tokens / timed(again, at_least_s))
