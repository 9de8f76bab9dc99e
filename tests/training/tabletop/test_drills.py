"""Drills: the answer is what stands in the prompt, or what the picture shows at each place."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penguin_training.tabletop.dataset import Mixture, TabletopDataset, TabletopSettings
from penguin_training.tabletop.drills import read_patches, repeat

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


def test_without_drills_samples_are_as_they_were():
    def samples(drills):
        return TabletopDataset(TabletopSettings(mixture=Mixture(0, 0, 0, 0, 1), drills=drills))

    plain, drilled = samples(0.0), samples(0.5)
    repeated = 0
    for number in range(40):
        turns = drilled[number].turns
        if turns[0].task == "repeat":
            repeated += 1
        else:
            assert turns == plain[number].turns
    assert 10 < repeated < 30
