"""How right an answer's boxes are, against those expected.

Boxes are (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2, in any units as long as they are the same. An object's labels
are all the words that are accepted for it.
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
    """A box and the labels that it may have: one where the model gave it, perhaps several where it is expected."""

    labels: tuple[str, ...]
    box: BoxTuple


@dataclass(frozen=True)
class BoxCounts:
    """What a comparison counted; scores are ratios of sums over questions.

    Attributes:
        expected: boxes expected.
        predicted: boxes in the answer.
        iou_sum: over the expected boxes, each matched to at most one predicted box so that the sum is largest.
        hits: most pairs with an IoU of at least 0.5.
        labelled_hits: most such pairs whose labels agree as well.
        hallucinated: predicted boxes whose label is none of those expected, wherever they are.
    """

    expected: int
    predicted: int
    iou_sum: float
    hits: int
    labelled_hits: int
    hallucinated: int


def iou(a: BoxTuple, b: BoxTuple) -> float:
    """Intersection over union (Everingham et al. 2010, PASCAL VOC); 0 for two boxes without area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(0.0, width) * max(0.0, height)
    union = _area(a) + _area(b) - intersection
    return intersection / union if union > 0 else 0.0


def compare_boxes(predicted: Sequence[LabelledBox], expected: Sequence[LabelledBox]) -> BoxCounts:
    """Matches boxes one to one, each count by the matching that is best for it (Hungarian method, Kuhn 1955).

    hits / predicted is precision and hits / expected recall at IoU 0.5 (PASCAL VOC, one box one match);
    2 labelled_hits / (predicted + expected) is the label-aware F1; hallucinated / predicted is CHAIR_i
    (Rohrbach et al. 2018, arXiv:1809.02156) over the objects that the answer points at.
    """
    known = {normalise(label) for item in expected for label in item.labels}
    hallucinated = sum(not _labels(item) & known for item in predicted)
    if not predicted or not expected:
        return BoxCounts(len(expected), len(predicted), 0.0, 0, 0, hallucinated)
    ious = np.array([[iou(item.box, other.box) for other in expected] for item in predicted], np.float32)
    agree = np.array([[bool(_labels(item) & _labels(other)) for other in expected] for item in predicted])
    rows, columns = linear_sum_assignment(-ious)
    near = ious >= IOU_THRESHOLD
    return BoxCounts(
        expected=len(expected),
        predicted=len(predicted),
        iou_sum=float(ious[rows, columns].sum()),
        hits=_most_pairs(near),
        labelled_hits=_most_pairs(near & agree),
        hallucinated=hallucinated,
    )


def _most_pairs(allowed: BoolArray) -> int:
    rows, columns = linear_sum_assignment(allowed.astype(np.float32), maximize=True)
    return int(allowed[rows, columns].sum())


def _labels(item: LabelledBox) -> set[str]:
    return {normalise(label) for label in item.labels}


def _area(box: BoxTuple) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
