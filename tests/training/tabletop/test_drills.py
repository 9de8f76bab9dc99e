"""Drills: the answer is what stands in the prompt."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penguin_tabletop.dataset import Mixture, TabletopDataset, TabletopSettings
from penguin_tabletop.drills import repeat


@given(st.integers(0, 1000), st.lists(st.sampled_from(["A cube.", "It is red.", "Two balls."]), min_size=1, max_size=9))
def test_what_is_to_be_repeated_stands_in_the_question(seed, sentences):
    turn = repeat(" ".join(sentences), np.random.default_rng(seed))
    assert turn.answer and turn.question.endswith(turn.answer) and turn.answer == turn.expected.answer


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
