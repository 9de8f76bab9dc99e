"""How sure a score is, and whether two runs differ.

A score is a ratio of sums over questions, sum(numerators) / sum(denominators): means, precision, F1 alike. Questions
are drawn with replacement; questions about one bag are treated as independent, which they are only roughly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

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
    total = math.fsum(part.denominator for part in parts)
    return math.fsum(part.numerator for part in parts) / total if total else None


def intervals(
    columns: Sequence[Sequence[Ratio]], seed: int = 0, shares: Sequence[bool] | None = None
) -> list[tuple[float, float] | None]:
    """95 % percentile bootstrap intervals (Efron 1979) of several scores over the same questions.

    Where a share is 0 in every question that counts, or 1 in every one, all draws are alike and would seem sure: there
    the interval is Wilson's (1927) of as many questions.

    Args:
        columns: of each score the part of every question; a denominator of 0 where a question does not count.
        seed: of the draws.
        shares: whether each score lies between 0 and 1; all of them if None.

    Returns:
        Low and high of each score; None where fewer than two questions count.
    """
    scores = _resampled(columns, seed)
    found: list[tuple[float, float] | None] = []
    for i, column in enumerate(columns):
        values = [part.numerator / part.denominator for part in column if part.denominator > 0]
        if len(values) < 2:
            found.append(None)
        elif {*values} in ({0.0}, {1.0}) and (shares is None or shares[i]):
            found.append(_wilson(values[0], len(values)))
        else:
            found.append(_percentiles(scores[:, i]))
    return found


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share that is 0 or 1."""
    square = NormalDist().inv_cdf((1 + LEVEL) / 2) ** 2
    width = square / (count + square)
    return (0.0, width) if share == 0 else (1 - width, 1.0)


@dataclass(frozen=True)
class Difference:
    """A paired comparison of a score of two runs, over the same questions.

    Attributes:
        a: score of the first run.
        b: score of the second run.
        low: of the 95 % interval of b - a; None where fewer than two questions count.
        high: see low.
        questions: that count in both.
    """

    a: float
    b: float
    low: float | None
    high: float | None
    questions: int


def paired_differences(
    columns_a: Sequence[Sequence[Ratio]], columns_b: Sequence[Sequence[Ratio]], seed: int = 0
) -> list[Difference | None]:
    """Differences of several scores, with bootstrap intervals for which the same questions are drawn in both runs.

    Args:
        columns_a: of each score the part of every question, in the first run.
        columns_b: the same scores and questions in the second run.
        seed: of the draws.

    Returns:
        None where a score is not defined in one of the runs.
    """
    scores = _resampled([*columns_a, *columns_b], seed)
    found: list[Difference | None] = []
    for i, (a, b) in enumerate(zip(columns_a, columns_b, strict=True)):
        value_a, value_b = ratio(a), ratio(b)
        if value_a is None or value_b is None:
            found.append(None)
            continue
        count = sum(x.denominator > 0 and y.denominator > 0 for x, y in zip(a, b, strict=True))
        drawn = scores[:, len(columns_a) + i] - scores[:, i]
        low, high = _percentiles(drawn) if count >= 2 else (None, None)
        found.append(Difference(value_a, value_b, low, high, count))
    return found


def sign_test(better: int, worse: int) -> float:
    """Two-sided exact McNemar test: chance of flips at least so uneven if both runs were equally good.

    McNemar 1947 in its exact form: binomial with one half over the questions on which the runs disagree.
    """
    flips = better + worse
    tail = sum(math.comb(flips, k) for k in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / (1 << flips))  # of whole numbers: nothing overflows


def percentiles(values: Sequence[float], wanted: Sequence[int] = (50, 90, 99)) -> dict[str, float] | None:
    """Percentiles by linear interpolation, as {"p50": ...}; None for no values."""
    if not values:
        return None
    return {f"p{p}": float(v) for p, v in zip(wanted, np.percentile(values, wanted), strict=True)}


def _resampled(columns: Sequence[Sequence[Ratio]], seed: int) -> FloatArray:
    """Scores of each draw of questions: [resamples, columns]; NaN where no question that counts was drawn."""
    sums = np.array([[(part.numerator, part.denominator) for part in column] for column in columns])
    if sums.size == 0:
        return np.empty((RESAMPLES, len(columns)))
    questions = sums.shape[1]
    random = np.random.default_rng(seed)
    block = max(1, _CELLS // questions)
    blocks = []
    for start in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - start)
        drawn = random.integers(0, questions, (size, questions)) + questions * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * questions).reshape(size, questions).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            blocks.append((counts @ sums[..., 0].T) / (counts @ sums[..., 1].T))
    return np.concatenate(blocks)


def _percentiles(scores: FloatArray) -> tuple[float, float]:
    low, high = np.nanpercentile(scores, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)
