"""Drills: the answer is what stands in the prompt, or what the picture shows at each place."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penguin_training.tabletop.dataset import Mixture, TabletopDataset, TabletopSettings
from penguin_training.tabletop.drills import read_cells, repeat

NAMES = ("nothing", "red cube", "any duck")


@given(st.integers(0, 1000), st.lists(st.sampled_from(["A cube.", "It is red.", "Two balls."]), min_size=1, max_size=9))
def test_what_is_to_be_repeated_stands_in_the_question(seed, sentences):
    turn = repeat(" ".join(sentences), np.random.default_rng(seed))
    assert turn.answer and turn.question.endswith(turn.answer) and turn.answer == turn.expected.answer


def test_cells_show_what_covers_them():
    classes = np.zeros((120, 120), np.uint8)
    classes[:60, :60] = 1  # a quarter of the picture
    classes[115:, 115:] = 2  # too small to be seen in any cell
    classes[60:, :30] = 2
    seen = {turn.answer for turn in (read_cells(classes, NAMES, np.random.default_rng(seed)) for seed in range(20))}
    assert "red cube, table\nduck, table" in seen
    assert len(seen) == 3
    four = next(answer for answer in seen if answer.count("\n") == 3)
    assert [row.split(", ")[0] for row in four.split("\n")] == ["red cube", "red cube", "duck", "duck"]
    assert four.endswith("table")


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
