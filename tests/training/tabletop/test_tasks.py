"""Conversations: what is asked can be answered from the picture, in one way, and the answer can be read back."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from penguin_models.grounding import GroundedObject, parse
from penguin_tabletop import picture_questions, pointing, reading
from penguin_tabletop.catalogue import KINDS
from penguin_tabletop.image_tasks import IMAGE_TASKS, turns_about
from penguin_tabletop.language import kind_of
from penguin_tabletop.planning import plan_scene
from penguin_tabletop.seeds import Split, random_of
from penguin_tabletop.text_tasks import text_turns
from penguin_tabletop.truth import in_tens, planned_truth

ROUNDS = 200


def scenes(make, count=ROUNDS):
    for n in range(count):
        seed = Split.TRAIN.seed(n)
        yield random_of(seed, "tasks"), planned_truth(plan_scene(random_of(seed, "image"), make.size), make.size)


@pytest.fixture(scope="module")
def asked(make):
    """(truth, turn) of every task on every scene that it fits."""
    return [
        (truth, turn)
        for random, truth in scenes(make)
        for task in IMAGE_TASKS
        if (turn := task(truth, random)) is not None
    ]


def readable(turn):
    """Whether a program finds the expected result in the answer."""
    expected, answer = turn.expected, turn.answer
    if expected.kind == "caption":
        return reading.labels_in(answer) == Counter(item.label for item in expected.objects)
    if expected.kind == "boxes":
        told = Counter(GroundedObject(item.label, in_tens(item.box)) for item in expected.objects)
        return Counter(parse(answer).objects) == told and parse(answer).malformed == 0
    if expected.kind == "label":
        return next(iter(reading.labels_in(answer)), None) == expected.answer
    if expected.kind == "choice":
        return expected.answer in expected.options and reading.choice_in(answer, expected.options) == expected.answer
    if expected.kind == "number":
        return reading.number_in(answer) == expected.number
    if expected.kind == "text":
        return reading.print_in(answer) == expected.answer
    if expected.kind == "words":
        return answer == expected.answer
    if expected.kind == "span":
        return parse(answer).time_ranges == (expected.span,)
    told = reading.events_in(answer)
    spans = [event.span if expected.timed else None for event in expected.events]
    return [(event.kind, event.label, event.span) for event in told] == [
        (event.kind, event.label, span) for event, span in zip(expected.events, spans, strict=True)
    ]


def test_every_task_comes_up_and_every_answer_can_be_read_back(asked):
    assert not [turn for _, turn in asked if not readable(turn)]
    tasks = Counter(turn.task for _, turn in asked)
    assert len(tasks) == len(IMAGE_TASKS) and min(tasks.values()) >= 5


def test_there_are_many_phrasings(asked):
    for task in {turn.task for _, turn in asked}:
        forms = {re.sub(r"[(\d,]+\)|\"\w+\"", "_", turn.question)[:14] for _, turn in asked if turn.task == task}
        assert len(forms) >= 3, task


def test_yes_and_no_are_balanced(make):
    answers = Counter()
    for random, truth in scenes(make):
        for task in (picture_questions.exists, picture_questions.relation_holds):
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


def test_what_is_pointed_at_is_one_object(asked):
    for truth, turn in asked:
        counts = truth.counts()
        if turn.task == "find_by_name":
            (item,) = turn.expected.objects
            kind = kind_of(item.label)
            alone = sum(other.kind == kind for other in truth.objects) == 1
            assert counts[item.label] == 1 and (item.label if not alone else kind) in turn.question
        if turn.task in ("find_by_place", "find_by_print"):
            assert len(turn.expected.objects) == 1
        if "leftmost" in turn.question:
            (item,) = turn.expected.objects
            others = [o.box.x1 + o.box.x2 for o in truth.objects if o.box != item.box]
            assert item.box.x1 + item.box.x2 + 140 < min(others)
        if turn.task == "colour":
            kinds = [item.kind for item in truth.objects]
            (kind,) = [
                kind for kind in set(kinds) if f"the {kind}" in turn.question.lower() and kinds.count(kind) == 1
            ][:1]
            assert [item.colour for item in truth.objects if item.kind == kind] == [turn.expected.answer]


def test_short_answers_are_short(asked):
    brief = [turn for _, turn in asked if turn.question.endswith(picture_questions.BRIEFLY)]
    assert len(brief) > 100 and all(len(turn.answer.split()) <= 3 for turn in brief)
    assert all(turn.answer.endswith((".", '"')) for _, turn in asked if turn.task == "colour" and turn not in brief)


def test_the_orange_arm_is_never_an_orange_object(make):
    arm = replace(make.thing(0, "robot arm", "orange"), label="robot arm", colour=None)
    ball = make.thing(1, "ball", "orange", position=(0.2, -0.1, 0))
    flat = make.scene(arm, ball, camera=make.camera(distance=0.9))
    truth = planned_truth(flat, make.size)
    assert len(truth.objects) == 2
    for seed in range(60):
        random = np.random.default_rng(seed)
        turns = [picture_questions.kind_of_colour(truth, random), picture_questions.count_objects(truth, random)]
        turns.append(pointing.find_all(truth, random))
        assert not [turn for turn in turns if turn and "orange object" in turn.question]


def test_lists_say_kinds_before_colours_and_boxes_before_names(make):
    duck = make.thing(0, "duck", "red", position=(-0.15, 0, 0))
    cube = make.thing(1, "cube", "blue", position=(0.15, 0, 0))
    truth = planned_truth(make.scene(duck, cube), make.size)
    random = np.random.default_rng(0)
    assert picture_questions.list_colours(truth, random).answer in ("duck: red, cube: blue", "cube: blue, duck: red")
    boxes = pointing.list_boxes(truth, random).answer
    assert re.sub(r"\(\d+,\d+,\d+,\d+\)", "B", boxes) == ", ".join(f"B: {item.label}" for item in truth.objects)


def test_turns_about_a_picture_differ(make):
    several = 0
    for random, truth in scenes(make, 40):
        turns = turns_about(truth, random, 5)
        assert 1 <= len(turns) <= 5 and len({turn.question for turn in turns}) == len(turns)
        several += len({turn.task for turn in turns}) < len(turns)
    assert several  # a task may come again


def test_texts_can_be_read_back_and_need_few_words(make, asked):
    conversations = [text_turns(random_of(n, "text"), 4) for n in range(200)]
    assert {len(turns) for turns in conversations} == {1, 2, 3, 4}
    turns = [turn for turns in conversations for turn in turns]
    assert not [turn for turn in turns if not readable(turn)]
    assert len({turn.task for turn in turns}) > 20
    texts = [f"{turn.question} {turn.answer}" for turn in [*turns, *(turn for _, turn in asked)]]
    words = {word for text in texts for word in re.findall(r"[a-z]+", text.lower())}
    assert len(words) < 500


def test_every_kind_has_a_fact():
    from penguin_tabletop.text_tasks import FACTS

    assert set(FACTS) == set(KINDS)
