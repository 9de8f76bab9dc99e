"""Conditions to judge: every answer is checked against the simulated truth by a reader of its own."""

import re
from collections import Counter

import numpy as np
import pytest

from penguin_models.watch import watch_question
from penguin_tabletop.conversations.condition_tasks import condition_turns
from penguin_tabletop.conversations.language import NUMBERS
from penguin_tabletop.conversations.phrases import CONDITIONS
from penguin_tabletop.dataset import Mixture, TabletopDataset, TabletopSettings
from penguin_tabletop.scene.catalogue import KINDS
from penguin_tabletop.scene.planning import plan_scene
from penguin_tabletop.seeds import Split, seeded_random
from penguin_tabletop.truth import planned_truth

SINGULAR = {kind.plural: kind.name for kind in KINDS.values()} | {"objects": "object"}
GONE = ["large pink teddy", "robot arm", "black brick"]


def holds(statement, truth):
    """Returns whether a statement holds, by reading its words."""
    text = statement.lower().rstrip(".")
    names = {name for item in truth.objects for name in (item.label, item.kind, f"{item.colour} {item.kind}")}
    if "nothing" in text or text in ("the table is empty", "no object is on the table"):
        return not truth.objects
    if "something" in text or "an object" in text or "not empty" in text:
        return bool(truth.objects)
    for relation in truth.relations:
        if text == f"the {label(truth, relation.subject)} is {relation.name} the {label(truth, relation.object)}":
            return True
    if re.search(r" (left|right) of the (?!picture)| in front of | behind |^the .* is on the (?!left|right)", text):
        return False
    if found := re.search(r"^the (.*) is (on the left|in the middle|on the right)", text):
        return any(item.label == found[1] and where(item) == found[2] for item in truth.objects)
    if found := re.search(rf"\b({'|'.join(NUMBERS[1:])}) ([a-z ]*?)(?: is| are| can|$| on)", text):
        return NUMBERS.index(found[1]) == count(found[2], truth)
    if found := re.search(r"\bno ([a-z ]*?)(?: is| are| can|$| on)", text):
        return count(found[1], truth) == 0
    if found := re.search(r"^the (.*) is (?:gone|missing)$", text):
        return found[1] not in names
    if found := re.search(r"^the (.*?)(?: on the table)? is (\w+)$", text):
        return any((item.kind, item.colour) == found.groups() for item in truth.objects)
    return re.search(r"\ban? ([a-z ]*?)(?: is| can|$| on)", text)[1] in names


def label(truth, number):
    return next(item.label for item in truth.objects if item.id == number)


def where(item):
    return "on the left" if item.middle_x < 340 else "on the right" if item.middle_x > 660 else "in the middle"


def count(what, truth):
    what = next((what.removesuffix(p) + s for p, s in SINGULAR.items() if what.endswith(p)), what)
    return sum(
        all(word in ("object", item.colour, *item.kind.split()) for word in what.split()) for item in truth.objects
    )


@pytest.fixture(scope="module")
def judged(make):
    """(statement, answer, truth) over scenes, a few of them empty."""
    judged = []
    for number in range(160):
        seed = Split.TRAIN.seed(number)
        scene = plan_scene(seeded_random(seed, "image"), make.size) if number % 15 else make.scene()
        truth = planned_truth(scene, make.size)
        for turn in condition_turns(truth, seeded_random(seed, "conditions"), 4, GONE):
            statement, _, instruction = turn.question.partition("\n")
            assert turn.question == watch_question(statement) and instruction.endswith("Answer yes or no.")
            assert turn.answer == turn.expected.answer
            judged.append((statement, turn.answer, truth))
    return judged


def test_answers_are_the_truth_and_cannot_be_guessed_from_the_words(judged):
    wrong = [(statement, answer) for statement, answer, truth in judged if holds(statement, truth) != (answer == "yes")]
    assert not wrong and len(judged) > 300
    answers = Counter(answer for _, answer, _ in judged)
    assert 0.45 < answers["yes"] / len(judged) < 0.55
    for words in (" there", " no ", "gone|missing", " is (left|right) of", "(one|two|three|four) ", "empty", "nothing"):
        answers = Counter(answer for statement, answer, _ in judged if re.search(words, f" {statement.lower()}"))
        assert 0.25 < answers["yes"] / answers.total() < 0.75, (words, answers)


def test_every_phrasing_occurs_and_objects_that_left_are_asked_about(judged):
    lines = [statement.lower().rstrip(".") for statement, _, _ in judged]
    for phrasing in (phrasing for phrasings in CONDITIONS.values() for phrasing in phrasings):
        pattern = re.compile(re.sub(r"\\{\w+\\}", "[a-z ]+", re.escape(phrasing.lower())))
        assert any(pattern.fullmatch(line) for line in lines), phrasing
    assert sum("pink teddy" in line for line in lines) > 10 and not any("large pink teddy" in line for line in lines)


def test_conditions_are_added_to_samples_and_change_nothing_else(make):
    plain, with_conditions = (
        TabletopDataset(TabletopSettings(size=make.size, mixture=Mixture(3, 1, 1, 0, 0), conditions=conditions))
        for conditions in (0, 3)
    )
    added, empty = Counter(), 0
    for number in range(10):
        before, after = plain[number], with_conditions[number]
        if not after.truths[-1].objects and after.family == "image":
            empty += 1
            continue
        conditions = [turn for turn in after.turns if turn.task == "condition"]
        assert after.turns == (*before.turns, *conditions) and len(conditions) <= 3
        assert np.array_equal(before.frames, after.frames)
        added[after.family] += len(conditions)
    assert added["image"] and added["clip"] and not added["pair"] and empty
