"""Time-range metrics on hand-worked cases."""

import pytest

from penguin_ros.evaluation.metrics.time import best_iou, find_span, temporal_iou


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((2, 6), (2, 6), 1),
        ((2, 6), (4, 8), 2 / 6),
        ((0, 10), (4, 5), 1 / 10),
        ((0, 2), (2, 4), 0),
        ((0, 1), (8, 9), 0),
        ((3, 3), (3, 3), 1),
        ((3, 3), (2, 4), 0),
    ],
)
def test_temporal_iou(a, b, expected):
    assert temporal_iou(a, b) == temporal_iou(b, a) == pytest.approx(expected)


def test_the_first_predicted_span_is_compared_with_the_closest_accepted_one():
    assert best_iou([(4, 8), (0, 1)], [(0, 1), (4, 6)]) == pytest.approx(0.5)
    assert best_iou([], [(0, 1)]) == 0


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("The event happens in the 24.3 - 30.4 seconds.", (24.3, 30.4)),
        ("from 3 to 5.5 s", (3, 5.5)),
        ("between 0:05 and 1:02:10", (5, 3730)),
        ("It starts at 3 s and ends at about 7 seconds", (3, 7)),
        ("Start time: 0.8 seconds\nEnd time: 1.1 seconds", (0.8, 1.1)),
        ("9.0–4.0", (4, 9)),
        ("30s–40s", (30, 40)),
        ("at 7 seconds", None),
        ("two cups and three mugs", None),
        ("", None),
    ],
)
def test_spans_are_found_in_free_text(text, span):
    assert find_span(text) == span
