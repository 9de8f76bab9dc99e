"""Text metrics on hand-worked cases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguin_ros.evaluation.metrics.text import (
    anls,
    contains,
    denies,
    exact,
    find_choice,
    find_number,
    normalise,
    normalised,
)

COLOURS = ["red", "green", "dark green", "blue"]


def test_exact_ignores_only_surrounding_white_space():
    assert exact(" red\n", ["blue", "red"]) == 1
    assert exact("Red", ["red"]) == exact("a red", ["red"]) == 0


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Red  mug.", "red mug"),
        ("a light-blue box / an oven", "light blue box oven"),
        ("Two cubes!", "2 cubes"),
        ("It's 3.5 m, or -4", "its 3.5 m or -4"),
        ("1,200.", "1200"),
        ("3-4", "3 4"),
        ("Émile’s café", "émiles café"),
        ("", ""),
    ],
)
def test_normalise(text, normal):
    assert normalise(text) == normal


@given(st.text())
def test_normalise_is_idempotent(text):
    assert normalise(normalise(text)) == normalise(text)


def test_normalised_accepts_any_of_several():
    assert normalised("The crimson one.", ["red one", "crimson one"]) == 1
    assert normalised("red", ["red one"]) == 0
    assert normalised("3.5", ["35"]) == 0


@pytest.mark.parametrize(
    ("answer", "accepted", "score"),
    [
        ("Hello World", ["hello world"], 1),
        ("helo", ["hello"], 1 - 1 / 5),  # one edit, five letters
        ("kitten", ["sitting"], 1 - 3 / 7),
        ("ab", ["ad"], 0),  # a similarity of exactly one half does not count
        ("abc", ["xyz"], 0),
        ("", ["hello"], 0),
        ("helo", ["nothing", "help"], 1 - 1 / 4),  # the closest accepted text counts
        ("two  words", ["Two Words"], 1),
    ],
)
def test_anls(answer, accepted, score):
    assert anls(answer, accepted) == pytest.approx(score)


def test_contains():
    assert contains("The sign says STOP\nnow", ["go", "stop now"]) == 1
    assert contains("st op", ["stop"]) == 0


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("3", 3),
        ("There are three cubes and 2 balls.", 3),
        ("Twelve", 12),
        ("about -1.5 metres", -1.5),
        ("12,500 parts", 12_500),
        ("No, there are 4.", 4),
        ("There is none.", 0),
        ("no cubes", 0),
        ("twenty-one", 21),
        ("Thirty cubes", 30),
        ("forty two of them", 42),
        ("one hundred and five", 105),
        ("a hundred", 100),
        ("two hundred twelve", 212),
        ("one, two, three", 1),
        ("1.5e3", 1500),
        ("2E-1 m", 0.2),
        ("5 each", 5),
        ("the seventieth", None),
        ("many", None),
        ("someone", None),
        ("B2", None),
        ("", None),
    ],
)
def test_find_number(answer, number):
    assert find_number(answer) == number


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        ("(C) dark green", "C"),
        ("D: blue", "D"),
        ("The answer is B", "B"),
        ("The correct option is (d).", "D"),
        ("I think it is (A), surely (A)", "A"),
        ("green", "B"),
        ("It is blue.", "D"),
        ("Dark green", "C"),  # equals an option, although it contains "green"
        ("it is dark green", None),  # contains two options
        ("A cube of no colour", None),  # an article, not a letter
        ("red or blue", None),
        ("(A) or (B)", None),
        ("Clearly C here", "C"),
        ("Clearly C", "C"),
        ("b", "B"),
        ("b.", "B"),
        ("(b)", "B"),
        ("b) it is", "B"),
        ("**B**", "B"),
        ("B, as I said", "B"),
        ("B because it is round", "B"),
        ("The answer is B because it is round", "B"),
        ("The answer is A because it is round", "A"),
        ("A is right", "A"),
        ("I choose (b), surely", "B"),
        ("D: A and B", "D"),  # the text of option D
        ("B. A cube", "B"),
        ("B or C", None),
        ("A, B or C", None),
        ("A, or B", None),
        ("A/B", None),
        ("(a) and (c)", None),
        ("The answer is A or B", None),
        ("Neither A nor B", None),
        ("Either B, or C.", None),
        ("a box", None),
        ("e.g. this", None),
        ("A C-shaped thing", None),
        ("E", None),  # there is no fifth option
        ("", None),
    ],
)
def test_find_choice(answer, letter):
    assert find_choice(answer, COLOURS) == letter


def test_the_pronoun_i_is_not_an_option_letter():
    options = list("abcdefghijk")
    assert find_choice("I think it is J here", options) == "J"
    assert find_choice("I'm not sure", options) is None


@pytest.mark.parametrize(
    "answer",
    [
        "No.",
        "no, I see only cubes",
        "There is no red mug on the table.",
        "There's no mug",
        "There isn't any mug",
        "There isn’t any mug",
        "It is not there.",
        "It is not there, but there is a cup.",
        "It isn't on the table",
        "It is not in the box.",
        "The mug is missing",
        "The mug is gone.",
        "It is no longer there",
        "The mug is not in the picture",
        "I do not see a mug",
        "I see no mug.",
        "I see that there is no mug.",
        "I can't find it",
        "None of them",
        "no such thing",
    ],
)
def test_answers_that_deny(answer):
    assert denies(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "Yes.",
        "Yes, there is a mug, but there is no spoon.",
        "There is a mug, but there is no spoon.",
        "I see a mug. I can't see its handle.",
        "I can't see its handle.",
        "The mug is on the table. The spoon is missing.",
        "The mug is missing its handle.",
        "The mug is on the table.",
        "There is a mug and nothing else.",
        "Nothing but a mug",
        "It isn't on the table but on the chair.",
        "It isn't on the table, it's on the chair.",
        "Notably red",
        "It is not red but blue",
        "",
    ],
)
def test_answers_that_do_not_deny(answer):
    assert not denies(answer)
