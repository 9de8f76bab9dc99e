"""How events are told: one table of verbs, so that what was told can be read back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penguin_models.grounding import format_time_range
from penguin_tabletop.events import Event, EventKind
from penguin_tabletop.language import an, capital, listed, pick

Random = np.random.Generator

NOW: dict[EventKind, tuple[str, ...]] = {
    "appears": ("appears", "comes into view", "is put on the table"),
    "moved": ("is moved", "changes its place"),
    "falls": ("falls",),
    "leaves": ("leaves", "goes out of view", "is taken away"),
    "camera": ("moves", "turns"),
}
DONE: dict[EventKind, tuple[str, ...]] = {
    "appears": ("has appeared", "is new"),
    "moved": ("has been moved", "is in another place"),
    "falls": ("has fallen", "fell"),
    "leaves": ("is gone", "has been taken away"),
    "camera": ("has moved", "has turned"),
}
_WITHOUT_PLACE = ("comes into view", "is put on the table", "changes its place", "is in another place", "is new")
NOTHING_NOW = ("Nothing happens.", "Nothing moves.", "Everything stays as it is.")
NOTHING_DONE = ("Nothing has changed.", "Nothing is different.", "Everything is as before.")


def told(random: Random, event: Event, done: bool = False) -> str:
    """An event as a clause, without capital or full stop."""
    verb = pick(random, (DONE if done else NOW)[event.kind])
    subject = an(event.label) if event.kind == "appears" else f"the {event.label}"
    return f"{subject} {verb} {event.where}" if event.where and verb not in _WITHOUT_PLACE else f"{subject} {verb}"


def told_with_time(random: Random, event: Event) -> str:
    """A sentence with the event's time range."""
    return f"{format_time_range(event.span)[:-1]}, {told(random, event)}."


def told_in_order(random: Random, events: Sequence[Event]) -> str:
    """A paragraph: one sentence for each event."""
    openings = ("Then", "After that,", "Next,", "Later,")
    sentences = [f"First, {told(random, events[0])}." if len(events) > 1 else f"{capital(told(random, events[0]))}."]
    sentences += [f"{pick(random, openings)} {told(random, event)}." for event in events[1:]]
    return " ".join(sentences)


def told_together(random: Random, events: Sequence[Event], done: bool = False) -> str:
    """One sentence for all events."""
    return capital(listed([told(random, event, done) for event in events])) + "."
