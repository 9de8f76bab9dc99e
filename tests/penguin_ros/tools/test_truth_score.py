"""Captions and answers are scored against the truth of their own frame, not of the newest frame."""

import pytest

from penguin_models.grounding import Box, GroundedObject
from penguin_ros.tools.truth_score import TruthScore

CUBE = GroundedObject("red cube", Box(100, 100, 300, 300))
BALL = GroundedObject("blue ball", Box(500, 500, 700, 700))


@pytest.fixture
def score():
    """Returns a score that knows of a cube in frame 1, and only of a ball in frame 2."""
    return TruthScore({1: [CUBE], 2: [BALL]})


def test_captions_are_compared_with_their_own_frame(score):
    assert score.caption(1, [CUBE]).right and not score.caption(2, [CUBE]).right
    assert score.caption(3, [CUBE]) is None  # no truth is known for that frame
    assert score.summary()["labelled_box_share"].value == 0.5


def test_questions_are_about_one_frame_and_answers_are_scored_by_their_own_frame(score):
    how_many, where, is_there = score.questions(2)
    assert "blue ball" in where and "blue ball" in is_there
    assert score.answer(how_many, 2, "There is one object.", []).right
    assert score.answer(where, 2, "A blue ball.", [BALL]).right
    assert score.answer(is_there, 2, "yes", []).right
    assert score.answer(is_there, 1, "no", []).right  # the ball was not yet there
    assert not score.answer(where, 1, "A blue ball.", [BALL]).right
    assert score.answer(how_many, 9, "1", []) is None
    assert score.summary()["accuracy"].answers == 3


def test_without_a_truth_only_a_number_is_asked_for(score):
    assert score.questions(9) == ["How many objects are there? Answer with one word."]
