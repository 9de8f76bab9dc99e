"""Rewards of the table-top: right, half right and wrong answers to every kind of question."""

from __future__ import annotations

import pytest

from penguin_models.grounding import Box, GroundedObject, TimeRange
from penguin_tabletop.clips.events import Event
from penguin_tabletop.conversations.turns import ExpectedReply
from penguin_training.data.questions import Question
from penguin_training.post_training.tabletop_rewards import boxes, counts, length, names, times, well_formed

MUG, CUBE = GroundedObject("red mug", Box(0, 0, 100, 100)), GroundedObject("blue cube", Box(500, 500, 700, 700))
FALLS = Event("falls", 2.0, 4.0, 1, "red mug")
BOXES = ExpectedReply("boxes", objects=(MUG, CUBE))
NO_BOXES = ExpectedReply("boxes")
CAPTION = ExpectedReply("caption", objects=(MUG, CUBE))
NUMBER = ExpectedReply("number", number=3)
CHOICE = ExpectedReply("choice", answer="left", options=("left", "right"))
LABEL = ExpectedReply("label", answer="red mug")
TEXT = ExpectedReply("text", answer="MILK")
WORDS = ExpectedReply("words", answer="mug: red, cube: blue")
SPAN = ExpectedReply("span", span=TimeRange(2.0, 4.0))
EVENTS = ExpectedReply("events", events=(FALLS,), timed=True)
UNTIMED = ExpectedReply("events", events=(FALLS,))
BOTH = "[red mug](0,0,100,100), [blue cube](500,500,700,700)"


def asked(expected, reference="It is here."):
    fields = {"expected": [{"kind": "other"}, expected if isinstance(expected, dict) else expected.to_dict()]}
    return Question("scene", 1, "?", reference, fields)


@pytest.mark.parametrize(
    ("reward", "expected", "answer", "value"),
    [
        (boxes, BOXES, BOTH, 1),
        (boxes, BOXES, "[red mug](0,0,100,100)", 0.5),
        (boxes, BOXES, "[red mug](0,0,100,50), [blue cube](500,500,700,600)", 0.5),
        (boxes, BOXES, "[red mug](0,0,100,100), [red mug](0,0,100,100), [blue cube](500,500,700,700)", 2 / 3),
        (boxes, BOXES, "[red mug](800,0,900,100)", 0),
        (boxes, BOXES, "I see nothing.", 0),
        (boxes, NO_BOXES, "There is none.", 1),
        (boxes, NO_BOXES, "[red mug](0,0,100,100)", 0),
        (names, BOXES, BOTH, 1),
        (names, BOXES, "[red mug](0,0,9,9)", 2 / 3),
        (names, BOXES, "[red cube](0,0,9,9), [blue mug](0,0,9,9)", 0),
        (names, CAPTION, "A red mug and a blue cube.", 1),
        (names, CAPTION, "Two red mugs.", 0.5),
        (names, CAPTION, "A green ball.", 0),
        (names, CHOICE, "To the left.", 1),
        (names, CHOICE, "To the right.", 0),
        (names, LABEL, "The red mug.", 1),
        (names, LABEL, "The blue cube.", 0),
        (names, TEXT, 'It says "milk".', 1),
        (names, TEXT, 'It says "mild".', 0),
        (names, WORDS, "mug: red, cube: blue", 1),
        (names, WORDS, "mug: red, cup: green", 0.5),
        (names, WORDS, "", 0),
        (names, EVENTS, "During the period 0.00 - 1.00 seconds, the red mug falls.", 1),
        (names, UNTIMED, "The red mug falls. The blue cube falls.", 2 / 3),
        (names, UNTIMED, "Nothing happens.", 0),
        (counts, NUMBER, "There are three.", 1),
        (counts, NUMBER, "4", 0),
        (counts, NUMBER, "Many.", 0),
        (times, SPAN, "During the period 2.00 - 4.00 seconds.", 1),
        (times, SPAN, "During the period 2.00 - 3.00 seconds.", 0.5),
        (times, SPAN, "During the period 6.00 - 7.00 seconds.", 0),
        (times, SPAN, "Soon.", 0),
        (times, EVENTS, "During the period 2.00 - 4.00 seconds, the red mug falls.", 1),
        (times, EVENTS, "During the period 3.00 - 4.00 seconds, the red mug falls.", 0.5),
        (times, EVENTS, "During the period 2.00 - 4.00 seconds, the blue cube falls.", 0),
        (times, EVENTS, "The red mug falls.", 0),
        (well_formed, BOXES, BOTH, 1),
        (well_formed, BOXES, "A red mug.", 0),
        (well_formed, BOXES, "[red mug](0,0,100", 0),
        (well_formed, NO_BOXES, "There is none.", 1),
        (well_formed, CAPTION, "A red mug.", 1),
        (well_formed, CAPTION, "[red mug](0,0,100,100)", 0),
        (well_formed, NUMBER, "", 0),
        (well_formed, SPAN, "During the period 2.00 - 4.00 seconds.", 1),
        (well_formed, SPAN, "At 2 s.", 0),
        (well_formed, EVENTS, "During the period 2.00 - 4.00 seconds, the red mug falls.", 1),
        (well_formed, UNTIMED, "During the period 2.00 - 4.00 seconds, the red mug falls.", 0),
        (length, NUMBER, "It is here.", 1),
        (length, NUMBER, "so " * 7, (3 - 7 / 3) / 1.5),
        (length, NUMBER, "so " * 9, 0),
    ],
)
def test_right_half_right_and_wrong_answers(reward, expected, answer, value):
    assert reward(asked(expected), answer) == pytest.approx(value)


@pytest.mark.parametrize("reward", [boxes, names, counts, times, well_formed])
def test_other_questions_are_left_to_other_rewards(reward):
    other = {boxes: CAPTION, names: NUMBER, counts: BOXES, times: UNTIMED, well_formed: None}[reward]
    if other is not None:
        assert reward(asked(other), "three") is None
    assert reward(Question("own", 0, "?", "yes", {}), "yes") is None
    assert reward(Question("own", 3, "?", "yes", {"expected": [{"kind": "number"}]}), "yes") is None


def test_annotated_answers_of_the_table_top_earn_everything():
    pytest.importorskip("pybullet")
    from penguin_tabletop.dataset import Mixture, TabletopDataset, TabletopSettings

    dataset = TabletopDataset(TabletopSettings(turns=12, mixture=Mixture(image=2, pair=1, clip=1, chart=0, text=0)))
    kinds = set()
    for number in range(6):
        fields = (sample := dataset[number]).annotation()
        for turn, found in enumerate(sample.turns):
            question = Question(sample.id, turn, found.question, found.answer, fields)
            values = {reward.__name__: reward(question, found.answer) for reward in (boxes, names, counts, times)}
            values |= {"form": well_formed(question, found.answer), "length": length(question, found.answer)}
            box_share = values.pop("boxes")  # annotated boxes are in tens
            assert box_share is None or 0.7 < box_share <= 1, found
            assert {value for value in values.values() if value is not None} == {1.0}, (found, values)
            assert box_share is not None or any(values[kind] is not None for kind in ("names", "counts", "times"))
            kinds.add(found.expected.kind)
    assert {"caption", "boxes", "choice", "number", "events"} <= kinds
