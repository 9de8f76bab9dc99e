"""An answer against what was expected of it: parts of scores, and whether it is right.

Scores are computed from what was recorded of an answer, never while the model runs: metrics can change, and results of
an earlier run be scored again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from penguin_models.grounding import SCALE, GroundedObject
from penguin_models.types import Size
from penguin_ros.evaluation.metrics.boxes import BoxTuple, LabelledBox, compare_boxes
from penguin_ros.evaluation.metrics.statistics import Ratio
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
    """What a metric is called in tables, whether more of it is better, and whether it is a share from 0 to 1."""

    title: str
    more_is_better: bool = True
    share: bool = True


METRICS = {
    "accuracy": MetricInfo("right answers"),
    "exact": MetricInfo("exact text"),
    "normalised": MetricInfo("normalised text"),
    "contains": MetricInfo("text contained"),
    "contains_formula": MetricInfo("formula contained"),
    "anls": MetricInfo("ANLS"),
    "relaxed": MetricInfo("relaxed accuracy"),
    "choice_accuracy": MetricInfo("multiple choice"),
    "number_accuracy": MetricInfo("numbers within tolerance"),
    "count_error": MetricInfo("mean error of numbers", more_is_better=False, share=False),
    "no_number": MetricInfo("no number given", more_is_better=False),
    "box_miou": MetricInfo("boxes, mean IoU"),
    "box_precision": MetricInfo("boxes, precision at IoU 0.5"),
    "box_recall": MetricInfo("boxes, recall at IoU 0.5"),
    "label_f1": MetricInfo("labelled boxes, F1 at IoU 0.5"),
    "hallucinated": MetricInfo("hallucinated objects", more_is_better=False),
    "time_miou": MetricInfo("time ranges, mean IoU"),
    **{f"time_r{threshold}": MetricInfo(f"time ranges, R@{threshold}") for threshold in RECALL_THRESHOLDS},
    "denial_accuracy": MetricInfo("absence noticed"),
}
"""Every metric by its name in results, in the order of tables."""


@dataclass(frozen=True)
class Prediction:
    """What scoring needs of an answer.

    Attributes:
        text: without box syntax.
        objects: what it points at.
        spans: times that it gives, in seconds on the clock of the questions.
        image_size: pixels of the image that boxes refer to; None where no image was shown.
    """

    text: str
    objects: tuple[GroundedObject, ...] = ()
    spans: tuple[Span, ...] = ()
    image_size: Size | None = None


@dataclass(frozen=True)
class Score:
    """Parts of scores by metric, and whether everything expected was met."""

    parts: dict[str, Ratio]
    correct: bool


def score(prediction: Prediction, expected: Sequence[Expected]) -> Score:
    """Scores one answer."""
    parts: dict[str, Ratio] = {}
    verdicts = []
    for item in expected:
        found, right = _SCORERS[type(item)](prediction, item)
        for name, part in found.items():  # two expected results of one type add up
            before = parts.get(name, Ratio(0, 0))
            parts[name] = Ratio(before.numerator + part.numerator, before.denominator + part.denominator)
        verdicts.append(right)
    correct = all(verdicts)
    return Score({"accuracy": Ratio(float(correct)), **parts}, correct)


def to_thousandths(item: ExpectedObject, unit: str, size: Size | None) -> BoxTuple:
    """An expected box in thousandths of the image's width and height, not rounded."""
    if unit == "1000":
        return item.box
    assert size is not None, "boxes in pixels need the size of the image"
    x, y = SCALE / size.width, SCALE / size.height
    return item.box[0] * x, item.box[1] * y, item.box[2] * x, item.box[3] * y


def _text(prediction: Prediction, item: ExpectedText) -> tuple[dict[str, Ratio], bool]:
    names = dict.fromkeys(("exact", "normalised", item.metric))
    values = {name: TEXT_METRICS[name](prediction.text, item.accept) for name in names}
    return {name: Ratio(value) for name, value in values.items()}, values[item.metric] > 0


def _number(prediction: Prediction, item: ExpectedNumber) -> tuple[dict[str, Ratio], bool]:
    found = find_number(prediction.text)
    if found is None:
        return {"number_accuracy": Ratio(0), "count_error": Ratio(0, 0), "no_number": Ratio(1)}, False
    error = abs(found - item.value)
    right = error <= item.tolerance
    return {"number_accuracy": Ratio(float(right)), "count_error": Ratio(error), "no_number": Ratio(0)}, right


def _choice(prediction: Prediction, item: ExpectedChoice) -> tuple[dict[str, Ratio], bool]:
    right = find_choice(prediction.text, item.options) == item.answer
    return {"choice_accuracy": Ratio(float(right))}, right


def _objects(prediction: Prediction, item: ExpectedObjects) -> tuple[dict[str, Ratio], bool]:
    assert item.objects is not None, "boxes of a topic are filled in before scoring"
    wanted = [LabelledBox(o.labels, to_thousandths(o, item.unit, prediction.image_size)) for o in item.objects]
    counts = compare_boxes(_boxes(prediction), wanted)
    parts = {
        "box_miou": Ratio(counts.iou_sum, counts.expected),
        "box_precision": Ratio(counts.hits, counts.predicted),
        "box_recall": Ratio(counts.hits, counts.expected),
        "label_f1": Ratio(2 * counts.labelled_hits, counts.predicted + counts.expected),
        "hallucinated": Ratio(counts.hallucinated, counts.predicted),
    }
    return parts, counts.labelled_hits == counts.predicted == counts.expected


def _time(prediction: Prediction, item: ExpectedTime) -> tuple[dict[str, Ratio], bool]:
    value = best_iou(prediction.spans, item.accept)
    parts = {f"time_r{threshold}": Ratio(float(value >= threshold)) for threshold in RECALL_THRESHOLDS}
    return {"time_miou": Ratio(value), **parts}, value >= 0.5


def _absence(prediction: Prediction, item: ExpectedAbsence) -> tuple[dict[str, Ratio], bool]:
    right = denies(prediction.text) and not prediction.objects
    count = len(prediction.objects)
    return {"denial_accuracy": Ratio(float(right)), "hallucinated": Ratio(count, count)}, right


def _boxes(prediction: Prediction) -> list[LabelledBox]:
    return [LabelledBox((o.label,), (o.box.x1, o.box.y1, o.box.x2, o.box.y2)) for o in prediction.objects]


_SCORERS: dict[type, Callable[[Prediction, Any], tuple[dict[str, Ratio], bool]]] = {
    ExpectedText: _text,
    ExpectedNumber: _number,
    ExpectedChoice: _choice,
    ExpectedObjects: _objects,
    ExpectedTime: _time,
    ExpectedAbsence: _absence,
}
