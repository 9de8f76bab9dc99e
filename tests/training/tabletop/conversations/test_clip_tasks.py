"""Tasks on clips: answers state the true events, and every question has one answer."""

import re
from collections import Counter
from dataclasses import replace

import pytest

from penguin_models.grounding import parse
from penguin_tabletop.clips.events import Event
from penguin_tabletop.clips.timeline import TabletopClip
from penguin_tabletop.conversations import answer_parsing
from penguin_tabletop.conversations.clip_tasks import CLIP_TASKS, ClipTruth, net_changes
from penguin_tabletop.seeds import Split, seeded_random
from penguin_tabletop.truth import planned_truth

ROUNDS = 40


@pytest.fixture(scope="module")
def asked(make):
    """(clip truth, turn) of every task on some clips."""
    found = []
    for n in range(ROUNDS):
        clip = TabletopClip(Split.TRAIN.seed(n), make.size)
        truth = ClipTruth(
            clip.events, planned_truth(clip.scene(0), make.size), planned_truth(clip.scene(clip.seconds), make.size)
        )
        turns = [task(truth, seeded_random(n, task.__name__)) for task in CLIP_TASKS]
        found += [(truth, turn) for turn in turns if turn is not None]
    return found


def test_events_are_parsed_back(asked):
    tasks = Counter(turn.task for _, turn in asked)
    assert len(tasks) == len(CLIP_TASKS) and min(tasks.values()) >= 5
    for _, turn in asked:
        if turn.expected.kind == "events":
            parsed = [(event.kind, event.label) for event in answer_parsing.events_in(turn.answer)]
            assert parsed == [(event.kind, event.label) for event in turn.expected.events], turn
        if turn.expected.timed:
            assert [event.span for event in answer_parsing.events_in(turn.answer)] == [
                e.span for e in turn.expected.events
            ]


def test_when_and_what_refer_to_one_event(asked):
    for truth, turn in asked:
        if turn.task == "when":
            assert parse(turn.answer).time_ranges == (turn.expected.span,)
            assert [event.span for event in truth.events].count(turn.expected.span) == 1
        if turn.task == "what_during":
            (event,) = turn.expected.events
            assert f"{event.start_s:.2f} - {event.end_s:.2f}" in turn.question
        if turn.task == "what_first":
            assert turn.expected.events[0] == truth.events[0 if "first" in turn.question else -1]


def test_numbers_and_places_are_true(asked):
    for truth, turn in asked:
        if turn.task == "count_at_end":
            assert turn.expected.number == answer_parsing.number_in(turn.answer) == len(truth.last.objects)
        if turn.task == "where_at_end":
            assert turn.expected.objects[0] in [item.grounded for item in truth.last.objects]
        if turn.task == "clip_count":
            verb = re.search(r"How many objects (?:are )?(\w+?)s?\?", turn.question)[1]
            kinds = {"appear": "appears", "moved": "moved", "fall": "falls", "leave": "leaves"}
            assert turn.expected.number == len({e.thing for e in truth.events if e.kind == kinds[verb]})


def view(make, *things):
    return planned_truth(make.scene(*things), make.size)


def test_net_changes_have_one_event_for_each_object(make):
    cube, ball = make.thing(0), make.thing(1, "ball", "blue", position=(0.15, 0, 0))
    elsewhere = make.thing(0, position=(-0.15, -0.1, 0))
    moved = Event("moved", 1.0, 2.0, 0, "red cube", "to the left")
    again = Event("moved", 3.0, 4.0, 0, "red cube", "to the front")
    appears, leaves = (
        Event("appears", 1.0, 2.0, 1, "blue ball", "on the red cube"),
        Event("leaves", 5.0, 6.0, 1, "blue ball"),
    )
    falls_off = Event("falls", 1.0, 2.0, 1, "blue ball", "off the table")
    both, one, changed = view(make, cube, ball), view(make, cube), view(make, elsewhere)

    def kinds(events, first, last):
        return [(event.kind, event.label, event.where) for event in net_changes(ClipTruth(events, first, last))]

    assert kinds((), one, one) == []
    assert kinds((moved,), one, changed) == [("moved", "red cube", "to the left")]
    assert kinds((moved, again), one, changed) == [("moved", "red cube", "")]
    assert kinds((moved, again), one, one) == []  # and back again
    assert kinds((appears,), one, both) == [("appears", "blue ball", "")]
    assert kinds((appears, leaves), one, one) == []
    assert kinds((falls_off,), both, one) == [("leaves", "blue ball", "")]
    over = replace(moved, kind="falls", where="over")
    assert kinds((moved, over), one, changed) == [("falls", "red cube", "")]
    assert kinds((Event("camera", 1.0, 2.0, None, "camera"),), one, one) == [("camera", "camera", "")]
