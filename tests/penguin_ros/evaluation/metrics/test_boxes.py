"""Boxes, against cases worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguin_ros.evaluation.metrics.boxes import BoxCounts, LabelledBox, compare_boxes, iou

SIDES = st.tuples(*[st.integers(0, 20)] * 4).map(lambda v: (min(v[::2]), min(v[1::2]), max(v[::2]), max(v[1::2])))
LABELS = st.sampled_from([("cube",), ("ball",), ("ball", "sphere")])
THINGS = st.lists(st.builds(LabelledBox, LABELS, SIDES), max_size=6)


def thing(label, *box):
    return LabelledBox(tuple(label.split("|")), box)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1),
        ((0, 0, 10, 10), (5, 0, 15, 10), 50 / 150),
        ((0, 0, 10, 10), (2, 2, 4, 4), 4 / 100),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0),  # they only touch
        ((0, 0, 1, 1), (5, 5, 6, 6), 0),
        ((3, 3, 3, 3), (3, 3, 3, 3), 0),  # no area
    ],
)
def test_iou(a, b, expected):
    assert iou(a, b) == iou(b, a) == pytest.approx(expected)


def test_one_of_two_found_one_invented():
    given_boxes = [thing("cube", 0, 0, 10, 10), thing("duck", 50, 50, 60, 60)]
    expected = [thing("cube", 0, 0, 10, 8), thing("ball", 80, 80, 90, 90)]
    counts = compare_boxes(given_boxes, expected)
    assert counts == BoxCounts(2, 2, pytest.approx(0.8), hits=1, labelled_hits=1, hallucinated=1)


def test_a_right_box_with_a_wrong_label():
    counts = compare_boxes([thing("ball", 0, 0, 10, 10)], [thing("cube", 0, 0, 10, 10), thing("ball", 30, 30, 40, 40)])
    assert (counts.hits, counts.labelled_hits, counts.hallucinated) == (1, 0, 0)


def test_labels_are_normalised_and_may_be_several():
    counts = compare_boxes([thing("The Red-Mug", 0, 0, 4, 4)], [thing("red cup|red mug", 0, 0, 4, 4)])
    assert (counts.labelled_hits, counts.hallucinated) == (1, 0)


def test_a_box_is_matched_once():
    """Three boxes on one object are one hit, so that repeating oneself costs precision."""
    counts = compare_boxes([thing("cube", 0, 0, 10, 10)] * 3, [thing("cube", 0, 0, 10, 10)])
    assert (counts.predicted, counts.hits, counts.labelled_hits) == (3, 1, 1)


def test_more_pairs_go_before_better_pairs():
    """The first given box fits both expected ones, the second only the first: both are found."""
    given_boxes = [thing("a", 0, 0, 10, 10), thing("a", 0, 0, 10, 6)]
    expected = [thing("a", 0, 0, 10, 10), thing("a", 0, 2, 10, 12)]
    assert iou((0, 0, 10, 6), (0, 2, 10, 12)) < 0.5 < iou((0, 0, 10, 10), (0, 2, 10, 12))
    assert compare_boxes(given_boxes, expected).hits == 2


def test_nothing_given_and_nothing_expected():
    one = [thing("cube", 0, 0, 1, 1)]
    assert compare_boxes([], one) == BoxCounts(1, 0, 0.0, 0, 0, 0)
    assert compare_boxes(one, []) == BoxCounts(0, 1, 0.0, 0, 0, 1)
    assert compare_boxes([], []) == BoxCounts(0, 0, 0.0, 0, 0, 0)


@given(THINGS, THINGS)
def test_counts_agree_with_each_other(given_boxes, expected):
    counts = compare_boxes(given_boxes, expected)
    assert 0 <= counts.labelled_hits <= counts.hits <= min(counts.predicted, counts.expected)
    assert 0 <= counts.hallucinated <= counts.predicted - counts.labelled_hits
    assert counts.iou_sum <= min(counts.predicted, counts.expected) + 1e-5
    turned = compare_boxes(expected, given_boxes)
    assert (turned.hits, turned.labelled_hits) == (counts.hits, counts.labelled_hits)
    assert turned.iou_sum == pytest.approx(counts.iou_sum, abs=1e-5)
