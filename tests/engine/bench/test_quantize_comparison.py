"""The comparison of logits, and the verdict on a quantised variant."""

from dataclasses import replace

import numpy as np
import pytest

from penguin_engine.bench.quantize_comparison import Comparison, Limits, ScoreChange, compare_logits


class FakeRuntime:
    """A runtime whose logits depend only on the last token, with a given error."""

    def __init__(self, error=0.0):
        self.error, self.seen = error, []

    def encode(self, images):
        return []

    def open_cache(self, max_length):
        return self

    def append(self, parts):
        token = parts[-1][-1]
        self.seen.append(token)
        logits = np.random.default_rng(token).normal(size=50).astype(np.float32) * 4
        return logits + np.random.default_rng(1000 + token).normal(size=50).astype(np.float32) * self.error

    def close(self):
        pass


def test_both_read_the_answer_of_full_precision():
    full, variant = FakeRuntime(), FakeRuntime(error=3.0)
    compare_logits(full, variant, [([[1, 2]], []), ([[3]], [])], steps=5)
    assert full.seen == variant.seen and len(full.seen) == 10


def test_comparison_with_itself_is_perfect():
    found = compare_logits(FakeRuntime(), FakeRuntime(), [([[1]], [])], steps=8)
    assert (found.positions, found.agreement, found.largest_error) == (8, 1.0, 0.0)
    assert found.cosine == pytest.approx(1) and found.divergence == pytest.approx(0, abs=1e-9)
    assert found.judge(Limits())["failures"] == []


def test_numbers_of_a_comparison():
    """By hand: two positions with different tokens at the second."""

    class Two(FakeRuntime):
        def __init__(self, rows):
            self.rows = rows

        def append(self, parts):
            return np.array(self.rows.pop(0), np.float32)

    log2 = np.log(2)
    found = compare_logits(Two([[log2, 0], [3, 4]]), Two([[0, 0], [4, 3]]), [([[1]], [])], steps=2)
    assert found.agreement == 1.0 - 0.5
    assert found.largest_error == pytest.approx(1.0)
    assert found.cosine == pytest.approx((0 + 24 / 25) / 2)
    first = 2 / 3 * np.log(2 / 3 * 2) + 1 / 3 * np.log(1 / 3 * 2)
    p = np.exp([3, 4]) / np.exp([3, 4]).sum()
    assert found.divergence == pytest.approx((first + p @ np.array([-1, 1])) / 2)


GOOD = Comparison(10, agreement=1.0, cosine=1.0, scores={"count": ScoreChange(0.5, 0.49)})


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        ({"agreement": 0.9}, "agreement is 0.9000, at least 0.95 is required"),
        ({"cosine": 0.5}, "cosine is 0.5000, at least 0.99"),
        ({"cosine": np.nan}, "cosine is nan"),
        ({"scores": {"boxes": ScoreChange(0.8, 0.7)}}, "boxes falls from 0.8000 to 0.7000, by more than 0.02"),
        ({"scores": {"boxes": ScoreChange(0.8, np.nan)}}, "boxes falls from 0.8000 to nan"),
    ],
)
def test_broken_limits_are_failures(change, failure):
    assert GOOD.judge(Limits())["good"] is True
    verdict = replace(GOOD, **change).judge(Limits())
    assert len(verdict["failures"]) == 1 and verdict["failures"][0].startswith(failure)
    assert verdict["good"] is False


def test_logits_alone_do_not_make_a_variant_good():
    assert replace(GOOD, scores={}).judge(Limits())["good"] is None
    assert replace(GOOD, scores={}, agreement=0.5).judge(Limits())["good"] is False


@pytest.mark.parametrize(
    ("interval", "good"), [((-0.3, 0.05), None), ((-0.3, 0.0), None), ((-0.3, -0.1), False), ((np.nan, np.nan), False)]
)
def test_a_loss_that_may_be_chance_is_a_doubt(interval, good):
    scores = {"boxes": ScoreChange(0.8, 0.6, interval), "count": ScoreChange(0.5, 0.5, (-0.1, 0.1))}
    verdict = replace(GOOD, scores=scores).judge(Limits())
    assert verdict["good"] is good
    found, other = verdict["doubts"], verdict["failures"]
    if good is False:
        found, other = other, found
    assert other == [] and len(found) == 1
    assert found[0].startswith("boxes falls from 0.8000 to 0.6000, by more than 0.02")


def test_limits_can_be_looser():
    assert Comparison(1, 0.9, 0.9).judge(Limits(agreement=0.8, cosine=0.8))["failures"] == []
