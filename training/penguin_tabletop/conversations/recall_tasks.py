"""Questions about what happened in a recording and can no longer be seen, each with the time of its evidence.

The last image does not answer them, and a guess hardly does: objects whose presence, colour or place is asked for are
gone, yes and no are equally likely, and choices come in random order. Times in questions and answers count from the
start of the recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise, zip_longest

from penguin_models.grounding import TimeRange, format_time_range
from penguin_models.types import Size
from penguin_tabletop.clips.events import Event
from penguin_tabletop.clips.timeline import PlannedTimeline
from penguin_tabletop.conversations import captions_and_boxes, picture_tasks
from penguin_tabletop.conversations.captions_and_boxes import place_in_picture
from penguin_tabletop.conversations.language import an, ask, kind_of, pick
from penguin_tabletop.conversations.phrases import EVENT_QUESTIONS
from penguin_tabletop.conversations.picture_tasks import PictureTask, brief_or_sentence
from penguin_tabletop.conversations.turns import ExpectedReply, Turn
from penguin_tabletop.scene.catalogue import COLOURS
from penguin_tabletop.scene.random_parts import random_thing
from penguin_tabletop.seeds import Random
from penguin_tabletop.truth import SceneTruth, planned_truth

_BEFORE_S = 1.5
"""An object that leaves was in view for at least this long before."""
_TOGETHER_S = 60.0
_ABSENT = 100
_SIDES = ("left", "middle", "right")
NOW_TASKS: dict[PictureTask, float] = {
    picture_tasks.exists: 2.0,
    picture_tasks.side_of_picture: 1.0,
    picture_tasks.colour_of: 1.5,
    picture_tasks.kind_of_colour: 1.5,
    picture_tasks.count_objects: 1.0,
    captions_and_boxes.find_by_name: 2.0,
}
"""Questions about what is in view now, with weights."""


@dataclass(frozen=True)
class RecallQuestion:
    """A question about the past."""

    turn: Turn
    evidence_s: tuple[float, float]  # when the evidence was in view, in seconds since the start of the recording


class Past:
    """What has happened in a recording up to a time."""

    def __init__(self, recording: PlannedTimeline, size: Size, time_s: float):
        self.events = [event for event in recording.events if event.end_s <= time_s]
        self._recording, self._size = recording, size
        first, last = recording.scene(0.0), recording.scene(time_s)
        self._present = {thing.label for thing in last.things}
        self._used = {thing.label for thing in first.things} | {event.label for event in recording.events}
        self.gone = [event for event in self.events if _takes_away(event) and event.label not in self._present]

    def view(self, time_s: float) -> SceneTruth:
        """Returns what can be seen at a time, without rendering."""
        return planned_truth(self._recording.scene(time_s), self._size)

    def is_present(self, label: str) -> bool:
        """Returns whether an object is there in the end."""
        return label in self._present

    def absent_labels(self, random: Random) -> list[str]:
        """Returns labels that never were there, of objects that recordings choose for such a table and take away."""
        table = self._recording.scene(0.0).surroundings.table
        return [random_thing(random, table, 0, self._used).label for _ in range(_ABSENT)]


_Task = Callable[[Past, Random], Iterator[RecallQuestion]]


def was_there(past: Past, random: Random) -> Iterator[RecallQuestion]:
    """Asks whether an object was there: one that has left, or as often one that never was there."""
    absent = past.absent_labels(random)
    for event in past.gone:
        there = bool(random.random() < 0.5)
        label = event.label if there else _absent_like(event.label, absent, random)
        yield RecallQuestion(_was_there(label, there, random), _last_seen(event))


def was_never_there(past: Past, random: Random) -> Turn:
    """Asks about an object that never was there."""
    return _was_there(past.absent_labels(random)[0], False, random)


def _was_there(label: str, there: bool, random: Random) -> Turn:
    fact = f"Yes, there was {an(label)}." if there else f"No, there was no {label}."
    expected = ExpectedReply("choice", answer="yes" if there else "no", options=("yes", "no"))
    return brief_or_sentence("was_there", random, ask(random, "was_there", an=an(label)), fact, expected)


def when(past: Past, random: Random) -> Iterator[RecallQuestion]:
    """Asks for the time range of an event that happened once."""
    names = [(event.kind, event.label) for event in past.events]
    for event in past.events:
        if names.count((event.kind, event.label)) == 1:
            question = ask(random, "when", clause=EVENT_QUESTIONS[event.kind][0].format(label=event.label))
            expected = ExpectedReply("span", span=event.span)
            yield RecallQuestion(Turn("when", question, format_time_range(event.span), expected), _span(event))


def which_first(past: Past, random: Random) -> Iterator[RecallQuestion]:
    """Asks which of two objects appeared first; both appeared within a minute, one right after the other.

    In the end both are there or none: else the one that is not mostly came first.
    """
    appeared = [event for event in past.events if event.kind == "appears"]
    for first, second in pairwise(appeared):
        if second.end_s - first.start_s > _TOGETHER_S or past.is_present(first.label) != past.is_present(second.label):
            continue
        a, b = (first.label, second.label) if random.random() < 0.5 else (second.label, first.label)
        expected = ExpectedReply("choice", answer=first.label, options=(a, b))
        question = ask(random, "which_first", a=a, b=b)
        sentence = f"The {first.label} came first."
        turn = brief_or_sentence("which_first", random, question, sentence, expected)
        yield RecallQuestion(turn, (first.start_s, second.end_s))


def how_often(past: Past, random: Random) -> Iterator[RecallQuestion]:
    """Asks how often an object was moved that appeared, and was moved last, within a minute.

    At most as many of these objects were never moved as were moved: else "0" would be right most of the time.
    """
    labels = dict.fromkeys(event.label for event in past.events if event.kind in ("appears", "moved"))
    counted: dict[bool, list[tuple[str, list[Event]]]] = {True: [], False: []}
    for label in labels:
        own = [event for event in past.events if event.label == label and event.kind in ("appears", "moved")]
        if own[-1].end_s - own[0].start_s <= _TOGETHER_S:
            counted[any(event.kind == "moved" for event in own)].append((label, own))
    still = [counted[False][index] for index in random.permutation(len(counted[False]))[: len(counted[True])]]
    for label, own in (*counted[True], *still):
        number = sum(event.kind == "moved" for event in own)
        expected = ExpectedReply("number", number=number)
        sentence = f"The {label} was moved {number} times." if number != 1 else f"The {label} was moved 1 time."
        turn = brief_or_sentence("how_often", random, ask(random, "how_often", label=label), sentence, expected)
        yield RecallQuestion(turn, (own[0].start_s, own[-1].end_s))


def what_left(past: Past, random: Random) -> Iterator[RecallQuestion]:
    """Asks which object left last, or first."""
    left = [event for event in past.events if _takes_away(event)]
    for word, event in (("last", left[-1]), ("first", left[0])) if len(left) > 1 else ():
        expected = ExpectedReply("label", answer=event.label)
        answer = f"The {event.label}."
        yield RecallQuestion(
            Turn("what_left", ask(random, "what_left", word=word), answer, expected), _last_seen(event)
        )


def colour_left(past: Past, random: Random) -> Iterator[RecallQuestion]:
    """Asks for the colour of the only object of its kind that has left."""
    kinds = [kind_of(event.label) for event in past.events if _takes_away(event)]
    for event in past.gone:
        kind = kind_of(event.label)
        colour = next((name for name in event.label.split() if name in COLOURS), None)
        if colour is None or kinds.count(kind) > 1:
            continue
        expected = ExpectedReply("choice", answer=colour, options=tuple(COLOURS))
        question = ask(random, "colour_left", kind=kind)
        turn = brief_or_sentence("colour_left", random, question, f"The {kind} was {colour}.", expected)
        yield RecallQuestion(turn, _last_seen(event))


def last_seen(past: Past, random: Random) -> Iterator[RecallQuestion]:
    """Asks on which side an object was before it left."""
    for event in past.gone:
        before = past.view(event.start_s - 0.1)
        item = next((item for item in before.unique if item.label == event.label), None)
        if item is None or not (where := place_in_picture(item)):
            continue
        side = where.split()[-1]
        expected = ExpectedReply("choice", answer=side, options=_SIDES)
        question = ask(random, "last_seen", label=event.label)
        turn = brief_or_sentence("last_seen", random, question, f"The {event.label} was {where}.", expected)
        yield RecallQuestion(turn, _last_seen(event))


RECALL_TASKS: tuple[_Task, ...] = (was_there, when, which_first, how_often, what_left, colour_left, last_seen)


def recall_questions(past: Past, random: Random) -> list[RecallQuestion]:
    """Returns every question that the tasks can ask, in random order."""
    questions = [question for task in RECALL_TASKS for question in task(past, random)]
    return [questions[index] for index in random.permutation(len(questions))]


def balanced(questions: Sequence[RecallQuestion], most: int) -> list[RecallQuestion]:
    """Returns up to `most` questions, in turn one of each task."""
    by_task: dict[str, list[RecallQuestion]] = {}
    for question in questions:
        by_task.setdefault(question.turn.task, []).append(question)
    rounds = (item for items in zip_longest(*by_task.values()) for item in items if item is not None)
    return list(islice(rounds, most))


def now_turns(truth: SceneTruth, random: Random, most: int) -> list[Turn]:
    """Returns 1 to `most` questions about what is in view now; none if that is not clear."""
    return picture_tasks.picture_turns(truth, random, most, NOW_TASKS) if truth.is_clear else []


def counted_from(turn: Turn, start_s: float) -> Turn:
    """Returns the turn with times counted from another start, in seconds since the start of the recording."""
    span = turn.expected.span
    if span is None:
        return turn
    shifted = TimeRange(round(span.start_s - start_s, 2), round(span.end_s - start_s, 2))
    return replace(turn, answer=format_time_range(shifted), expected=replace(turn.expected, span=shifted))


def _takes_away(event: Event) -> bool:
    return event.kind == "leaves" or event.where == "off the table"


def _span(event: Event) -> tuple[float, float]:
    return event.start_s, event.end_s


def _last_seen(event: Event) -> tuple[float, float]:
    return event.start_s - _BEFORE_S, event.end_s


def _absent_like(label: str, absent: Sequence[str], random: Random) -> str:
    """Returns a label that never was there; every second time of the same kind, if there is one."""
    same = [other for other in absent if kind_of(other) == kind_of(label)]
    return pick(random, same if same and random.random() < 0.5 else absent)
