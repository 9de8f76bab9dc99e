"""Parses answers for evaluation: the objects, events, number, choice or word that a text gives.

It knows the phrasings of the tasks, so that a model trained on them can be scored without a judge.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from penguin_models.grounding import TimeRange, parse
from penguin_tabletop.clips.events import EventKind
from penguin_tabletop.conversations.language import NUMBERS, every_label, plural
from penguin_tabletop.conversations.phrases import VERBS, VERBS_DONE

_SINGULARS = {plural(label): label for label in every_label()}
_LABELS = "|".join(sorted([*every_label(), *_SINGULARS], key=len, reverse=True))
_LABEL_PATTERN = re.compile(rf"\b(?:(an?|the|{'|'.join(NUMBERS)}) )?({_LABELS})\b")
_EVENT_KINDS: dict[str, EventKind] = {
    verb: kind for table in (VERBS, VERBS_DONE) for kind, verbs in table.items() for verb in verbs
}
_EVENT_PATTERN = re.compile(
    r"(?:During the period (?P<start>\d+\.\d+) - (?P<end>\d+\.\d+) seconds, )?"
    rf"\b(?:an?|the) (?P<label>{'|'.join(['camera', *every_label()])}) "
    rf"(?P<verb>{'|'.join(sorted(_EVENT_KINDS, key=len, reverse=True))})\b",
    re.IGNORECASE,
)


class ParsedEvent(NamedTuple):
    """An event that a text describes; the span is None if the text gives no time."""

    kind: EventKind
    label: str
    span: TimeRange | None


def labels_in(text: str) -> dict[str, int]:
    """Returns the labels that a caption names, and the number of objects with each.

    "the red cube" names one, "two red cubes" names two; a repeated label is no further object unless it has another
    box.
    """
    grounding = parse(text)
    found: dict[str, int] = {}
    for amount, name in _LABEL_PATTERN.findall(grounding.text.lower()):
        label = _SINGULARS.get(name, name)
        number = NUMBERS.index(amount) if amount in NUMBERS else 1
        found[label] = max(found.get(label, 0), number)
    for label, boxes in Counter(item.label for item in grounding.objects).items():
        found[label] = max(found.get(label, 0), boxes)
    return {label: number for label, number in found.items() if number}


def events_in(text: str) -> list[ParsedEvent]:
    """Returns the events that a text describes, in its order."""
    return [
        ParsedEvent(
            _EVENT_KINDS[match["verb"].lower()],
            match["label"].lower(),
            TimeRange(float(match["start"]), float(match["end"])) if match["start"] else None,
        )
        for match in _EVENT_PATTERN.finditer(text)
        if not match["start"] or float(match["start"]) <= float(match["end"])
    ]


def number_in(text: str) -> int | None:
    """Returns the first number that a text gives, in digits or words."""
    match = re.search(rf"\b(\d+|{'|'.join(NUMBERS)})\b", text.lower())
    if match is None:
        return None
    return int(match[1]) if match[1].isdigit() else NUMBERS.index(match[1])


def choice_in(text: str, options: Sequence[str]) -> str | None:
    """Returns the option that a text names: of yes and no the first one, otherwise the last, as subjects come first."""
    pattern = "|".join(re.escape(option) for option in sorted(options, key=len, reverse=True))
    found = re.findall(rf"\b({pattern})\b", text.lower())
    if not found:
        return None
    return str(found[0] if set(options) == {"yes", "no"} else found[-1])


def quoted_word_in(text: str) -> str | None:
    """Returns the word that a text quotes, or the whole text if it quotes none; None if there is no text."""
    match = re.search(r'"([^"]*)"', text)
    return match[1] if match else text.strip(" .") or None
