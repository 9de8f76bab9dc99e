"""A question and its answer, and what an evaluator may expect of any answer without understanding English."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from penguin_models.grounding import GroundedObject, TimeRange
from penguin_tabletop.events import Event
from penguin_tabletop.truth import box_list

ExpectedKind = Literal["caption", "boxes", "label", "choice", "number", "text", "words", "span", "events"]


@dataclass(frozen=True)
class Expected:
    """What a right answer holds.

    Attributes:
        kind: which of the fields counts:
            caption: names the `objects`, each as often as it is there; without boxes.
            boxes: gives exactly the `objects` with their boxes (none, if there are none).
            label: names the object `answer`, before any other.
            choice: `answer`, one of the `options`.
            number: `number`.
            text: `answer`, as printed.
            words: `answer`, word by word.
            span: one time range, `span`.
            events: tells the `events` (none, if nothing happens); `timed` if with their time ranges.
        objects: labels and boxes.
        answer: a label, one of the options, or a printed word.
        options: that a choice is between.
        number: a count.
        span: from when to when.
        events: in order of time.
        timed: whether the answer must give the times of the events.
    """

    kind: ExpectedKind
    objects: tuple[GroundedObject, ...] = ()
    answer: str = ""
    options: tuple[str, ...] = ()
    number: int = 0
    span: TimeRange | None = None
    events: tuple[Event, ...] = ()
    timed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the kind and the fields that count for it."""
        fields: dict[str, Any] = {"kind": self.kind}
        if self.kind in ("caption", "boxes"):
            fields["objects"] = [{"label": item.label, "box": box_list(item.box)} for item in self.objects]
        elif self.kind in ("label", "choice", "text", "words"):
            fields["answer"] = self.answer
            if self.kind == "choice":
                fields["options"] = list(self.options)
        elif self.kind == "number":
            fields["number"] = self.number
        elif self.kind == "span" and self.span is not None:
            fields["span"] = [self.span.start_s, self.span.end_s]
        elif self.kind == "events":
            fields |= {"events": [event.to_dict() for event in self.events], "timed": self.timed}
        return fields


@dataclass(frozen=True)
class Turn:
    """A question, its answer, the task that they are an example of, and what is expected."""

    task: str
    question: str
    answer: str
    expected: Expected
