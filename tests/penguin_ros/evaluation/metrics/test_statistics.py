"""Intervals and comparisons, against closed forms and cases worked out by hand."""

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


def test_a_ratio_of_sums_weighs_questions_by_what_they_hold():
    assert ratio([Ratio(1, 4), Ratio(3, 4)]) == 0.5
    assert ratio([Ratio(1, 1), Ratio(0, 9)]) == 0.1
    assert ratio([Ratio(0, 0)]) is None
    assert ratio([]) is None


def test_the_interval_of_a_share_is_the_binomial_one():
    """200 questions, half of them right: 0.5 -+ 1.96 * sqrt(0.25 / 200) = 0.5 -+ 0.069."""
    low, high = interval(shares(100, 100))
    assert low == pytest.approx(0.5 - 0.069, abs=0.012)
    assert high == pytest.approx(0.5 + 0.069, abs=0.012)


def test_the_interval_of_a_ratio_of_sums():
    """The delta method for n questions with (x, y): var = sum((x - r y)^2) / sum(y)^2."""
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


def test_too_few_questions_have_no_interval():
    assert interval(shares(1, 0)) is None
    assert interval([Ratio(1), Ratio(0, 0)]) is None


@pytest.mark.parametrize(("count", "width"), [(4, 3.8415 / 7.8415), (100, 3.8415 / 103.8415)])
def test_questions_that_all_agree_are_not_sure(count, width):
    """Wilson: of n questions none right, from 0 to z^2 / (n + z^2); all right, the same from the other side."""
    nothing = [Ratio(0, 0)] * 3
    assert interval(shares(0, count) + nothing) == (0, pytest.approx(width, abs=1e-4))
    assert interval(shares(count, 0) + nothing) == (pytest.approx(1 - width, abs=1e-4), 1)
    assert interval([Ratio(size, size) for size in range(1, count + 1)]) == interval(shares(count, 0))
    assert intervals([shares(count, 0)], shares=[False]) == [(1, 1)]  # a mean error of one, say
    assert interval([Ratio(0.5)] * count) == (0.5, 0.5)


def test_blocks_of_draws_do_not_show(monkeypatch):
    parts = shares(30, 20)
    whole = interval(parts)
    monkeypatch.setattr("penguin_ros.evaluation.metrics.statistics._CELLS", 50 * 7)
    low, high = interval(parts)
    assert (low, high) == pytest.approx(whole, abs=0.03)


def test_questions_that_do_not_count_do_not_matter():
    """Of 400 questions every second has a part in the score; its interval is that of the 200 alone."""
    parts = [part for pair in zip(shares(100, 100), [Ratio(0, 0)] * 200, strict=True) for part in pair]
    low, high = interval(parts)
    assert (low, high) == (pytest.approx(0.431, abs=0.015), pytest.approx(0.569, abs=0.015))


def test_several_scores_at_once_are_those_of_each_alone():
    a, b = shares(7, 13), shares(12, 8)
    assert intervals([a, b], seed=2) == [interval(a, seed=2), interval(b, seed=2)]
    assert intervals([[], []]) == [None, None]


def test_a_paired_difference_knows_that_questions_are_the_same():
    """Both runs answer alike but for three of forty questions: far surer than two independent shares would be."""
    a = shares(20, 20)
    b = shares(23, 17)
    found = paired_difference(a, b)
    assert (found.questions, found.a, found.b) == (40, 0.5, 0.575)
    assert 0 <= found.low < 3 / 40 < found.high < 0.18
    swapped = paired_difference(b, a)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))


def test_a_difference_of_equal_runs_is_nothing():
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
