"""Intervals and paired comparisons against closed forms and hand-worked cases."""

import numpy as np
import pytest

from penguin_ros.evaluation.metrics.statistics import (
    Ratio,
    intervals,
    paired_differences,
    percentiles,
    ratio,
    sign_test,
)


def interval(parts, seed=0):
    return intervals([parts], seed)[0]


def paired_difference(a, b):
    return paired_differences([a], [b])[0]


def shares(right, wrong):
    return [Ratio(1.0)] * right + [Ratio(0.0)] * wrong


def test_a_ratio_of_sums_weights_questions_by_their_denominators():
    assert ratio([Ratio(1, 4), Ratio(3, 4)]) == 0.5
    assert ratio([Ratio(1, 1), Ratio(0, 9)]) == 0.1
    assert ratio([Ratio(0, 0)]) is None
    assert ratio([]) is None


def test_the_interval_of_a_share_matches_the_binomial_approximation():
    """200 questions, half of them correct: 0.5 +- 1.96 * sqrt(0.25 / 200) = 0.5 +- 0.069."""
    low, high = interval(shares(100, 100))
    assert low == pytest.approx(0.5 - 0.069, abs=0.012)
    assert high == pytest.approx(0.5 + 0.069, abs=0.012)


def test_the_interval_of_a_ratio_of_sums_matches_the_delta_method():
    """For questions with contributions (x, y): var = sum((x - r y)^2) / sum(y)^2."""
    random = np.random.default_rng(1)
    sizes = random.integers(1, 8, 300)
    hits = random.binomial(sizes, 0.3)
    parts = [Ratio(int(x), int(y)) for x, y in zip(hits, sizes, strict=True)]
    score = ratio(parts)
    deviation = np.sqrt(np.sum((hits - score * sizes) ** 2)) / sizes.sum()
    low, high = interval(parts)
    assert (high - low) == pytest.approx(2 * 1.96 * deviation, rel=0.1)
    assert low < score < high


def test_the_same_seed_gives_the_same_interval():
    parts = shares(7, 5)
    assert interval(parts, seed=3) == interval(parts, seed=3)
    assert interval(parts, seed=3) != interval(shares(8, 5), seed=3)


def test_fewer_than_two_questions_have_no_interval():
    assert interval(shares(1, 0)) is None
    assert interval([Ratio(1), Ratio(0, 0)]) is None


@pytest.mark.parametrize(("count", "width"), [(4, 3.8415 / 7.8415), (100, 3.8415 / 103.8415)])
def test_a_share_of_0_or_1_gets_the_wilson_interval(count, width):
    """With no correct answer of n, Wilson's upper bound is z^2 / (n + z^2); with all correct, it is mirrored."""
    nothing = [Ratio(0, 0)] * 3
    assert interval(shares(0, count) + nothing) == (0, pytest.approx(width, abs=1e-4))
    assert interval(shares(count, 0) + nothing) == (pytest.approx(1 - width, abs=1e-4), 1)
    assert interval([Ratio(size, size) for size in range(1, count + 1)]) == interval(shares(count, 0))
    assert intervals([shares(count, 0)], shares=[False]) == [(1, 1)]  # a mean error, for example
    assert interval([Ratio(0.5)] * count) == (0.5, 0.5)


def test_questions_with_denominator_0_do_not_affect_the_interval():
    """Every second of 400 questions counts; the interval is that of those 200."""
    parts = [part for pair in zip(shares(100, 100), [Ratio(0, 0)] * 200, strict=True) for part in pair]
    low, high = interval(parts)
    assert (low, high) == (pytest.approx(0.431, abs=0.015), pytest.approx(0.569, abs=0.015))


def test_intervals_of_several_scores_equal_those_of_each_score():
    a, b = shares(7, 13), shares(12, 8)
    assert intervals([a, b], seed=2) == [interval(a, seed=2), interval(b, seed=2)]
    assert intervals([[], []]) == [None, None]


def test_a_paired_difference_is_narrower_than_an_unpaired_one():
    """The runs differ in three of forty questions, which is significant only if they are paired."""
    a = shares(20, 20)
    b = shares(23, 17)
    found = paired_difference(a, b)
    assert (found.questions, found.a, found.b) == (40, 0.5, 0.575)
    assert 0 <= found.low < 3 / 40 < found.high < 0.18
    swapped = paired_difference(b, a)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))


def test_equal_runs_differ_by_0_and_undefined_scores_have_no_difference():
    same = paired_difference(shares(5, 5), shares(5, 5))
    assert (same.a, same.b, same.low, same.high) == (0.5, 0.5, 0, 0)
    assert paired_difference([Ratio(0, 0)], [Ratio(1)]) is None
    assert paired_difference([Ratio(0)], [Ratio(1)]).low is None


@pytest.mark.parametrize(
    ("better", "worse", "chance"),
    [
        (0, 0, 1),
        (1, 1, 1),
        (5, 0, 2 / 32),
        (0, 6, 2 / 64),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (1000, 1000, 1),
        (3000, 0, 0),
    ],
)
def test_sign_test(better, worse, chance):
    assert sign_test(better, worse) == pytest.approx(chance)


def test_percentiles():
    assert percentiles([1.0, 2.0, 3.0]) == {"p50": 2.0, "p90": pytest.approx(2.8), "p99": pytest.approx(2.98)}
    assert percentiles([]) is None
