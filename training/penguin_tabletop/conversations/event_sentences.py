"""Describes events in clauses and sentences."""

from __future__ import annotations

from collections.abc import Sequence

from penguin_models.grounding import format_time_range
from penguin_tabletop.clips.events import Event
from penguin_tabletop.conversations.language import an, capital, listed, pick
from penguin_tabletop.conversations.phrases import VERBS, VERBS_DONE, VERBS_WITHOUT_PLACE
from penguin_tabletop.seeds import Random


def event_clause(random: Random, event: Event, done: bool = False) -> str:
    """Describes an event, without capital letter or full stop."""
    verb = pick(random, (VERBS_DONE if done else VERBS)[event.kind])
    subject = an(event.label) if event.kind == "appears" else f"the {event.label}"
    return f"{subject} {verb} {event.where}" if event.where and verb not in VERBS_WITHOUT_PLACE else f"{subject} {verb}"


def timed_event_sentence(random: Random, event: Event) -> str:
    """Describes an event with its time range."""
    return f"{format_time_range(event.span)[:-1]}, {event_clause(random, event)}."


def event_sequence(random: Random, events: Sequence[Event]) -> str:
    """Describes events in order, one sentence each."""
    openings = ("Then", "After that,", "Next,", "Later,")
    first = event_clause(random, events[0])
    sentences = [f"First, {first}." if len(events) > 1 else f"{capital(first)}."]
    sentences += [f"{pick(random, openings)} {event_clause(random, event)}." for event in events[1:]]
    return " ".join(sentences)


def event_summary(random: Random, events: Sequence[Event], done: bool = False) -> str:
    """Describes all events in one sentence."""
    return capital(listed([event_clause(random, event, done) for event in events])) + "."
