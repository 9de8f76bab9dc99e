"""A quantised decoder against full precision: logits at every step, evaluation scores, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from penguin_engine.export.progress import Phase, Progress, silent
from penguin_engine.runtimes.base import Runtime, interleave
from penguin_models.types import Float32Array, PatchedImage


@dataclass(frozen=True)
class Limits:
    """The limits that a variant must keep to be good."""

    agreement: float = 0.95  # least share of positions with the same next token as full precision
    cosine: float = 0.99  # least mean cosine of the logits with those of full precision
    score_loss: float = 0.02  # most that a score of an evaluation, from 0 to 1, may fall


@dataclass(frozen=True)
class ScoreChange:
    """One score of an evaluation, from 0 to 1."""

    full: float  # at full precision
    variant: float  # of the variant
    interval: tuple[float, float] | None = None  # 95 % interval of variant minus full precision, if known


@dataclass
class Comparison:
    """Differences between a variant and full precision."""

    positions: int  # at which logits were compared
    agreement: float  # share of positions at which both choose the same token
    cosine: float  # mean over positions, of the logits
    divergence: float = 0.0  # mean Kullback-Leibler divergence of the variant's next-token distribution, in nats
    largest_error: float = 0.0  # largest absolute difference of two logits
    scores: dict[str, ScoreChange] = field(default_factory=dict)  # of an evaluation, by name; empty without one

    def judge(self, limits: Limits) -> dict[str, Any]:
        """Returns the comparison and its verdict as plain types.

        "failures" are limits that the variant breaks. "doubts" are scores that fall too much, though chance may
        explain it. "good" is None if the variant has no failures, but was not scored or leaves doubts.
        """
        failures = []
        for name in ("agreement", "cosine"):
            value, least = getattr(self, name), getattr(limits, name)
            if not value >= least:  # also NaN
                failures.append(f"{name} is {value:.4f}, at least {least:g} is required")
        doubts = []
        for name, score in self.scores.items():
            if score.full - score.variant <= limits.score_loss:
                continue
            fall = f"{name} falls from {score.full:.4f} to {score.variant:.4f}, by more than {limits.score_loss:g}"
            if score.interval is not None and score.interval[1] >= 0:  # chance may explain the loss
                low, high = score.interval
                doubts.append(f"{fall} (95 % interval of the change {low:+.4f} to {high:+.4f})")
            else:
                failures.append(fall)
        good = False if failures else True if self.scores and not doubts else None
        return {**asdict(self), "limits": asdict(limits), "good": good, "failures": failures, "doubts": doubts}


def compare_logits(
    full: Runtime,
    variant: Runtime,
    prompts: Sequence[tuple[Sequence[Sequence[int]], Sequence[PatchedImage]]],
    steps: int = 16,
    show: Progress = silent,
) -> Comparison:
    """Lets full precision answer prompts and compares the logits at every step; the variant reads the same tokens.

    A prompt is its text split at the images, and the images; each answer has `steps` tokens.
    """
    pairs: list[tuple[Float32Array, Float32Array]] = []
    phase = Phase(show, "comparison", len(prompts))
    for texts, images in prompts:
        length = sum(map(len, texts)) + sum(image.tokens for image in images) + steps
        caches = [runtime.open_cache(length) for runtime in (full, variant)]
        prompt = [interleave(texts, runtime.encode(images)) for runtime in (full, variant)]
        pairs.append((caches[0].append(prompt[0]), caches[1].append(prompt[1])))
        for _ in range(steps - 1):
            token = int(pairs[-1][0].argmax())
            pairs.append((caches[0].append([[token]]), caches[1].append([[token]])))
        for cache in caches:
            cache.close()
        phase.add()
    return _summarise(pairs)


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
