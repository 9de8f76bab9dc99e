"""One question with its answer, and what an evaluator may expect of any answer without understanding English."""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass
from typing import Any, Literal

from penguin_models.grounding import GroundedObject, TimeRange
from penguin_tabletop.clips.events import Event

ExpectedKind = Literal["caption", "boxes", "label", "choice", "number", "text", "words", "span", "events"]
_FIELDS_OF: dict[ExpectedKind, tuple[str, ...]] = {
    "caption": ("objects",),
    "boxes": ("objects",),
    "label": ("answer",),
    "choice": ("answer", "options"),
    "number": ("number",),
    "text": ("answer",),
    "words": ("answer",),
    "span": ("span",),
    "events": ("events", "timed"),
}


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
        fields = {
            "objects": [{"label": item.label, "box": astuple(item.box)} for item in self.objects],
            "answer": self.answer,
            "options": list(self.options),
            "number": self.number,
            "span": self.span and [self.span.start_s, self.span.end_s],
            "events": [asdict(event) for event in self.events],
            "timed": self.timed,
        }
        return {"kind": self.kind} | {name: fields[name] for name in _FIELDS_OF[self.kind]}


@dataclass(frozen=True)
class Turn:
    """A question, its answer, the task that they are an example of, and what is expected of any answer."""

    task: str
    question: str
    answer: str
    expected: ExpectedReply
