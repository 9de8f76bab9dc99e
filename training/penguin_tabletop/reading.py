"""Reads answers back: which objects a caption names, which events it tells, which number or choice it gives.

For evaluation. It knows the words that the tasks use, so a model trained on them can be scored without a judge.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from penguin_models.grounding import TimeRange, parse
from penguin_tabletop.event_words import DONE, NOW
from penguin_tabletop.events import EventKind
from penguin_tabletop.language import NUMBERS, every_label, plural


class ToldEvent(NamedTuple):
    """An event as a text tells it; the time is None where none is given."""

    kind: EventKind
    label: str
    span: TimeRange | None


def labels_in(text: str) -> dict[str, int]:
    """The objects that a caption names, and how many of each.

    "the red cube" names one; "two red cubes" names two; a label that comes again is no further object, unless it has a
    box of its own.
    """
    grounding = parse(text)
    found: dict[str, int] = {}
    for amount, name in _names().findall(grounding.text.lower()):
        label = _singular().get(name, name)
        number = NUMBERS.index(amount) if amount in NUMBERS else 1
        found[label] = max(found.get(label, 0), number)
    for label in {item.label for item in grounding.objects}:
        boxes = sum(item.label == label for item in grounding.objects)
        found[label] = max(found.get(label, 0), boxes)
    return {label: number for label, number in found.items() if number}


def events_in(text: str) -> list[ToldEvent]:
    """The events that a text tells, in its order."""
    return [
        ToldEvent(
            _kind_of_verb()[match["verb"].lower()],
            match["label"].lower(),
            TimeRange(float(match["start"]), float(match["end"])) if match["start"] else None,
        )
        for match in _events().finditer(text)
        if not match["start"] or float(match["start"]) <= float(match["end"])
    ]


def number_in(text: str) -> int | None:
    """The first number that a text gives, in digits or words."""
    match = re.search(rf"\b(\d+|{'|'.join(NUMBERS)})\b", text.lower())
    if match is None:
        return None
    return int(match[1]) if match[1].isdigit() else NUMBERS.index(match[1])


def choice_in(text: str, options: Sequence[str]) -> str | None:
    """The option that a text names: the last one, as a sentence names its subject first; of yes and no the first."""
    pattern = "|".join(re.escape(option) for option in sorted(options, key=len, reverse=True))
    found = re.findall(rf"\b({pattern})\b", text.lower())
    if not found:
        return None
    return str(found[0] if set(options) == {"yes", "no"} else found[-1])


def print_in(text: str) -> str | None:
    """The printed word that a text quotes, or the whole text if it is one word."""
    match = re.search(r'"([^"]*)"', text)
    return match[1] if match else text.strip(" .") or None


@lru_cache(maxsize=1)
def _singular() -> dict[str, str]:
    return {plural(label): label for label in every_label()}


@lru_cache(maxsize=1)
def _names() -> re.Pattern[str]:
    names = sorted([*every_label(), *_singular()], key=len, reverse=True)
    return re.compile(rf"\b(?:(an?|the|{'|'.join(NUMBERS)}) )?({'|'.join(names)})\b")


@lru_cache(maxsize=1)
def _kind_of_verb() -> dict[str, EventKind]:
    """No two kinds of events share a verb."""
    return {verb: kind for table in (NOW, DONE) for kind, verbs in table.items() for verb in verbs}


@lru_cache(maxsize=1)
def _events() -> re.Pattern[str]:
    verbs = "|".join(sorted(_kind_of_verb(), key=len, reverse=True))
    labels = "|".join(["camera", *every_label()])
    time = r"(?:During the period (?P<start>\d+\.\d+) - (?P<end>\d+\.\d+) seconds, )?"
    return re.compile(rf"{time}\b(?:an?|the) (?P<label>{labels}) (?P<verb>{verbs})\b", re.IGNORECASE)
