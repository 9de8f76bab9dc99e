"""Tasks on clips: captions at three scales, when and what, what is different at the end.

Also for two pictures, of before and after: what has changed. The first and the last picture must be clear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penguin_models.grounding import format_object, format_time_range
from penguin_tabletop.event_words import (
    NOTHING_DONE,
    NOTHING_NOW,
    told,
    told_in_order,
    told_together,
    told_with_time,
)
from penguin_tabletop.events import Event, EventKind
from penguin_tabletop.language import amounts, are, capital, pick, say
from penguin_tabletop.picture_questions import BRIEFLY
from penguin_tabletop.pointing import unique
from penguin_tabletop.truth import SceneTruth, VisibleObject
from penguin_tabletop.turns import Expected, Turn

Random = np.random.Generator
_BACK_AGAIN = 0.5
"""Boxes that overlap this much: the object was moved, and moved back."""
_ASKED: dict[EventKind, tuple[str, str, str]] = {
    # How an event is asked for: when does, does it ever, and how many times.
    "appears": ("does the {label} appear", "does something appear", "appear"),
    "moved": ("is the {label} moved", "is something moved", "are moved"),
    "falls": ("does the {label} fall", "does something fall", "fall"),
    "leaves": ("does the {label} leave", "does something leave", "leave"),
    "camera": ("does the camera move", "does the camera move", ""),
}


@dataclass(frozen=True)
class ClipTruth:
    """What a clip shows: the events in order of time, the first picture and the last."""

    events: tuple[Event, ...]
    first: SceneTruth
    last: SceneTruth


def caption_dense(clip: ClipTruth, random: Random) -> Turn:
    """Every event with its time."""
    question = pick(
        random,
        (
            "Describe what happens, with times.",
            "When does what happen?",
            "List the events with their times.",
            "Describe the video event by event, with times.",
            "Give a dense caption with times.",
        ),
    )
    answer = " ".join(told_with_time(random, event) for event in clip.events) or pick(random, NOTHING_NOW)
    return Turn("clip_dense", question, answer, Expected("events", events=clip.events, timed=True))


def caption_paragraph(clip: ClipTruth, random: Random) -> Turn:
    """What is there, what happens, what is there in the end."""
    question = pick(
        random,
        (
            "Describe the video.",
            "Describe the video in a paragraph.",
            "Tell me what happens in this video.",
            "What happens in the clip? Tell it in order.",
            "Describe the clip from beginning to end.",
        ),
    )
    beginning = say(
        random,
        ("at the beginning there {are} {things} on a {table} table.", "{things} {are} on a {table} table."),
        are=are(len(clip.first.objects) if len(clip.first.counts()) == 1 else 2),
        things=amounts(clip.first.counts()),
        table=clip.first.table,
    )
    middle = told_in_order(random, clip.events) if clip.events else pick(random, NOTHING_NOW)
    end = say(
        random,
        ("in the end, {n} {objects} {are} there.", "in the end there {are} {n} {objects}."),
        **_number(clip.last),
    )
    return Turn("clip_paragraph", question, f"{beginning} {middle} {end}", Expected("events", events=clip.events))


def caption_whole(clip: ClipTruth, random: Random) -> Turn:
    """One sentence."""
    question = pick(
        random,
        (
            "Describe the video in one sentence.",
            "What happens?",
            "What happens in the video?",
            "Give a short caption for the video.",
            "Say briefly what happens.",
        ),
    )
    answer = told_together(random, clip.events) if clip.events else pick(random, NOTHING_NOW)
    return Turn("clip_whole", question, answer, Expected("events", events=clip.events))


def when(clip: ClipTruth, random: Random) -> Turn | None:
    """The time range of an event that happens once."""
    names = [(event.kind, event.label) for event in clip.events]
    once = [event for event in clip.events if names.count((event.kind, event.label)) == 1]
    if not once:
        return None
    event = once[int(random.integers(len(once)))]
    asked = _ASKED[event.kind][0].format(label=event.label)
    question = pick(random, ("When {asked}?", "At what time {asked}?", "From when to when {asked}?")).format(
        asked=asked
    )
    return Turn("when", question, format_time_range(event.span), Expected("span", span=event.span))


def what_during(clip: ClipTruth, random: Random) -> Turn | None:
    """What happens in a time range."""
    if not clip.events:
        return None
    event = clip.events[int(random.integers(len(clip.events)))]
    period = f"{event.start_s:.2f} - {event.end_s:.2f} seconds"
    ways = (
        "What happens during the period {period}?",
        "During the period {period}, what happens?",
        "What can be seen during the period {period}?",
    )
    question = pick(random, ways).format(period=period)
    return Turn("what_during", question, capital(told(random, event)) + ".", Expected("events", events=(event,)))


def what_first(clip: ClipTruth, random: Random) -> Turn | None:
    """The first event or the last one."""
    if len(clip.events) < 2:
        return None
    word, event = ("first", clip.events[0]) if random.random() < 0.5 else ("last", clip.events[-1])
    question = say(random, ("what happens {word}?", "what is the {word} thing that happens?"), word=word)
    return Turn("what_first", question, capital(told(random, event)) + ".", Expected("events", events=(event,)))


def happens(clip: ClipTruth, random: Random) -> Turn:
    """Whether something of a kind happens; as often yes as no where the clip allows it."""
    there = sorted({event.kind for event in clip.events})
    absent = [kind for kind in _ASKED if kind not in there]
    yes = bool(there) and (not absent or bool(random.random() < 0.6))
    kind = (there if yes else absent)[int(random.integers(len(there if yes else absent)))]
    word = "yes" if yes else "no"
    asked = capital(_ASKED[kind][1]) + "?"
    expected = Expected("choice", answer=word, options=("yes", "no"))
    if random.random() < 0.5:
        return Turn("happens", f"{asked} {pick(random, BRIEFLY)}", word, expected)
    if not yes:
        return Turn("happens", asked, "No.", expected)
    event = next(event for event in clip.events if event.kind == kind)
    return Turn("happens", asked, f"Yes, {told(random, event)}.", expected)


def how_many_times(clip: ClipTruth, random: Random) -> Turn:
    """How many objects appear, fall, ..."""
    kinds = [kind for kind in _ASKED if kind != "camera"]
    kind = kinds[int(random.integers(len(kinds)))]
    number = len({event.thing for event in clip.events if event.kind == kind})
    question = f"How many objects {_ASKED[kind][2]}?"
    if random.random() < 0.5:
        question = f"{question} {pick(random, BRIEFLY)}"
    return Turn("clip_count", question, str(number), Expected("number", number=number))


def count_at_end(clip: ClipTruth, random: Random) -> Turn:
    """How many objects there are in the end."""
    question = pick(random, ("How many objects are there at the end?", "How many objects are on the table at the end?"))
    fields = _number(clip.last)
    answer = "There {are} {n} {objects}.".format(**fields)
    if random.random() < 0.5:
        question, answer = f"{question} {pick(random, BRIEFLY)}", str(fields["n"])
    return Turn("count_at_end", question, answer, Expected("number", number=len(clip.last.objects)))


def where_at_end(clip: ClipTruth, random: Random) -> Turn | None:
    """The box of an object in the last picture; mostly of one that was moved."""
    items = unique(clip.last)
    touched = [item for item in items if any(event.thing == item.id for event in clip.events)]
    items = touched if touched and random.random() < 0.7 else items
    if not items:
        return None
    item = items[int(random.integers(len(items)))]
    question = say(
        random, ("where is the {label} at the end?", "in which box is the {label} at the end?"), label=item.label
    )
    return Turn("where_at_end", question, format_object(item.told), Expected("boxes", (item.grounded,)))


def what_changed(clip: ClipTruth, random: Random) -> Turn:
    """What is different in the end."""
    question = pick(
        random,
        (
            "What has changed?",
            "What is different at the end?",
            "What is different?",
            "Compare the beginning and the end.",
            "What has changed between the beginning and the end?",
        ),
    )
    changes = net_changes(clip)
    answer = told_together(random, changes, done=True) if changes else pick(random, NOTHING_DONE)
    return Turn("what_changed", question, answer, Expected("events", events=changes))


def net_changes(clip: ClipTruth) -> tuple[Event, ...]:
    """What a comparison of the first and the last picture shows: one event for each object, and one for the camera."""
    before, after = ({item.id: item for item in truth.objects} for truth in (clip.first, clip.last))
    camera_moved = any(event.kind == "camera" for event in clip.events)
    changes: dict[int | None, Event] = {}
    for event in clip.events:
        thing = event.thing
        if thing is not None and thing not in before and thing not in after:
            continue  # came and went
        if thing is not None and thing not in before:
            changes[thing] = _merged("appears", "", changes.get(thing), event)
        elif thing is not None and thing not in after:
            changes[thing] = _merged("leaves", "", changes.get(thing), event)
        else:
            previous = changes.get(thing)
            kind: EventKind = "falls" if previous and "falls" in (previous.kind, event.kind) else event.kind
            changes[thing] = _merged(kind, "" if previous else event.where, previous, event)
    return tuple(
        change
        for thing, change in changes.items()
        if thing is None
        or change.kind != "moved"
        or camera_moved
        or _overlap(before[thing], after[thing]) < _BACK_AGAIN
    )


def _merged(kind: EventKind, where: str, first: Event | None, last: Event) -> Event:
    """Two events of one object as one change."""
    return Event(kind, (first or last).start_s, last.end_s, last.thing, last.label, where)


def _overlap(first: VisibleObject, second: VisibleObject) -> float:
    """Intersection over union of the boxes."""
    a, b = first.box, second.box
    common = max(0, min(a.x2, b.x2) - max(a.x1, b.x1)) * max(0, min(a.y2, b.y2) - max(a.y1, b.y1))
    both = (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1)
    return common / (both - common)


def _number(truth: SceneTruth) -> dict[str, object]:
    n = len(truth.objects)
    return {"n": n, "objects": "object" if n == 1 else "objects", "are": are(n)}


def clear(truths: Sequence[SceneTruth]) -> bool:
    """Whether every one of these pictures is clear and shows something."""
    return all(truth.objects and not truth.unclear for truth in truths)
