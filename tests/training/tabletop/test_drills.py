"""Drills: the answer is what stands in the prompt, or what the picture shows at each place."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penguin_training.tabletop.dataset import Mixture, TabletopDataset, TabletopSettings
from penguin_training.tabletop.drills import picture_in_words, read_patches, repeat

NAMES = ("nothing", "red cube", "any duck")


@given(st.integers(0, 1000), st.lists(st.sampled_from(["A cube.", "It is red.", "Two balls."]), min_size=1, max_size=9))
def test_what_is_to_be_repeated_stands_in_the_question(seed, sentences):
    turn = repeat(" ".join(sentences), np.random.default_rng(seed))
    assert turn.answer and turn.question.endswith(turn.answer) and turn.answer == turn.expected.answer


def test_every_patch_has_its_word():
    classes = np.zeros((42, 28), np.uint8)
    classes[:14, :14] = 1
    classes[14:28, 14:20] = 2  # under half of a patch
    classes[28:32, :] = 1  # too little of one
    seen = {turn.answer for turn in (read_patches(classes, NAMES, np.random.default_rng(seed)) for seed in range(20))}
    assert seen == {"It shows cube table table duck table table", "It shows red table table duck table table"}


@given(st.integers(0, 2000), st.integers(1, 8))
def test_a_picture_in_words_is_answered_by_its_words(seed, most):
    turns = picture_in_words(np.random.default_rng(seed), most)
    picture, question = turns[0].question.split("\n")
    words = picture.split()
    side = math.isqrt(len(words))
    assert side**2 == len(words) and question and picture.startswith(" ")
    cells = np.array(words).reshape(side, side)
    for turn in turns:
        if turn.task == "read":
            assert turn.answer == f"It shows {' '.join(words)}"
        for item in turn.expected.objects:
            rows, columns = np.nonzero(cells == item.label.split()[-1])
            edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            assert (item.box.x1, item.box.y1, item.box.x2, item.box.y2) == tuple(round(1000 * e / side) for e in edges)


def test_without_drills_samples_are_as_they_were():
    def samples(drills):
        return TabletopDataset(TabletopSettings(mixture=Mixture(0, 0, 0, 0, 1), drills=drills))

    plain, drilled = samples(0.0), samples(0.5)
    repeated = 0
    for number in range(40):
        turns = drilled[number].turns
        if turns[0].task in ("repeat", "read") or turns[0].task.startswith("words_"):
            repeated += 1
        else:
            assert turns == plain[number].turns
    assert 10 < repeated < 30
