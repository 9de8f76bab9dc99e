"""Captions and answers are scored against the truth of their own frame, not of the newest frame."""

import pytest

pytest.importorskip("pybullet", reason="needs the extra sim")

from penguin_models.grounding import Box, GroundedObject
from penguin_ros.tools.live_score import LiveScore

CUBE = GroundedObject("red cube", Box(100, 100, 300, 300))
BALL = GroundedObject("blue ball", Box(500, 500, 700, 700))


@pytest.fixture
def score():
    """Returns a score that saw a cube in frame 1, and only a ball in frame 2."""
    made = LiveScore()
    made.see(1, [CUBE])
    made.see(2, [BALL])
    return made


def test_captions_are_compared_with_their_own_frame(score):
    assert score.caption(1, [CUBE]).right and not score.caption(2, [CUBE]).right
    assert score.caption(3, [CUBE]) is None  # no truth is known for that frame
    assert score.summary()["labelled_box_share"].value == 0.5


def test_questions_follow_the_newest_truth_and_answers_are_scored_by_their_own_frame(score):
    how_many, where, is_there = score.questions()
    assert "blue ball" in where and "blue ball" in is_there
    assert score.answer(how_many, 2, "There is one object.", []).right
    assert score.answer(where, 2, "A blue ball.", [BALL]).right
    assert score.answer(is_there, 2, "yes", []).right
    assert score.answer(is_there, 1, "no", []).right  # the ball was not yet there
    assert not score.answer(where, 1, "A blue ball.", [BALL]).right
    assert score.answer(how_many, 9, "1", []) is None
    assert score.summary()["accuracy"].answers == 3


def test_only_the_newest_2000_truths_are_stored():
    made = LiveScore()
    for stamp in range(3000):
        made.see(stamp, [CUBE])
    assert len(made.truths) == 2000 and min(made.truths) == 1000
    assert LiveScore().questions() == ["How many objects are there? Answer with one word."]
