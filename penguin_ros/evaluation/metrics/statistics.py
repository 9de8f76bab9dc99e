"""Confidence intervals of scores, and paired comparison of two runs.

A score is a ratio of sums over questions, sum(numerators) / sum(denominators); this covers means, precision and F1.
The bootstrap draws questions with replacement, so it treats questions about the same bag as independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

RESAMPLES = 2000
LEVEL = 0.95

FloatArray = npt.NDArray[np.float64]


class Ratio(NamedTuple):
    """The contribution of one question to a score."""

    numerator: float
    denominator: float = 1.0


def sum_ratios(parts: Sequence[Ratio]) -> Ratio:
    """Returns the sum of numerators over the sum of denominators."""
    return Ratio(math.fsum(part.numerator for part in parts), math.fsum(part.denominator for part in parts))


def ratio(parts: Sequence[Ratio]) -> float | None:
    """Returns the score, or None if all denominators are 0."""
    total = sum_ratios(parts)
    return total.numerator / total.denominator if total.denominator else None


def intervals(
    columns: Sequence[Sequence[Ratio]], seed: int = 0, shares: Sequence[bool] | None = None
) -> list[tuple[float, float] | None]:
    """Returns the 95 % percentile bootstrap interval (Efron 1979) of each score over the same questions.

    If a share is 0 in every question, or 1 in every question, all resamples are alike and the bootstrap interval has no
    width; Wilson's score interval (Wilson 1927) is returned instead.

    A question with denominator 0 does not count. `shares` tells which scores lie between 0 and 1; None means all.

    Returns:
        (low, high) of each score; None if fewer than two questions count.
    """
    scores = _resampled(columns, seed)
    bounds: list[tuple[float, float] | None] = []
    for i, column in enumerate(columns):
        values = [part.numerator / part.denominator for part in column if part.denominator > 0]
        if len(values) < 2:
            bounds.append(None)
        elif {*values} in ({0.0}, {1.0}) and (shares is None or shares[i]):
            low, high = binomtest(int(sum(values)), len(values)).proportion_ci(LEVEL, method="wilson")
            bounds.append((float(low), float(high)))
        else:
            bounds.append(_percentile_interval(scores[:, i]))
    return bounds


@dataclass(frozen=True)
class Difference:
    """Paired comparison of one score of two runs over the same questions."""

    a: float  # score of the first run
    b: float  # score of the second run
    low: float | None  # lower bound of the 95 % interval of b - a; None if fewer than two questions count
    high: float | None  # upper bound of that interval
    questions: int  # number of questions that count in both runs


def paired_differences(
    columns_a: Sequence[Sequence[Ratio]], columns_b: Sequence[Sequence[Ratio]], seed: int = 0
) -> list[Difference | None]:
    """Compares scores of two runs by a paired bootstrap, which draws the same questions in both (Efron 1979).

    Both have the same scores and questions. Returns the difference of each score; None if it is undefined in a run.
    """
    scores = _resampled([*columns_a, *columns_b], seed)
    differences: list[Difference | None] = []
    for i, (a, b) in enumerate(zip(columns_a, columns_b, strict=True)):
        score_a, score_b = ratio(a), ratio(b)
        if score_a is None or score_b is None:
            differences.append(None)
            continue
        count = sum(x.denominator > 0 and y.denominator > 0 for x, y in zip(a, b, strict=True))
        resampled = scores[:, len(columns_a) + i] - scores[:, i]
        low, high = _percentile_interval(resampled) if count >= 2 else (None, None)
        differences.append(Difference(score_a, score_b, low, high, count))
    return differences


def sign_test(better: int, worse: int) -> float:
    """Returns the two-sided p-value of the exact McNemar test (McNemar 1947).

    `better` questions were answered correctly only by the second run, `worse` questions only by the first.
    """
    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """Returns the percentiles "p50", "p90" and "p99" by linear interpolation; None for no values."""
    if not values:
        return None
    p50, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
    return {"p50": p50, "p90": p90, "p99": p99}


def median_interval(groups: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float] | tuple[None, None]:
    """Returns the 95 % percentile bootstrap interval of the median of all values, drawing groups with replacement.

    None and None if fewer than two groups have values.
    """
    filled = [np.array(group) for group in groups if len(group)]
    if len(filled) < 2:
        return None, None
    drawn = np.random.default_rng(seed).integers(0, len(filled), (RESAMPLES, len(filled)))
    medians = [np.median(np.concatenate([filled[i] for i in row])) for row in drawn]
    low, high = np.percentile(medians, [50 * (1 - LEVEL), 50 * (1 + LEVEL)], method="nearest")  # they may be infinite
    return float(low), float(high)


def _resampled(columns: Sequence[Sequence[Ratio]], seed: int) -> FloatArray:
    """Returns the scores of each resample [RESAMPLES, columns]; NaN if no question that counts was drawn."""
    sums = np.array(columns)  # [columns, questions, numerator and denominator]
    if sums.size == 0:
        return np.empty((RESAMPLES, len(columns)))
    questions = sums.shape[1]
    drawn = np.random.default_rng(seed).integers(0, questions, (RESAMPLES, questions))
    counts = np.stack([np.bincount(row, minlength=questions) for row in drawn]).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        scores: FloatArray = (counts @ sums[..., 0].T) / (counts @ sums[..., 1].T)
    return scores


def _percentile_interval(scores: FloatArray) -> tuple[float, float]:
    low, high = np.nanpercentile(scores, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)
