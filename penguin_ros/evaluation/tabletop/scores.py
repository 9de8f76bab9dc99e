"""Scores answers about the simulated table-top against its ground truth, without a judge model.

Answers are parsed with the table-top's own vocabulary. Every score is a ratio of sums over answers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar

from penguin_models.grounding import Grounding, TimeRange, parse
from penguin_ros.evaluation.metrics.boxes import LabelledBox, compare_boxes
from penguin_ros.evaluation.metrics.statistics import Ratio
from penguin_ros.evaluation.metrics.text import normalise
from penguin_ros.evaluation.metrics.time import temporal_iou
from penguin_tabletop.conversations.answer_parsing import choice_in, events_in, labels_in, number_in, quoted_word_in
from penguin_tabletop.conversations.turns import ExpectedReply, Turn

T = TypeVar("T", bound=Hashable)
QUESTION = "question: "
"""Prefix of the accuracies of single kinds of question."""
TITLES = {
    "object_f1": "captions: objects, F1",
    "exact_captions": "captions: exactly the right objects",
    "box_share": "boxes with IoU >= 0.5",
    "box_miou": "boxes, mean IoU",
    "labelled_box_share": "boxes with IoU >= 0.5 and the right label",
    "box_precision": "predicted boxes with IoU >= 0.5",
    "accuracy": "questions",
    "reading": "labels read",
    "event_r0.5": "when: R@0.5",
    "event_miou": "when: mean temporal IoU",
    "dense_r0.5": "dense captions: events found at temporal IoU >= 0.5",
    "event_f1": "clip captions: events, F1",
    "change_f1": "changes: F1",
    "words": "lists: words right",
}
"""Titles of scores, in the order of tables; accuracies of single kinds of question follow."""
_MIN_IOU = 0.5
_BOX = re.compile(r"\([\d,]+\)")


@dataclass(frozen=True)
class Scored:
    """The contribution of one answer to each score, and whether the answer is entirely right."""

    parts: dict[str, Ratio]
    right: bool


@dataclass(frozen=True)
class Score:
    """A score with its 95 % interval over scenes."""

    title: str
    value: float
    low: float | None  # lower bound of the interval; None if fewer than two scenes count
    high: float | None  # upper bound of the interval
    answers: int  # that count
    parts: tuple[Ratio, ...] = field(default=(), repr=False)  # of each scene, for paired comparisons


def score_answer(turn: Turn, raw: str) -> Scored:
    """Scores an answer to a question; `raw` is the text as the model wrote it, with box syntax."""
    return _SCORERS[turn.expected.kind](turn, raw)


def _caption(turn: Turn, raw: str) -> Scored:
    predicted = Counter(labels_in(raw))
    expected = Counter(item.label for item in turn.expected.objects)
    right = predicted == expected
    return Scored({"object_f1": _f1(predicted, expected), "exact_captions": Ratio(float(right))}, right)


def _boxes(turn: Turn, raw: str) -> Scored:
    predicted, expected = _labelled(parse(raw)), _labelled(Grounding("", turn.expected.objects))
    counts = compare_boxes(predicted, expected)
    parts = {
        "box_share": Ratio(counts.hits, counts.expected),
        "box_miou": Ratio(counts.iou_sum, counts.expected),
        "labelled_box_share": Ratio(counts.labelled_hits, counts.expected),
        "box_precision": Ratio(counts.hits, counts.predicted),
    }
    if turn.task == "caption_grounded":
        predicted_labels, expected_labels = (
            Counter(item.labels[0] for item in items) for items in (predicted, expected)
        )
        parts["object_f1"] = _f1(predicted_labels, expected_labels)
    return Scored(parts, counts.labelled_hits == counts.expected == counts.predicted)


def _question(is_right: Callable[[ExpectedReply, str], bool]) -> Callable[[Turn, str], Scored]:
    return lambda turn, raw: _accuracy(turn, is_right(turn.expected, raw))


def _accuracy(turn: Turn, right: bool) -> Scored:
    return Scored({"accuracy": Ratio(float(right)), f"{QUESTION}{turn.task}": Ratio(float(right))}, right)


def _reading(turn: Turn, raw: str) -> Scored:
    right = normalise(quoted_word_in(raw) or "") == normalise(turn.expected.answer)
    return Scored({"reading": Ratio(float(right))}, right)


def _words(turn: Turn, raw: str) -> Scored:
    """Scores the share of words outside boxes that are at their expected position."""
    predicted, expected = (_BOX.sub("", text).split() for text in (raw, turn.expected.answer))
    hits = sum(a == b for a, b in zip(predicted, expected, strict=False))
    return Scored({"words": Ratio(hits, max(len(predicted), len(expected)))}, predicted == expected)


def _span(turn: Turn, raw: str) -> Scored:
    """Scores the first time range of the answer."""
    assert turn.expected.span is not None
    iou = max((_span_iou(span, turn.expected.span) for span in parse(raw).time_ranges[:1]), default=0.0)
    return Scored({"event_r0.5": Ratio(float(iou >= _MIN_IOU)), "event_miou": Ratio(iou)}, iou >= _MIN_IOU)


def _events(turn: Turn, raw: str) -> Scored:
    """Scores kinds of events and their objects, and their times if the question asks for times."""
    stated = events_in(raw)
    predicted = Counter((event.kind, event.label) for event in stated)
    expected = Counter((event.kind, event.label) for event in turn.expected.events)
    right = predicted == expected
    if turn.task in ("what_during", "what_first"):
        return _accuracy(turn, right)
    f1 = _answer_f1(predicted, expected)
    if turn.task == "what_changed":
        return Scored({"change_f1": f1}, right)
    if not turn.expected.timed:
        return Scored({"event_f1": f1}, right)
    unmatched = list(stated)
    for event in turn.expected.events:
        for other in unmatched:
            same = (other.kind, other.label) == (event.kind, event.label)
            if same and other.span is not None and _span_iou(other.span, event.span) >= _MIN_IOU:
                unmatched.remove(other)
                break
    found = len(stated) - len(unmatched)
    count = len(turn.expected.events)
    return Scored({"event_f1": f1, "dense_r0.5": Ratio(found, count)}, found == count == len(stated))


def _span_iou(a: TimeRange, b: TimeRange) -> float:
    return temporal_iou((a.start_s, a.end_s), (b.start_s, b.end_s))


def _f1(predicted: Counter[T], expected: Counter[T]) -> Ratio:
    """Returns 2 hits / (predicted + expected), so that the ratio of sums is the F1 over all answers."""
    return Ratio(2 * (predicted & expected).total(), predicted.total() + expected.total())


def _answer_f1(predicted: Counter[T], expected: Counter[T]) -> Ratio:
    """Returns the F1 of this answer alone; 1 if nothing was expected and nothing predicted."""
    f1 = _f1(predicted, expected)
    return Ratio(f1.numerator / f1.denominator if f1.denominator else 1.0)


def _labelled(grounding: Grounding) -> list[LabelledBox]:
    return [LabelledBox((o.label,), (o.box.x1, o.box.y1, o.box.x2, o.box.y2)) for o in grounding.objects]


_SCORERS: dict[str, Callable[[Turn, str], Scored]] = {
    "caption": _caption,
    "boxes": _boxes,
    "label": _question(lambda expected, raw: next(iter(labels_in(raw)), None) == expected.answer),
    "choice": _question(lambda expected, raw: choice_in(raw, expected.options) == expected.answer),
    "number": _question(lambda expected, raw: number_in(raw) == expected.number),
    "text": _reading,
    "words": _words,
    "span": _span,
    "events": _events,
}
