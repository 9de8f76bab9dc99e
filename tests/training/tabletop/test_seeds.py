"""Splits that cannot overlap, and random numbers that depend on nothing but seed and purpose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguin_models.errors import TabletopError
from penguin_tabletop.seeds import Split, random_of

numbers = st.integers(0, (1 << 40) - 1)
bases = st.integers(0, 1 << 20)


@given(st.tuples(st.sampled_from(list(Split)), numbers, bases), st.tuples(st.sampled_from(list(Split)), numbers, bases))
def test_two_scenes_share_a_seed_only_if_they_are_the_same(first, second):
    seeds = [split.seed(n, base) for split, n, base in (first, second)]
    assert (seeds[0] == seeds[1]) == (first == second)
    assert [Split.of(seed) for seed in seeds] == [first[0], second[0]]


@pytest.mark.parametrize(("number", "base"), [(-1, 0), (1 << 40, 0), (0, -1)])
def test_numbers_out_of_range(number, base):
    with pytest.raises(TabletopError, match="must"):
        Split.TEST.seed(number, base)


@pytest.mark.parametrize("seed", [3, 7, -1])
def test_a_seed_of_no_split(seed):
    with pytest.raises(TabletopError, match=f"seed {seed} belongs to no split"):
        Split.of(seed)


def test_random_numbers_depend_on_seed_and_purpose():
    draws = {random_of(seed, purpose).random() for seed in (0, 1, 1 << 32, 1 << 50) for purpose in ("image", "clip")}
    assert len(draws) == 8
    assert random_of(5, "image").random() == random_of(5, "image").random()
