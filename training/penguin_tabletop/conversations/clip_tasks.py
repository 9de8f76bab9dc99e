"""Tasks on clips: captions at three scales, when and what, and what is different at the end.

`what_changed` is also asked about two pictures, before and after. Tasks that look at the first or last picture need it
to be clear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from penguin_models.grounding import format_object, format_time_range
from penguin_tabletop.clips.events import Event, EventKind
from penguin_tabletop.conversations.event_sentences import (
    event_clause,
    event_sequence,
    event_summary,
    timed_event_sentence,
)
from penguin_tabletop.conversations.language import amounts, are, ask, capital, pick, say
from penguin_tabletop.conversations.phrases import BRIEFLY, EVENT_QUESTIONS
from penguin_tabletop.conversations.picture_tasks import brief_or_sentence
from penguin_tabletop.conversations.turns import ExpectedReply, Turn
from penguin_tabletop.seeds import Random, choose_weighted
from penguin_tabletop.truth import SceneTruth, VisibleObject

_SAME_PLACE_IOU = 0.5  # if the first and last box overlap this much, the object was moved and moved back


@dataclass(frozen=True)
class ClipTruth:
    """What a clip shows: the events in order of time, the first picture and the last."""

    events: tuple[Event, ...]
    first: SceneTruth
    last: SceneTruth


ClipTask = Callable[[ClipTruth, Random], Turn | None]


def caption_dense(clip: ClipTruth, random: Random) -> Turn:
    """Asks for all events with their times."""
    question = ask(random, "clip_dense")
    answer = " ".join(timed_event_sentence(random, event) for event in clip.events) or say(random, "nothing_happens")
    return Turn("clip_dense", question, answer, ExpectedReply("events", events=clip.events, timed=True))


def caption_paragraph(clip: ClipTruth, random: Random) -> Turn:
    """Asks for the objects at the beginning, the events, and the number of objects at the end."""
    question = ask(random, "clip_paragraph")
    counts = clip.first.counts()
    is_or_are = are(len(clip.first.objects) if len(counts) == 1 else 2)
    beginning = say(random, "clip_beginning", are=is_or_are, things=amounts(counts), table=clip.first.table)
    middle = event_sequence(random, clip.events) if clip.events else say(random, "nothing_happens")
    end = say(random, "clip_end", **_object_count(clip.last))
    return Turn("clip_paragraph", question, f"{beginning} {middle} {end}", ExpectedReply("events", events=clip.events))


def caption_whole(clip: ClipTruth, random: Random) -> Turn:
    """Asks for all events in one sentence."""
    question = ask(random, "clip_whole")
    answer = event_summary(random, clip.events) if clip.events else say(random, "nothing_happens")
    return Turn("clip_whole", question, answer, ExpectedReply("events", events=clip.events))


def when(clip: ClipTruth, random: Random) -> Turn | None:
    """Asks for the time range of an event that happens once."""
    names = [(event.kind, event.label) for event in clip.events]
    if not (once := [event for event in clip.events if names.count((event.kind, event.label)) == 1]):
        return None
    event = pick(random, once)
    question = ask(random, "when", clause=EVENT_QUESTIONS[event.kind][0].format(label=event.label))
    return Turn("when", question, format_time_range(event.span), ExpectedReply("span", span=event.span))


def what_during(clip: ClipTruth, random: Random) -> Turn | None:
    """Asks for the event in a time range."""
    if not clip.events:
        return None
    event = pick(random, clip.events)
    question = ask(random, "what_during", period=f"{event.start_s:.2f} - {event.end_s:.2f} seconds")
    return _event_turn("what_during", question, event, random)


def what_first(clip: ClipTruth, random: Random) -> Turn | None:
    """Asks for the first event or the last one."""
    if len(clip.events) < 2:
        return None
    word, event = ("first", clip.events[0]) if random.random() < 0.5 else ("last", clip.events[-1])
    return _event_turn("what_first", ask(random, "what_first", word=word), event, random)


def happens(clip: ClipTruth, random: Random) -> Turn:
    """Asks whether an event of a kind happens; yes and no are about equally likely if the clip allows it."""
    present = sorted({event.kind for event in clip.events})
    absent = [kind for kind in EVENT_QUESTIONS if kind not in present]
    yes = bool(present) and (not absent or bool(random.random() < 0.6))
    kind = pick(random, present if yes else absent)
    word = "yes" if yes else "no"
    question = capital(EVENT_QUESTIONS[kind][1]) + "?"
    expected = ExpectedReply("choice", answer=word, options=("yes", "no"))
    if random.random() < 0.5:
        return Turn("happens", f"{question} {pick(random, BRIEFLY)}", word, expected)
    if not yes:
        return Turn("happens", question, "No.", expected)
    event = next(event for event in clip.events if event.kind == kind)
    return Turn("happens", question, f"Yes, {event_clause(random, event)}.", expected)


def how_many_times(clip: ClipTruth, random: Random) -> Turn:
    """Asks for the number of objects that appear, fall, ..."""
    kind = pick(random, [kind for kind in EVENT_QUESTIONS if kind != "camera"])
    number = len({event.thing for event in clip.events if event.kind == kind})
    question, expected = f"How many objects {EVENT_QUESTIONS[kind][2]}?", ExpectedReply("number", number=number)
    return brief_or_sentence("clip_count", random, question, str(number), expected)


def count_at_end(clip: ClipTruth, random: Random) -> Turn:
    """Asks for the number of objects at the end."""
    question, sentence = ask(random, "count_at_end"), "There {are} {n} {objects}.".format(**_object_count(clip.last))
    expected = ExpectedReply("number", number=len(clip.last.objects))
    return brief_or_sentence("count_at_end", random, question, sentence, expected)


def where_at_end(clip: ClipTruth, random: Random) -> Turn | None:
    """Asks for the box of an object in the last picture; mostly of one that was moved."""
    items = clip.last.unique
    touched = [item for item in items if any(event.thing == item.id for event in clip.events)]
    items = touched if touched and random.random() < 0.7 else items
    if not items:
        return None
    item = pick(random, items)
    question = ask(random, "where_at_end", label=item.label)
    return Turn("where_at_end", question, format_object(item.rounded), ExpectedReply("boxes", (item.grounded,)))


def what_changed(clip: ClipTruth, random: Random) -> Turn:
    """Asks for the difference between the first and the last picture."""
    question = ask(random, "what_changed")
    changes = net_changes(clip)
    answer = event_summary(random, changes, done=True) if changes else say(random, "nothing_changed")
    return Turn("what_changed", question, answer, ExpectedReply("events", events=changes))


_CLIP_TASKS: dict[ClipTask, float] = {
    caption_dense: 2.0,
    when: 3.0,
    caption_whole: 1.5,
    what_during: 1.5,
    what_first: 1.0,
    happens: 1.0,
    how_many_times: 0.8,
}
CLIP_TASKS: dict[ClipTask, float] = _CLIP_TASKS | {
    caption_paragraph: 1.5,
    count_at_end: 0.8,
    where_at_end: 1.2,
    what_changed: 2.0,
}
"""All tasks with weights; those of `_CLIP_TASKS` do not need a clear first and last picture."""


def clip_turns(clip: ClipTruth, random: Random, most: int) -> list[Turn]:
    """Returns up to `most` questions about a clip, each of another task; possibly none."""
    tasks = CLIP_TASKS if clip.first.is_clear and clip.last.is_clear else _CLIP_TASKS
    wanted = int(random.integers(1, most + 1))
    order = choose_weighted(random, tasks, len(tasks), repeat=False)
    # Tasks are asked one after another only until there are enough turns.
    turns = (turn for task in order if (turn := task(clip, random)) is not None)
    return list(islice(turns, wanted))


def net_changes(clip: ClipTruth) -> tuple[Event, ...]:
    """Returns what a comparison of the first and last picture shows: one event per object, and one for the camera."""
    before, after = ({item.id: item for item in truth.objects} for truth in (clip.first, clip.last))
    camera_moved = any(event.kind == "camera" for event in clip.events)
    changes: dict[int | None, Event] = {}
    for event in clip.events:
        thing, previous = event.thing, changes.get(event.thing)
        kind: EventKind = "falls" if previous and previous.kind == "falls" else event.kind
        where = "" if previous else event.where
        if thing is not None and (thing not in before or thing not in after):
            if thing not in before and thing not in after:
                continue  # came and went
            kind, where = "leaves" if thing in before else "appears", ""
        changes[thing] = Event(kind, (previous or event).start_s, event.end_s, thing, event.label, where)
    return tuple(
        change
        for thing, change in changes.items()
        if camera_moved or thing is None or change.kind != "moved" or not _is_same_place(before[thing], after[thing])
    )


def _event_turn(task: str, question: str, event: Event, random: Random) -> Turn:
    answer = capital(event_clause(random, event)) + "."
    return Turn(task, question, answer, ExpectedReply("events", events=(event,)))


def _is_same_place(first: VisibleObject, second: VisibleObject) -> bool:
    a, b = first.box, second.box
    common = max(0, min(a.x2, b.x2) - max(a.x1, b.x1)) * max(0, min(a.y2, b.y2) - max(a.y1, b.y1))
    both = (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1)
    return common / (both - common) >= _SAME_PLACE_IOU


def _object_count(truth: SceneTruth) -> dict[str, object]:
    n = len(truth.objects)
    return {"n": n, "objects": "object" if n == 1 else "objects", "are": are(n)}
