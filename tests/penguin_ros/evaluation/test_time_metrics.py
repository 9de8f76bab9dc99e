"""Spans of time, against cases worked out by hand."""

import pytest

from penguin_ros.evaluation.time_metrics import best_iou, temporal_iou


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


def test_the_first_span_given_meets_the_nearest_expected():
    assert best_iou([(4, 8), (0, 1)], [(0, 1), (4, 6)]) == pytest.approx(0.5)
    assert best_iou([], [(0, 1)]) == 0
