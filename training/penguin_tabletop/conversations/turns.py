"""One question with its answer, and what an evaluator may expect of any answer without understanding English."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from penguin_models.grounding import GroundedObject, TimeRange
from penguin_tabletop.clips.events import Event
from penguin_tabletop.truth import box_list

ExpectedKind = Literal["caption", "boxes", "label", "choice", "number", "text", "words", "span", "events"]


@dataclass(frozen=True)
class ExpectedReply:
    """What a correct answer contains. The kind decides which fields count:

    caption: names the `objects`, each as often as it occurs; without boxes.
    boxes: gives exactly the `objects` with their boxes, possibly none.
    label: names the object `answer` before any other.
    choice: gives `answer`, one of the `options`.
    number: gives `number`.
    text: gives `answer` as printed.
    words: gives `answer` word by word.
    span: gives one time range, `span`.
    events: describes the `events` in order of time, possibly none; with their time ranges if `timed`.
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
        """Returns the kind and the fields that count for it, for JSON."""
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
    """A question, its answer, the task that they are an example of, and what is expected of any answer."""

    task: str
    question: str
    answer: str
    expected: ExpectedReply
