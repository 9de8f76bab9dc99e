"""Box metrics on hand-worked cases and their invariants."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguin_ros.evaluation.metrics.boxes import BoxCounts, LabelledBox, compare_boxes, iou

SIDES = st.tuples(*[st.integers(0, 20)] * 4).map(lambda v: (min(v[::2]), min(v[1::2]), max(v[::2]), max(v[1::2])))
LABELS = st.sampled_from([("cube",), ("ball",), ("ball", "sphere")])
LABELLED_BOXES = st.lists(st.builds(LabelledBox, LABELS, SIDES), max_size=6)


def labelled(label, *box):
    return LabelledBox(tuple(label.split("|")), box)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1),
        ((0, 0, 10, 10), (5, 0, 15, 10), 50 / 150),
        ((0, 0, 10, 10), (2, 2, 4, 4), 4 / 100),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0),  # touching edges
        ((0, 0, 1, 1), (5, 5, 6, 6), 0),
        ((3, 3, 3, 3), (3, 3, 3, 3), 0),  # no area
    ],
)
def test_iou(a, b, expected):
    assert iou(a, b) == iou(b, a) == pytest.approx(expected)


def test_one_box_found_and_one_hallucinated():
    predicted = [labelled("cube", 0, 0, 10, 10), labelled("duck", 50, 50, 60, 60)]
    expected = [labelled("cube", 0, 0, 10, 8), labelled("ball", 80, 80, 90, 90)]
    counts = compare_boxes(predicted, expected)
    assert counts == BoxCounts(2, 2, pytest.approx(0.8), hits=1, labelled_hits=1, hallucinated=1)


def test_a_matching_box_with_the_wrong_label_is_not_a_labelled_hit():
    counts = compare_boxes(
        [labelled("ball", 0, 0, 10, 10)], [labelled("cube", 0, 0, 10, 10), labelled("ball", 30, 30, 40, 40)]
    )
    assert (counts.hits, counts.labelled_hits, counts.hallucinated) == (1, 0, 0)


def test_labels_are_normalised_and_any_accepted_label_counts():
    counts = compare_boxes([labelled("The Red-Mug", 0, 0, 4, 4)], [labelled("red cup|red mug", 0, 0, 4, 4)])
    assert (counts.labelled_hits, counts.hallucinated) == (1, 0)


def test_an_expected_box_is_matched_once():
    """Three predictions of one object are one hit, so repetition lowers precision."""
    counts = compare_boxes([labelled("cube", 0, 0, 10, 10)] * 3, [labelled("cube", 0, 0, 10, 10)])
    assert (counts.predicted, counts.hits, counts.labelled_hits) == (3, 1, 1)


def test_hits_maximise_the_number_of_pairs():
    """The first predicted box fits both expected boxes and the second fits only the first: both are found."""
    predicted = [labelled("a", 0, 0, 10, 10), labelled("a", 0, 0, 10, 6)]
    expected = [labelled("a", 0, 0, 10, 10), labelled("a", 0, 2, 10, 12)]
    assert iou((0, 0, 10, 6), (0, 2, 10, 12)) < 0.5 < iou((0, 0, 10, 10), (0, 2, 10, 12))
    assert compare_boxes(predicted, expected).hits == 2


def test_no_predictions_or_no_expected_boxes():
    one = [labelled("cube", 0, 0, 1, 1)]
    assert compare_boxes([], one) == BoxCounts(1, 0, 0.0, 0, 0, 0)
    assert compare_boxes(one, []) == BoxCounts(0, 1, 0.0, 0, 0, 1)
    assert compare_boxes([], []) == BoxCounts(0, 0, 0.0, 0, 0, 0)


@given(LABELLED_BOXES, LABELLED_BOXES)
def test_counts_are_consistent_and_symmetric(predicted, expected):
    counts = compare_boxes(predicted, expected)
    assert 0 <= counts.labelled_hits <= counts.hits <= min(counts.predicted, counts.expected)
    assert 0 <= counts.hallucinated <= counts.predicted - counts.labelled_hits
    assert counts.iou_sum <= min(counts.predicted, counts.expected) + 1e-5
    swapped = compare_boxes(expected, predicted)
    assert (swapped.hits, swapped.labelled_hits) == (counts.hits, counts.labelled_hits)
    assert swapped.iou_sum == pytest.approx(counts.iou_sum, abs=1e-5)
