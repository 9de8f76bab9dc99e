"""Answers about the simulated table-top against its truth: parts of scores.

The table-top's own words are read back (penguin_tabletop.conversations.answer_parsing), so no judge is needed. Every
score is a ratio of sums over answers; one answer counts in one group only.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from penguin_models.grounding import Grounding, parse
from penguin_ros.evaluation.metrics.boxes import LabelledBox, compare_boxes
from penguin_ros.evaluation.metrics.statistics import Ratio
from penguin_ros.evaluation.metrics.text import normalise
from penguin_ros.evaluation.metrics.time import temporal_iou
from penguin_tabletop.conversations.answer_parsing import choice_in, events_in, labels_in, number_in, quoted_word_in
from penguin_tabletop.conversations.turns import ExpectedReply, Turn

QUESTION = "question: "
"""Begins the name of the accuracy of one kind of question."""
TITLES = {
    "object_f1": "captions: objects, F1",
    "exact_captions": "captions: all objects right and no other",
    "box_share": "boxes with IoU >= 0.5",
    "box_miou": "boxes, mean IoU",
    "labelled_box_share": "boxes with IoU >= 0.5 and the right label",
    "box_precision": "given boxes that are right (IoU >= 0.5)",
    "accuracy": "questions",
    "reading": "labels read",
    "event_r0.5": "when: R@0.5",
    "event_miou": "when: mean temporal IoU",
    "dense_r0.5": "dense captions: events found at temporal IoU >= 0.5",
    "event_f1": "clip captions: events, F1",
    "change_f1": "changes: F1",
    "words": "lists: words right",
}
"""Scores in the order of tables; accuracies of single kinds of question come after them."""
_HALF = 0.5
_BOX = re.compile(r"\([\d,]+\)")


@dataclass(frozen=True)
class Scored:
    """One answer's parts in scores, and whether it is right altogether."""

    parts: dict[str, Ratio]
    right: bool


def score_answer(turn: Turn, raw: str) -> Scored:
    """Scores an answer.

    Args:
        turn: what was asked and what is expected.
        raw: the answer as the model wrote it, with its boxes.
    """
    return _SCORERS[turn.expected.kind](turn, raw)


def _caption(turn: Turn, raw: str) -> Scored:
    """F1 over objects by their labels, each as often as it is there."""
    given = Counter(labels_in(raw))
    wanted = Counter(item.label for item in turn.expected.objects)
    right = given == wanted
    return Scored({"object_f1": _f1(given, wanted), "exact_captions": Ratio(float(right))}, right)


def _boxes(turn: Turn, raw: str) -> Scored:
    """Boxes one to one; a grounded caption also names objects."""
    found, wanted = _labelled(parse(raw)), _labelled(Grounding("", turn.expected.objects))
    counts = compare_boxes(found, wanted)
    parts = {
        "box_share": Ratio(counts.hits, counts.expected),
        "box_miou": Ratio(counts.iou_sum, counts.expected),
        "labelled_box_share": Ratio(counts.labelled_hits, counts.expected),
        "box_precision": Ratio(counts.hits, counts.predicted),
    }
    if turn.task == "caption_grounded":
        labels = (Counter(item.labels[0] for item in items) for items in (found, wanted))
        parts["object_f1"] = _f1(*labels)
    return Scored(parts, counts.labelled_hits == counts.expected == counts.predicted)


def _question(is_right: Callable[[ExpectedReply, str], bool]) -> Callable[[Turn, str], Scored]:
    def score(turn: Turn, raw: str) -> Scored:
        right = is_right(turn.expected, raw)
        return Scored({"accuracy": Ratio(float(right)), f"{QUESTION}{turn.task}": Ratio(float(right))}, right)

    return score


def _names_label(expected: ExpectedReply, raw: str) -> bool:
    """Whether the first object that the answer names is the one expected."""
    return next(iter(labels_in(raw)), None) == expected.answer


def _reading(turn: Turn, raw: str) -> Scored:
    right = normalise(quoted_word_in(raw) or "") == normalise(turn.expected.answer)
    return Scored({"reading": Ratio(float(right))}, right)


def _words(turn: Turn, raw: str) -> Scored:
    """Share of the words outside boxes that stand at their places."""
    given, wanted = (_BOX.sub("", text).split() for text in (raw, turn.expected.answer))
    hits = sum(a == b for a, b in zip(given, wanted, strict=False))
    return Scored({"words": Ratio(hits, max(len(given), len(wanted)))}, given == wanted)


def _span(turn: Turn, raw: str) -> Scored:
    """The first time range that is given against the one expected."""
    assert turn.expected.span is not None
    spans = parse(raw).time_ranges
    wanted = turn.expected.span
    iou = temporal_iou((spans[0].start_s, spans[0].end_s), (wanted.start_s, wanted.end_s)) if spans else 0.0
    return Scored({"event_r0.5": Ratio(float(iou >= _HALF)), "event_miou": Ratio(iou)}, iou >= _HALF)


def _events(turn: Turn, raw: str) -> Scored:
    """Kinds of events with the objects that they happen to; with times where they were asked for."""
    expected = turn.expected
    told = events_in(raw)
    given = Counter((event.kind, event.label) for event in told)
    wanted = Counter((event.kind, event.label) for event in expected.events)
    f1 = _mean_f1(given, wanted)
    if turn.task == "what_changed":
        return Scored({"change_f1": f1}, given == wanted)
    if turn.task in ("what_during", "what_first"):
        right = given == wanted
        return Scored({"accuracy": Ratio(float(right)), f"{QUESTION}{turn.task}": Ratio(float(right))}, right)
    parts = {"event_f1": f1}
    if expected.timed:
        left = list(told)
        for event in expected.events:
            fitting = [
                other
                for other in left
                if (other.kind, other.label) == (event.kind, event.label)
                and other.span is not None
                and temporal_iou((other.span.start_s, other.span.end_s), (event.start_s, event.end_s)) >= _HALF
            ]
            if fitting:
                left.remove(fitting[0])
        found = len(told) - len(left)
        parts["dense_r0.5"] = Ratio(found, len(expected.events))
        return Scored(parts, found == len(expected.events) == len(told))
    return Scored(parts, given == wanted)


def _f1(given: Counter[str], wanted: Counter[str]) -> Ratio:
    """2 hits / (given + wanted), so that the ratio of sums is the F1 over all answers."""
    return Ratio(2 * (given & wanted).total(), given.total() + wanted.total())


def _mean_f1(given: Counter[tuple[str, str]], wanted: Counter[tuple[str, str]]) -> Ratio:
    """F1 of this answer alone; 1 where nothing was to be told and nothing was."""
    total = given.total() + wanted.total()
    return Ratio(2 * (given & wanted).total() / total if total else 1.0)


def _labelled(grounding: Grounding) -> list[LabelledBox]:
    return [LabelledBox((o.label,), (o.box.x1, o.box.y1, o.box.x2, o.box.y2)) for o in grounding.objects]


_SCORERS: dict[str, Callable[[Turn, str], Scored]] = {
    "caption": _caption,
    "boxes": _boxes,
    "label": _question(_names_label),
    "choice": _question(lambda expected, raw: choice_in(raw, expected.options) == expected.answer),
    "number": _question(lambda expected, raw: number_in(raw) == expected.number),
    "text": _reading,
    "words": _words,
    "span": _span,
    "events": _events,
}
