"""Scores one answer against the expected results of its question.

Answers are scored from their records, never while the model runs, so that earlier runs can be scored again when metrics
change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from penguin_models.grounding import SCALE
from penguin_models.types import Size
from penguin_ros.evaluation.metrics.boxes import BoxTuple, LabelledBox, compare_boxes
from penguin_ros.evaluation.metrics.statistics import Ratio, sum_ratios
from penguin_ros.evaluation.metrics.text import TEXT_METRICS, denies, find_choice, find_number
from penguin_ros.evaluation.metrics.time import RECALL_THRESHOLDS, Span, best_iou
from penguin_ros.evaluation.question_file import (
    Expected,
    ExpectedAbsence,
    ExpectedChoice,
    ExpectedNumber,
    ExpectedObject,
    ExpectedObjects,
    ExpectedText,
    ExpectedTime,
)


@dataclass(frozen=True)
class MetricInfo:
    """A metric's title in tables, whether higher is better, and whether it is a share between 0 and 1."""

    title: str
    more_is_better: bool = True
    share: bool = True


METRICS = {
    "accuracy": MetricInfo("right answers"),
    "exact": MetricInfo("exact text"),
    "normalised": MetricInfo("normalised text"),
    "contains": MetricInfo("text contained"),
    "anls": MetricInfo("ANLS"),
    "choice_accuracy": MetricInfo("multiple choice"),
    "number_accuracy": MetricInfo("numbers within tolerance"),
    "count_error": MetricInfo("mean error of numbers", more_is_better=False, share=False),
    "no_number": MetricInfo("no number in the answer", more_is_better=False),
    "box_miou": MetricInfo("boxes, mean IoU"),
    "box_precision": MetricInfo("boxes, precision at IoU 0.5"),
    "box_recall": MetricInfo("boxes, recall at IoU 0.5"),
    "label_f1": MetricInfo("labelled boxes, F1 at IoU 0.5"),
    "hallucinated": MetricInfo("hallucinated objects", more_is_better=False),
    "time_miou": MetricInfo("time ranges, mean IoU"),
    **{f"time_r{threshold}": MetricInfo(f"time ranges, R@{threshold}") for threshold in RECALL_THRESHOLDS},
    "denial_accuracy": MetricInfo("absence recognised"),
}
"""All metrics by their name in results, in the order of tables."""


@dataclass(frozen=True)
class Prediction:
    """The parts of an answer that are scored."""

    text: str  # answer without box syntax
    boxes: Sequence[LabelledBox]  # in thousandths of the image's width and height
    spans: Sequence[Span]  # time ranges in the answer, in seconds on the questions' clock
    image_size: Size  # size in pixels of the image that boxes refer to


@dataclass(frozen=True)
class Score:
    """The answer's contribution to each metric, and whether it meets every expected result."""

    parts: dict[str, Ratio]
    correct: bool


def score(prediction: Prediction, expected: Sequence[Expected]) -> Score:
    """Scores an answer; expected results of the same type add up."""
    parts: dict[str, Ratio] = {}
    correct = True
    for item in expected:
        item_parts, item_correct = _SCORERS[type(item)](prediction, item)
        for name, part in item_parts.items():
            parts[name] = sum_ratios([parts.get(name, Ratio(0, 0)), part])
        correct &= item_correct
    return Score({"accuracy": Ratio(float(correct)), **parts}, correct)


def to_thousandths(item: ExpectedObject, unit: str, size: Size) -> BoxTuple:
    """Returns an expected box in thousandths of the image's width and height, without rounding."""
    if unit == "1000":
        return item.box
    x, y = SCALE / size.width, SCALE / size.height
    return item.box[0] * x, item.box[1] * y, item.box[2] * x, item.box[3] * y


def _text(prediction: Prediction, item: ExpectedText) -> tuple[dict[str, Ratio], bool]:
    names = dict.fromkeys(("exact", "normalised", item.metric))
    values = {name: TEXT_METRICS[name](prediction.text, item.accept) for name in names}
    return {name: Ratio(value) for name, value in values.items()}, values[item.metric] > 0


def _number(prediction: Prediction, item: ExpectedNumber) -> tuple[dict[str, Ratio], bool]:
    number = find_number(prediction.text)
    if number is None:
        return {"number_accuracy": Ratio(0), "count_error": Ratio(0, 0), "no_number": Ratio(1)}, False
    error = abs(number - item.value)
    correct = error <= item.tolerance
    return {"number_accuracy": Ratio(float(correct)), "count_error": Ratio(error), "no_number": Ratio(0)}, correct


def _choice(prediction: Prediction, item: ExpectedChoice) -> tuple[dict[str, Ratio], bool]:
    correct = find_choice(prediction.text, item.options) == item.answer
    return {"choice_accuracy": Ratio(float(correct))}, correct


def _objects(prediction: Prediction, item: ExpectedObjects) -> tuple[dict[str, Ratio], bool]:
    assert item.objects is not None, "boxes from a topic are filled in before scoring"
    expected = [LabelledBox(o.labels, to_thousandths(o, item.unit, prediction.image_size)) for o in item.objects]
    counts = compare_boxes(prediction.boxes, expected)
    parts = {
        "box_miou": Ratio(counts.iou_sum, counts.expected),
        "box_precision": Ratio(counts.hits, counts.predicted),
        "box_recall": Ratio(counts.hits, counts.expected),
        "label_f1": Ratio(2 * counts.labelled_hits, counts.predicted + counts.expected),
        "hallucinated": Ratio(counts.hallucinated, counts.predicted),
    }
    return parts, counts.labelled_hits == counts.predicted == counts.expected


def _time(prediction: Prediction, item: ExpectedTime) -> tuple[dict[str, Ratio], bool]:
    overlap = best_iou(prediction.spans, item.accept)
    recalls = {f"time_r{threshold}": Ratio(float(overlap >= threshold)) for threshold in RECALL_THRESHOLDS}
    return {"time_miou": Ratio(overlap), **recalls}, overlap >= 0.5


def _absence(prediction: Prediction, item: ExpectedAbsence) -> tuple[dict[str, Ratio], bool]:
    count = len(prediction.boxes)
    correct = denies(prediction.text) and count == 0
    return {"denial_accuracy": Ratio(float(correct)), "hallucinated": Ratio(count, count)}, correct


_SCORERS: dict[type, Callable[[Prediction, Any], tuple[dict[str, Ratio], bool]]] = {
    ExpectedText: _text,
    ExpectedNumber: _number,
    ExpectedChoice: _choice,
    ExpectedObjects: _objects,
    ExpectedTime: _time,
    ExpectedAbsence: _absence,
}
