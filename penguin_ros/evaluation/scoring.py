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
from penguin_ros.evaluation.box_metrics import BoxTuple, LabelledBox, compare_boxes
from penguin_ros.evaluation.questions import (
    Expected,
    ExpectedAbsence,
    ExpectedChoice,
    ExpectedNumber,
    ExpectedObject,
    ExpectedObjects,
    ExpectedText,
    ExpectedTime,
)
from penguin_ros.evaluation.statistics import Ratio
from penguin_ros.evaluation.text_metrics import TEXT_METRICS, denies, find_choice, find_number
from penguin_ros.evaluation.time_metrics import RECALL_THRESHOLDS, Span, best_iou


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
class Given:
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


def score(given: Given, expected: Sequence[Expected]) -> Score:
    """Scores one answer."""
    parts: dict[str, Ratio] = {}
    verdicts = []
    for item in expected:
        found, right = _SCORERS[type(item)](given, item)
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


def _text(given: Given, item: ExpectedText) -> tuple[dict[str, Ratio], bool]:
    names = dict.fromkeys(("exact", "normalised", item.metric))
    values = {name: TEXT_METRICS[name](given.text, item.accept) for name in names}
    return {name: Ratio(value) for name, value in values.items()}, values[item.metric] > 0


def _number(given: Given, item: ExpectedNumber) -> tuple[dict[str, Ratio], bool]:
    found = find_number(given.text)
    if found is None:
        return {"number_accuracy": Ratio(0), "count_error": Ratio(0, 0), "no_number": Ratio(1)}, False
    error = abs(found - item.value)
    right = error <= item.tolerance
    return {"number_accuracy": Ratio(float(right)), "count_error": Ratio(error), "no_number": Ratio(0)}, right


def _choice(given: Given, item: ExpectedChoice) -> tuple[dict[str, Ratio], bool]:
    right = find_choice(given.text, item.options) == item.answer
    return {"choice_accuracy": Ratio(float(right))}, right


def _objects(given: Given, item: ExpectedObjects) -> tuple[dict[str, Ratio], bool]:
    assert item.objects is not None, "boxes of a topic are filled in before scoring"
    wanted = [LabelledBox(o.labels, to_thousandths(o, item.unit, given.image_size)) for o in item.objects]
    counts = compare_boxes(_boxes(given), wanted)
    parts = {
        "box_miou": Ratio(counts.iou_sum, counts.expected),
        "box_precision": Ratio(counts.hits, counts.given),
        "box_recall": Ratio(counts.hits, counts.expected),
        "label_f1": Ratio(2 * counts.labelled_hits, counts.given + counts.expected),
        "hallucinated": Ratio(counts.hallucinated, counts.given),
    }
    return parts, counts.labelled_hits == counts.given == counts.expected


def _time(given: Given, item: ExpectedTime) -> tuple[dict[str, Ratio], bool]:
    value = best_iou(given.spans, item.accept)
    parts = {f"time_r{threshold}": Ratio(float(value >= threshold)) for threshold in RECALL_THRESHOLDS}
    return {"time_miou": Ratio(value), **parts}, value >= 0.5


def _absence(given: Given, item: ExpectedAbsence) -> tuple[dict[str, Ratio], bool]:
    right = denies(given.text) and not given.objects
    count = len(given.objects)
    return {"denial_accuracy": Ratio(float(right)), "hallucinated": Ratio(count, count)}, right


def _boxes(given: Given) -> list[LabelledBox]:
    return [LabelledBox((o.label,), (o.box.x1, o.box.y1, o.box.x2, o.box.y2)) for o in given.objects]


_SCORERS: dict[type, Callable[[Given, Any], tuple[dict[str, Ratio], bool]]] = {
    ExpectedText: _text,
    ExpectedNumber: _number,
    ExpectedChoice: _choice,
    ExpectedObjects: _objects,
    ExpectedTime: _time,
    ExpectedAbsence: _absence,
}
