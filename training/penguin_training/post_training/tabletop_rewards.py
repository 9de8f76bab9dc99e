"""Reward functions for the simulated table-top, between 0 and 1: each compares an answer with what its turn expects.

They read the field `expected` that samples of the table-top have (`ExpectedReply.to_dict`), and do not apply to
questions of other data; only `length` does. Answers are parsed as the evaluation parses them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from penguin_models.grounding import parse
from penguin_tabletop.conversations.answer_parsing import (
    ParsedEvent,
    choice_in,
    events_in,
    labels_in,
    number_in,
    quoted_word_in,
)
from penguin_training.data.questions import Question

T = TypeVar("T")
U = TypeVar("U")
Span = tuple[float, float]
_MOST_WORDS, _FREE_WORDS = 3.0, 1.5
"""Words of an answer per word of the annotated one: how many earn nothing, and how many cost nothing."""


def boxes(question: Question, answer: str) -> float | None:
    """Returns the sum of the IoU of boxes, matched one to one, over the larger number of stated and expected ones."""
    expected = _expected(question, "boxes")
    if expected is None:
        return None
    stated = [(b.x1, b.y1, b.x2, b.y2) for b in (item.box for item in parse(answer).objects)]
    return _overlap(stated, [item["box"] for item in expected["objects"]], box_iou)


def names(question: Question, answer: str) -> float | None:
    """Returns whether the answer names what it should: 1 or 0; the F1 of a list of objects or events."""
    expected = _expected(question, "caption", "boxes", "label", "choice", "text", "words", "events")
    if expected is None:
        return None
    kind, wanted = expected["kind"], expected.get("answer", "")
    if kind in ("caption", "boxes"):
        stated = labels_in(answer) if kind == "caption" else (item.label for item in parse(answer).objects)
        return _f1(Counter(stated), Counter(item["label"] for item in expected["objects"]))
    if kind == "events":
        stated_events = Counter((event.kind, event.label) for event in events_in(answer))
        return _f1(stated_events, Counter((event["kind"], event["label"]) for event in expected["events"]))
    if kind == "words":
        pairs = [*zip(answer.split(), wanted.split(), strict=False)]
        return float(sum(a == b for a, b in pairs) / max(len(answer.split()), len(wanted.split()), 1))
    if kind == "text":
        return float((quoted_word_in(answer) or "").lower() == wanted.lower())
    named = next(iter(labels_in(answer)), None) if kind == "label" else choice_in(answer, expected["options"])
    return float(named == wanted)


def counts(question: Question, answer: str) -> float | None:
    """Returns whether the answer gives exactly the number of objects that was asked for: 1 or 0."""
    expected = _expected(question, "number")
    return None if expected is None else float(number_in(answer) == expected["number"])


def times(question: Question, answer: str) -> float | None:
    """Returns the temporal IoU of the time range; of timed events, as a share like that of `boxes`."""
    expected = _expected(question, "span", "events")
    if expected is None or (expected["kind"] == "events" and not expected["timed"]):
        return None
    if expected["kind"] == "span":
        stated = [(span.start_s, span.end_s) for span in parse(answer).time_ranges[:1]]
        return _overlap(stated, [tuple(expected["span"])], span_iou)
    return _overlap(events_in(answer), expected["events"], _event_iou)


def well_formed(question: Question, answer: str) -> float | None:
    """Returns whether the answer has the form that its question asks for: 1 or 0.

    Boxes and time ranges can be read, and there are some exactly if some are expected; one time range for "when".
    """
    expected = _expected(question)
    if expected is None:
        return None
    grounding = parse(answer)
    kind = expected["kind"]
    ranges = len(grounding.time_ranges)
    timed = {"span": ranges == 1, "events": bool(ranges) == bool(expected.get("timed") and expected.get("events"))}
    boxed = bool(grounding.objects) == bool(kind == "boxes" and expected["objects"])
    right = timed.get(kind, ranges == 0) and (boxed or kind == "words")
    return float(bool(answer.strip()) and not grounding.malformed and right)


def length(question: Question, answer: str) -> float | None:
    """Returns 1 for an answer of up to 1.5 times the words of the annotated one, 0 for one of 3 times or more."""
    words = len(answer.split()) / max(1, len(question.reference.split()))
    return min(1.0, max(0.0, (_MOST_WORDS - words) / (_MOST_WORDS - _FREE_WORDS)))


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns intersection over union of two boxes (x1, y1, x2, y2); 0 if neither has an area."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union > 0 else 0.0


def span_iou(a: Span, b: Span) -> float:
    """Returns intersection over union of two time ranges; 1 for equal ones without length."""
    union = max(a[1], b[1]) - min(a[0], b[0])
    return max(0.0, min(a[1], b[1]) - max(a[0], b[0])) / union if union > 0 else float(a == b)


def _expected(question: Question, *kinds: str) -> Mapping[str, Any] | None:
    """Returns what the table-top expects of an answer; None if it is of another kind, or not of the table-top."""
    entries = question.fields.get("expected")
    entry = entries[question.turn] if isinstance(entries, list) and question.turn < len(entries) else None
    return entry if isinstance(entry, Mapping) and (not kinds or entry.get("kind") in kinds) else None


def _event_iou(stated: ParsedEvent, expected: Mapping[str, Any]) -> float:
    if stated.span is None or (stated.kind, stated.label) != (expected["kind"], expected["label"]):
        return 0.0
    return span_iou((stated.span.start_s, stated.span.end_s), (expected["start_s"], expected["end_s"]))


def _overlap(stated: Sequence[T], expected: Sequence[U], iou: Callable[[T, U], float]) -> float:
    """Returns the IoU of the best pairs, best first, over the number of stated or expected items; 1 without any."""
    if not stated and not expected:
        return 1.0
    pairs = sorted(((iou(a, b), i, j) for i, a in enumerate(stated) for j, b in enumerate(expected)), reverse=True)
    used: tuple[set[int], set[int]] = set(), set()
    total = 0.0
    for value, i, j in pairs:
        if i not in used[0] and j not in used[1]:
            total += value
            used[0].add(i)
            used[1].add(j)
    return total / max(len(stated), len(expected))


def _f1(stated: Counter[Any], expected: Counter[Any]) -> float:
    """Returns 2 hits / (stated + expected); 1 if nothing was expected and nothing stated."""
    count = stated.total() + expected.total()
    return 2 * (stated & expected).total() / count if count else 1.0
