"""Parsing answers that are wrong or clumsy, as a model gives them."""

import pytest

from penguin_models.grounding import TimeRange
from penguin_tabletop.conversations import answer_parsing


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A red cube and two blue balls.", {"red cube": 1, "blue ball": 2}),
        ("The red cube is left of the red cube.", {"red cube": 1}),
        ("There are no cubes, but a robot arm.", {"robot arm": 1}),
        ("[red cube](1,2,3,4), [red cube](5,6,7,8)", {"red cube": 2}),
        ("a small red odd shape and a red odd shape", {"small red odd shape": 1, "red odd shape": 1}),
        ("Three teddies", {}),  # no colour: no label
        ("A redcube, a cube of red", {}),
        ("", {}),
    ],
)
def test_labels(text, expected):
    assert answer_parsing.labels_in(text) == expected


def test_events():
    text = "During the period 1.20 - 3.40 seconds, the red cube falls over. A blue duck appears and the camera moves."
    assert answer_parsing.events_in(text) == [
        ("falls", "red cube", TimeRange(1.2, 3.4)),
        ("appears", "blue duck", None),
        ("camera", "camera", None),
    ]
    assert answer_parsing.events_in("During the period 5.00 - 3.40 seconds, the red cube falls.") == []
    assert answer_parsing.events_in("Nothing happens. The red cube is red.") == []
    assert [
        event.kind for event in answer_parsing.events_in("The red cube has been moved and a red ball is gone.")
    ] == ["moved", "leaves"]


@pytest.mark.parametrize(
    ("text", "number"), [("3", 3), ("There are two cubes.", 2), ("There are no cubes.", 0), ("many", None)]
)
def test_numbers(text, number):
    assert answer_parsing.number_in(text) == number


@pytest.mark.parametrize(
    ("text", "options", "choice"),
    [
        ("Yes, there is no doubt.", ("yes", "no"), "yes"),
        ("It is in front of the cube.", ("left of", "in front of", "on"), "in front of"),
        ("The odd shape is red.", ("red", "blue"), "red"),
        ("reddish", ("red", "blue"), None),
    ],
)
def test_choices(text, options, choice):
    assert answer_parsing.choice_in(text, options) == choice


@pytest.mark.parametrize(("text", "word"), [('It says "TEA".', "TEA"), ("TEA", "TEA"), ("", None), ('""', "")])
def test_print(text, word):
    assert answer_parsing.quoted_word_in(text) == word
