"""Splits that cannot overlap, and random numbers that depend only on seed and purpose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguin_models.errors import TabletopError
from penguin_tabletop.seeds import Split, seeded_random

scenes = st.tuples(st.sampled_from(list(Split)), st.integers(0, (1 << 40) - 1), st.integers(0, 1 << 20))


@given(scenes, scenes)
def test_only_the_same_scene_has_the_same_seed(first, second):
    seeds = [split.seed(number, base) for split, number, base in (first, second)]
    assert (seeds[0] == seeds[1]) == (first == second)
    assert [seed & 3 for seed in seeds] == [first[0], second[0]]


@pytest.mark.parametrize(("number", "base"), [(-1, 0), (1 << 40, 0), (0, -1)])
def test_numbers_out_of_range_are_refused(number, base):
    with pytest.raises(TabletopError, match="must"):
        Split.TEST.seed(number, base)


def test_random_numbers_depend_on_seed_and_purpose():
    draws = {
        seeded_random(seed, purpose).random() for seed in (0, 1, 1 << 32, 1 << 50) for purpose in ("image", "clip")
    }
    assert len(draws) == 8
    assert seeded_random(5, "image").random() == seeded_random(5, "image").random()
