"""A quantised decoder against full precision: logits at every step, evaluation scores, and when it is good enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from penguin_engine.runtimes.base import PromptSegment, Runtime
from penguin_models.errors import EngineError
from penguin_models.types import Float32Array, PatchedImage


@dataclass(frozen=True)
class Limits:
    """When a variant is not called good.

    Attributes:
        agreement: share of positions at which it must choose the same token as full precision.
        cosine: of its logits with those of full precision, the mean over positions.
        score_loss: most that any score of an evaluation may fall, scores being from 0 to 1.
    """

    agreement: float = 0.95
    cosine: float = 0.99
    score_loss: float = 0.02


@dataclass
class Comparison:
    """A variant against full precision.

    Attributes:
        positions: at which logits were compared.
        agreement: share of them at which both choose the same token.
        cosine: of the logits, mean.
        divergence: Kullback-Leibler divergence of the variant's next-token distribution, mean, in nats.
        largest_error: largest absolute difference of two logits.
        scores: of an evaluation, by name: (full precision, variant).
        intervals: 95 % intervals of variant minus full precision over the same questions, of scores where they are
            known.
    """

    positions: int = 0
    agreement: float = 0.0
    cosine: float = 0.0
    divergence: float = 0.0
    largest_error: float = 0.0
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def failures(self, limits: Limits | None = None) -> list[str]:
        """Why the variant is not good; nothing if it is."""
        limits = limits or Limits()
        found = [
            f"{name} is {value:.4f}, at least {least:g} is wanted"
            for name, value, least in (
                ("agreement", self.agreement, limits.agreement),
                ("cosine", self.cosine, limits.cosine),
            )
            if not value >= least
        ]
        return found + [told for name, told in self._fallen(limits).items() if not self._may_be_chance(name)]

    def doubts(self, limits: Limits | None = None) -> list[str]:
        """Scores that fall by more than is allowed, though chance may explain it: their interval holds 0."""
        fallen = self._fallen(limits or Limits())
        return [
            f"{told} (95 % interval of the change {self.intervals[name][0]:+.4f} to {self.intervals[name][1]:+.4f})"
            for name, told in fallen.items()
            if self._may_be_chance(name)
        ]

    def good(self, limits: Limits | None = None) -> bool | None:
        """Whether the variant is good; None where it is not refused, but has not been scored or leaves doubts."""
        return False if self.failures(limits) else True if self.scores and not self.doubts(limits) else None

    def _fallen(self, limits: Limits) -> dict[str, str]:
        return {
            name: f"{name} falls from {full:.4f} to {variant:.4f}, by more than {limits.score_loss:g}"
            for name, (full, variant) in self.scores.items()
            if not full - variant <= limits.score_loss
        }

    def _may_be_chance(self, name: str) -> bool:
        return name in self.intervals and self.intervals[name][1] >= 0

    def to_dict(self, limits: Limits | None = None) -> dict[str, Any]:
        """For programs."""
        verdict = {"good": self.good(limits), "failures": self.failures(limits), "doubts": self.doubts(limits)}
        return {**asdict(self), "limits": asdict(limits or Limits()), **verdict}


def compare(
    full: Runtime,
    variant: Runtime,
    prompts: Sequence[tuple[Sequence[Sequence[int]], Sequence[PatchedImage]]],
    steps: int = 16,
) -> Comparison:
    """Lets full precision answer prompts and compares the logits at every step; the variant sees the same tokens.

    Args:
        full: the model as it was trained.
        variant: the same model, quantised.
        prompts: for each, its text cut at the images, and the images.
        steps: tokens of each answer.
    """
    pairs: list[tuple[Float32Array, Float32Array]] = []
    for texts, images in prompts:
        caches, logits = [], []
        for runtime in (full, variant):
            parts: list[PromptSegment] = [texts[0]]
            for visual, text in zip(runtime.encode(images), texts[1:], strict=True):
                parts += [visual, text]
            length = sum(map(len, texts)) + sum(image.tokens for image in images) + steps
            caches.append(runtime.open_cache(length))
            logits.append(caches[-1].append(parts))
        pairs.append((logits[0], logits[1]))
        for _ in range(steps - 1):
            token = int(pairs[-1][0].argmax())
            pairs.append((caches[0].append([[token]]), caches[1].append([[token]])))
        for cache in caches:
            cache.close()
    return _summarise(pairs)


def with_scores(
    comparison: Comparison,
    full: Mapping[str, float],
    variant: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> Comparison:
    """Adds the scores of an evaluation, which must be the same ones for both, and the intervals of their changes.

    Raises:
        EngineError: the two were not scored alike.
    """
    if full.keys() != variant.keys():
        different = ", ".join(sorted(full.keys() ^ variant.keys()))
        raise EngineError(f"the two evaluations have different scores ({different}); evaluate both alike")
    comparison.scores = {name: (full[name], variant[name]) for name in full}
    comparison.intervals = dict(intervals or {})
    return comparison


def _summarise(pairs: Sequence[tuple[Float32Array, Float32Array]]) -> Comparison:
    full, variant = (np.stack([pair[i] for pair in pairs]).astype(np.float64) for i in (0, 1))
    lengths = np.linalg.norm(full, axis=-1) * np.linalg.norm(variant, axis=-1)
    log_p, log_q = _log_softmax(full), _log_softmax(variant)
    return Comparison(
        positions=len(pairs),
        agreement=float((full.argmax(-1) == variant.argmax(-1)).mean()),
        cosine=float(((full * variant).sum(-1) / np.maximum(lengths, 1e-30)).mean()),
        divergence=float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean()),
        largest_error=float(np.abs(full - variant).max()),
    )


def _log_softmax(x: Any) -> Any:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
