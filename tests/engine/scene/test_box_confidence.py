"""Scores of boxes, computed from the probabilities of their tokens."""

import numpy as np
import pytest

from penguin_engine.scene.box_confidence import box_scores
from penguin_engine.scene.generation import Sampler, Sampling
from penguin_models.grounding import parse


def scored(tokens):
    """Returns the box scores of an answer made of (text, probability) tokens."""
    text, ends = "", []
    for piece, _ in tokens:
        text += piece
        ends.append(len(text))
    return box_scores(text, parse(text).objects, ends, [p for _, p in tokens])


def test_only_the_tokens_of_the_numbers_count():
    tokens = [("A [", 0.1), ("cup", 0.2), ("](", 0.3), ("10", 0.9), (",", 1.0), ("20", 0.5), (",", 1.0), ("3", 0.8),
              ("0", 1.0), (",", 1.0), ("40", 0.7), (").", 0.1)]  # fmt: skip
    (score,) = scored(tokens)
    assert score == pytest.approx((0.9 * 0.5 * 0.8 * 0.7) ** (1 / 8))


def test_equal_boxes_are_distinguished_by_their_position():
    first, second = scored([("[a](1,2,3,4)", 0.25), (" and [b](1,2,3,4)", 1.0)])
    assert (first, second) == (0.25, 1.0)


def test_every_notation_of_a_box_is_scored():
    assert scored([('[{"bbox_2d": [1, 2, 3, 4], "label": "x"}]', 0.5)]) == (0.5,)
    assert scored([("the cup [1, 2, 3, 4]", 0.5)]) == (0.5,)
    assert scored([("1 [a](1.2,2,3,4)", 0.5)]) == (0.5,)  # a number precedes the box
    assert scored([("[a](", 0.1), ("0.12,0.34,", 0.25), (".5, 1.0)", 1.0)]) == (0.5,)
    assert scored([("[a](12%, 34.5%, 50%, 100 %)", 0.5)]) == (0.5,)
    assert scored([('{"bbox": [\n    1,\n    2,\n    3,\n    4\n  ]}', 0.5)]) == (0.5,)


def test_the_probability_does_not_depend_on_the_sampling():
    logits = np.log(np.array([0.1, 0.6, 0.3], np.float32)) + 5
    for sampling in (Sampling(), Sampling(temperature=3.0, seed=4)):
        token, probability = Sampler(sampling).choose(logits)
        assert probability == pytest.approx([0.1, 0.6, 0.3][token], rel=1e-5)
