"""When a quantised variant is not called good."""

import numpy as np
import pytest

from penguin_engine.bench.quantize_comparison import Comparison, Limits, compare, with_scores
from penguin_models.errors import EngineError


class FakeRuntime:
    """Logits that depend on the last token only, with an error of its own."""

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


def test_both_see_what_full_precision_says():
    full, variant = FakeRuntime(), FakeRuntime(error=3.0)
    compare(full, variant, [([[1, 2]], []), ([[3]], [])], steps=5)
    assert full.seen == variant.seen and len(full.seen) == 10


def test_comparison_with_itself_is_perfect():
    found = compare(FakeRuntime(), FakeRuntime(), [([[1]], [])], steps=8)
    assert (found.positions, found.agreement, found.largest_error) == (8, 1.0, 0.0)
    assert found.cosine == pytest.approx(1) and found.divergence == pytest.approx(0, abs=1e-9)
    assert found.failures() == []


def test_numbers_of_a_comparison():
    """By hand: two positions, one of which changes its mind."""

    class Two(FakeRuntime):
        def __init__(self, rows):
            self.rows = rows

        def append(self, parts):
            return np.array(self.rows.pop(0), np.float32)

    log2 = np.log(2)
    found = compare(Two([[log2, 0], [3, 4]]), Two([[0, 0], [4, 3]]), [([[1]], [])], steps=2)
    assert found.agreement == 1.0 - 0.5
    assert found.largest_error == pytest.approx(1.0)
    assert found.cosine == pytest.approx((0 + 24 / 25) / 2)
    first = 2 / 3 * np.log(2 / 3 * 2) + 1 / 3 * np.log(1 / 3 * 2)
    p = np.exp([3, 4]) / np.exp([3, 4]).sum()
    assert found.divergence == pytest.approx((first + p @ np.array([-1, 1])) / 2)


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        ({"agreement": 0.9}, "agreement is 0.9000, at least 0.95 is wanted"),
        ({"cosine": 0.5}, "cosine is 0.5000, at least 0.99"),
        ({"cosine": float("nan")}, "cosine is nan"),
        ({"scores": {"boxes": (0.8, 0.7)}}, "boxes falls from 0.8000 to 0.7000, by more than 0.02"),
        ({"scores": {"boxes": (0.8, float("nan"))}}, "boxes falls from 0.8000 to nan"),
    ],
)
def test_what_is_not_good(change, failure):
    values = {"positions": 10, "agreement": 1.0, "cosine": 1.0, "scores": {"count": (0.5, 0.49)}}
    assert Comparison(**values).failures() == []
    found = Comparison(**(values | change))
    assert len(found.failures()) == 1 and found.failures()[0].startswith(failure)
    assert found.to_dict()["good"] is False


@pytest.mark.parametrize(
    ("scores", "agreement", "good"),
    [({}, 1.0, None), ({}, 0.5, False), ({"boxes": (0.8, 0.79)}, 1.0, True), ({"boxes": (0.8, 0.5)}, 1.0, False)],
)
def test_logits_can_refuse_a_variant_and_only_scores_call_it_good(scores, agreement, good):
    assert Comparison(10, agreement, 1.0, scores=scores).to_dict()["good"] is good


@pytest.mark.parametrize(
    ("interval", "good"), [((-0.3, 0.05), None), ((-0.3, 0.0), None), ((-0.3, -0.1), False), ((np.nan, np.nan), False)]
)
def test_a_loss_that_may_be_chance_neither_refuses_a_variant_nor_lets_it_be_good(interval, good):
    scores, intervals = {"boxes": (0.8, 0.6), "count": (0.5, 0.5)}, {"boxes": interval, "count": (-0.1, 0.1)}
    found = Comparison(10, 1.0, 1.0, scores=scores, intervals=intervals).to_dict()
    assert found["good"] is good
    told, other = (found["doubts"], found["failures"]) if good is None else (found["failures"], found["doubts"])
    assert other == [] and len(told) == 1 and told[0].startswith("boxes falls from 0.8000 to 0.6000, by more than 0.02")


def test_other_limits():
    assert Comparison(1, 0.9, 0.9).failures(Limits(agreement=0.8, cosine=0.8)) == []


def test_scores_of_different_evaluations():
    with pytest.raises(EngineError, match=r"different scores \(boxes, count\)"):
        with_scores(Comparison(), {"boxes": 1.0}, {"count": 1.0})
