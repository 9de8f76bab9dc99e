"""Tasks on pictures and texts: every question has one answer, which can be parsed back."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguin_models.grounding import GroundedObject, parse
from penguin_tabletop.conversations import answer_parsing, captions_and_boxes, picture_tasks
from penguin_tabletop.conversations.language import kind_of
from penguin_tabletop.conversations.phrases import BRIEFLY, FACTS
from penguin_tabletop.conversations.picture_tasks import PICTURE_TASKS, picture_turns
from penguin_tabletop.conversations.text_tasks import repeat, text_turns
from penguin_tabletop.dataset import Mixture, TabletopDataset, TabletopSettings
from penguin_tabletop.scene.catalogue import KINDS
from penguin_tabletop.scene.planning import plan_scene
from penguin_tabletop.seeds import Split, seeded_random
from penguin_tabletop.truth import planned_truth, rounded_box


def scenes(make, count=200):
    for n in range(count):
        seed = Split.TRAIN.seed(n)
        yield (
            seeded_random(seed, "tasks"),
            planned_truth(plan_scene(seeded_random(seed, "image"), make.size), make.size),
        )


@pytest.fixture(scope="module")
def asked(make):
    """(truth, turn) of every task on every scene that it fits."""
    return [
        (truth, turn)
        for random, truth in scenes(make)
        for task in PICTURE_TASKS
        if (turn := task(truth, random)) is not None
    ]


def is_parsed_back(turn):
    """Returns whether a program finds the expected result in the answer."""
    expected, answer = turn.expected, turn.answer
    if expected.kind == "caption":
        return answer_parsing.labels_in(answer) == Counter(item.label for item in expected.objects)
    if expected.kind == "boxes":
        stated = Counter(GroundedObject(item.label, rounded_box(item.box)) for item in expected.objects)
        return Counter(parse(answer).objects) == stated and parse(answer).malformed == 0
    if expected.kind == "label":
        return next(iter(answer_parsing.labels_in(answer)), None) == expected.answer
    if expected.kind == "choice":
        chosen = answer_parsing.choice_in(answer, expected.options)
        return expected.answer in expected.options and chosen == expected.answer
    if expected.kind == "number":
        return answer_parsing.number_in(answer) == expected.number
    if expected.kind == "text":
        return answer_parsing.quoted_word_in(answer) == expected.answer
    if expected.kind == "words":
        return answer == expected.answer
    if expected.kind == "span":
        return parse(answer).time_ranges == (expected.span,)
    return [tuple(event) for event in answer_parsing.events_in(answer)] == [
        (event.kind, event.label, event.span if expected.timed else None) for event in expected.events
    ]


def test_every_task_occurs_and_every_answer_is_parsed_back(asked):
    assert not [turn for _, turn in asked if not is_parsed_back(turn)]
    tasks = Counter(turn.task for _, turn in asked)
    assert len(tasks) == len(PICTURE_TASKS) and min(tasks.values()) >= 5


def test_every_task_has_several_phrasings(asked):
    for task in {turn.task for _, turn in asked}:
        forms = {re.sub(r"[(\d,]+\)|\"\w+\"", "_", turn.question)[:14] for _, turn in asked if turn.task == task}
        assert len(forms) >= 3, task


def test_yes_and_no_are_balanced(make):
    answers = Counter()
    for random, truth in scenes(make):
        for task in (picture_tasks.exists, picture_tasks.relation_holds):
            turn = task(truth, random)
            answers.update([(task.__name__, turn.expected.answer)] if turn else [])
    for task in ("exists", "relation_holds"):
        yes, no = answers[task, "yes"], answers[task, "no"]
        assert 0.4 < yes / (yes + no) < 0.6


def test_existence_and_counts_are_true(asked):
    near_misses = 0
    for truth, turn in asked:
        names = [f"{item.colour} {item.kind}" if item.colour else item.kind for item in truth.objects]
        if turn.task == "existence":
            name = re.search(r"\b(?:an?) (.*?)(?: on the table| in the picture)?\?", turn.question)[1]
            assert (name in names) == (turn.expected.answer == "yes")
            colour, _, kind = name.partition(" ")
            words = " ".join(names)
            near_misses += name not in names and colour in words and kind in words
        elif turn.task == "count":
            what = re.search(r"(\w+ ?\w*?) (?:are|do)|the (?:number of )?(.*?)[.?]", turn.question.lower())
            what = (what[1] or what[2]).replace("how many ", "")
            kinds = {kind.plural: kind.name for kind in KINDS.values()}
            if what in kinds:
                assert turn.expected.number == sum(item.kind == kinds[what] for item in truth.objects)
            elif what == "objects":
                assert turn.expected.number == len(truth.objects)
    assert near_misses > 10


def test_descriptions_fit_exactly_one_object(asked):
    for truth, turn in asked:
        kinds = [item.kind for item in truth.objects]
        if turn.task == "find_by_name":
            (item,) = turn.expected.objects
            kind = kind_of(item.label)
            assert truth.counts()[item.label] == 1
            assert (kind if kinds.count(kind) == 1 else item.label) in turn.question
        if turn.task in ("find_by_place", "find_by_print"):
            assert len(turn.expected.objects) == 1
        if "leftmost" in turn.question:
            (item,) = turn.expected.objects
            others = [o.box.x1 + o.box.x2 for o in truth.objects if o.box != item.box]
            assert item.box.x1 + item.box.x2 + 140 < min(others)
        if turn.task == "colour":
            kind = next(kind for kind in kinds if f"the {kind}" in turn.question.lower() and kinds.count(kind) == 1)
            assert [item.colour for item in truth.objects if item.kind == kind] == [turn.expected.answer]


def test_brief_questions_get_brief_answers(asked):
    brief = [turn for _, turn in asked if turn.question.endswith(BRIEFLY)]
    assert len(brief) > 100 and all(len(turn.answer.split()) <= 3 for turn in brief)
    assert all(turn.answer.endswith((".", '"')) for _, turn in asked if turn.task == "colour" and turn not in brief)


def test_a_robot_arm_is_never_an_orange_object(make):
    arm = replace(make.thing(0, "robot arm", "orange"), label="robot arm", colour=None)
    ball = make.thing(1, "ball", "orange", position=(0.2, -0.1, 0))
    truth = planned_truth(make.scene(arm, ball, camera=make.camera(distance=0.9)), make.size)
    assert len(truth.objects) == 2
    for seed in range(60):
        random = np.random.default_rng(seed)
        turns = [picture_tasks.kind_of_colour(truth, random), picture_tasks.count_objects(truth, random)]
        turns.append(captions_and_boxes.find_all(truth, random))
        assert not [turn for turn in turns if turn and "orange object" in turn.question]


def test_lists_give_kinds_before_colours_and_boxes_before_labels(make):
    duck = make.thing(0, "duck", "red", position=(-0.15, 0, 0))
    cube = make.thing(1, "cube", "blue", position=(0.15, 0, 0))
    truth = planned_truth(make.scene(duck, cube), make.size)
    random = np.random.default_rng(0)
    assert picture_tasks.list_colours(truth, random).answer in ("duck: red, cube: blue", "cube: blue, duck: red")
    boxes = captions_and_boxes.list_boxes(truth, random).answer
    assert re.sub(r"\(\d+,\d+,\d+,\d+\)", "B", boxes) == ", ".join(f"B: {item.label}" for item in truth.objects)


def test_questions_about_a_picture_differ(make):
    several = 0
    for random, truth in scenes(make, 40):
        turns = picture_turns(truth, random, 5)
        assert 1 <= len(turns) <= 5 and len({turn.question for turn in turns}) == len(turns)
        several += len({turn.task for turn in turns}) < len(turns)
    assert several  # a task may come again


def test_answers_about_texts_are_parsed_back_and_the_vocabulary_is_small(asked):
    conversations = [text_turns(seeded_random(n, "text"), 4) for n in range(200)]
    assert {len(turns) for turns in conversations} == {1, 2, 3, 4}
    turns = [turn for turns in conversations for turn in turns]
    assert not [turn for turn in turns if not is_parsed_back(turn)]
    assert len({turn.task for turn in turns}) > 20
    texts = [f"{turn.question} {turn.answer}" for turn in [*turns, *(turn for _, turn in asked)]]
    words = {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}
    assert len(words) < 500


def test_every_kind_has_a_fact():
    assert set(FACTS) == set(KINDS)


@given(st.integers(0, 1000), st.lists(st.sampled_from(["A cube.", "It is red.", "Two balls."]), min_size=1, max_size=9))
def test_the_question_of_a_drill_contains_its_answer(seed, sentences):
    turn = repeat(" ".join(sentences), np.random.default_rng(seed))
    assert turn.answer and turn.question.endswith(turn.answer) and turn.answer == turn.expected.answer


def test_drills_replace_some_texts_and_leave_the_others_unchanged():
    plain, drilled = (
        TabletopDataset(TabletopSettings(mixture=Mixture(0, 0, 0, 0, 1), drills=drills)) for drills in (0.0, 0.5)
    )
    is_drill = [drilled[number].turns[0].task == "repeat" for number in range(40)]
    assert 10 < sum(is_drill) < 30
    assert all(drilled[n].turns == plain[n].turns for n in range(40) if not is_drill[n])
