"""Scores predicted bounding boxes against expected ones.

A box is (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2; all boxes of a comparison are in the same unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from scipy.optimize import linear_sum_assignment

from penguin_models.types import BoolArray
from penguin_ros.evaluation.metrics.text import normalise

IOU_THRESHOLD = 0.5
BoxTuple: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True)
class LabelledBox:
    """A box with its label. An expected box may accept several labels; a predicted box has one."""

    labels: tuple[str, ...]
    box: BoxTuple


@dataclass(frozen=True)
class BoxCounts:
    """Counts of one comparison. Scores are ratios of their sums over questions."""

    expected: int  # number of expected boxes
    predicted: int  # number of predicted boxes
    iou_sum: float  # sum of IoU over the one-to-one matching that maximises it
    hits: int  # size of the largest one-to-one matching of pairs with an IoU of at least 0.5
    labelled_hits: int  # the same, for pairs whose labels also agree
    hallucinated: int  # number of predicted boxes whose label is not expected anywhere in the image


def iou(a: BoxTuple, b: BoxTuple) -> float:
    """Returns intersection over union (Everingham et al. 2010, PASCAL VOC); 0 if neither box has an area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(0.0, width) * max(0.0, height)
    area_a, area_b = ((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b))
    union = area_a + area_b - intersection
    return intersection / union if union > 0 else 0.0


def compare_boxes(predicted: Sequence[LabelledBox], expected: Sequence[LabelledBox]) -> BoxCounts:
    """Matches boxes one to one (Hungarian method, Kuhn 1955), with the best matching for each count separately.

    hits / predicted is precision and hits / expected is recall at IoU 0.5 (PASCAL VOC: a box is matched once);
    2 labelled_hits / (predicted + expected) is the label-aware F1; hallucinated / predicted is CHAIR_i
    (Rohrbach et al. 2018, arXiv:1809.02156) over the objects that the answer localises.
    """
    expected_labels = {label for item in expected for label in _labels(item)}
    hallucinated = sum(not _labels(item) & expected_labels for item in predicted)
    if not predicted or not expected:
        return BoxCounts(len(expected), len(predicted), 0.0, 0, 0, hallucinated)
    ious = np.array([[iou(item.box, other.box) for other in expected] for item in predicted], np.float32)
    same_label = np.array([[bool(_labels(item) & _labels(other)) for other in expected] for item in predicted])
    rows, columns = linear_sum_assignment(ious, maximize=True)
    overlaps = ious >= IOU_THRESHOLD
    return BoxCounts(
        expected=len(expected),
        predicted=len(predicted),
        iou_sum=float(ious[rows, columns].sum()),
        hits=_max_matching(overlaps),
        labelled_hits=_max_matching(overlaps & same_label),
        hallucinated=hallucinated,
    )


def _max_matching(allowed: BoolArray) -> int:
    rows, columns = linear_sum_assignment(allowed, maximize=True)
    return int(allowed[rows, columns].sum())


def _labels(item: LabelledBox) -> set[str]:
    return {normalise(label) for label in item.labels}
