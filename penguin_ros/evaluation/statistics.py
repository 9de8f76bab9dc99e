"""How sure a score is, and whether two runs differ.

A score is a ratio of sums over questions, sum(numerators) / sum(denominators): means, precision, F1 alike. Questions
are drawn with replacement; questions about one bag are treated as independent, which they are only roughly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
LEVEL = 0.95
_CELLS = 4_000_000
"""Resampled counts in memory at once."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Ratio:
    """One question's part in a score."""

    numerator: float
    denominator: float = 1.0


def ratio(parts: Sequence[Ratio]) -> float | None:
    """The score; None where nothing counts."""
    total = sum(part.denominator for part in parts)
    return sum(part.numerator for part in parts) / total if total else None


def interval(parts: Sequence[Ratio], seed: int = 0) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval (Efron 1979) of a ratio of sums; None for fewer than two questions."""
    parts = [part for part in parts if part.denominator]
    if len(parts) < 2:
        return None
    sums = np.array([(part.numerator, part.denominator) for part in parts])
    scores = np.concatenate([_ratios(counts @ sums) for counts in _draws(len(parts), seed)])
    return _percentiles(scores)


@dataclass(frozen=True)
class Difference:
    """A paired comparison of two runs on the same questions: B minus A.

    Attributes:
        questions: that both answered.
        difference: of the scores, B minus A.
        low: of its 95 % interval; None for fewer than two questions.
        high: see low.
    """

    questions: int
    difference: float
    low: float | None
    high: float | None


def paired_difference(a: Sequence[Ratio], b: Sequence[Ratio], seed: int = 0) -> Difference | None:
    """Difference of two scores, and its bootstrap interval with the same questions drawn for both.

    Args:
        a: of the first run, a question each.
        b: of the second run, the same questions in the same order.
        seed: of the draws.

    Returns:
        None where nothing counts in one of them.
    """
    score_a, score_b = ratio(a), ratio(b)
    if score_a is None or score_b is None:
        return None
    low = high = None
    if len(a) >= 2:
        sums_a, sums_b = (np.array([(part.numerator, part.denominator) for part in parts]) for parts in (a, b))
        draws = _draws(len(a), seed)
        scores = np.concatenate([_ratios(counts @ sums_b) - _ratios(counts @ sums_a) for counts in draws])
        low, high = _percentiles(scores)
    return Difference(len(a), score_b - score_a, low, high)


def sign_test(better: int, worse: int) -> float:
    """Two-sided exact McNemar test: chance of flips at least so uneven if both runs were equally good.

    McNemar 1947 in its exact form: binomial with one half over the questions on which the runs disagree.
    """
    flips = better + worse
    tail = sum(math.comb(flips, k) for k in range(min(better, worse) + 1)) / 2**flips
    return min(1.0, 2 * tail)


def percentiles(values: Sequence[float], wanted: Sequence[int] = (50, 90, 99)) -> dict[str, float] | None:
    """Percentiles by linear interpolation, as {"p50": ...}; None for no values."""
    if not values:
        return None
    return {f"p{p}": float(v) for p, v in zip(wanted, np.percentile(values, wanted), strict=True)}


def _draws(questions: int, seed: int) -> Iterator[FloatArray]:
    """How often each question was drawn: [resamples, questions], in blocks."""
    random = np.random.default_rng(seed)
    block = max(1, _CELLS // questions)
    for start in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - start)
        yield random.multinomial(questions, np.full(questions, 1 / questions), size).astype(np.float64)


def _ratios(sums: FloatArray) -> FloatArray:
    """Ratios of [resamples, 2]; NaN where the denominator came out as 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios: FloatArray = sums[:, 0] / sums[:, 1]
    return ratios


def _percentiles(scores: FloatArray) -> tuple[float, float]:
    low, high = np.nanpercentile(scores, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)
