"""The reference rule equals the released one; the strict rule never exceeds its limits."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from penguin_models.errors import BudgetError, MediaError
from penguin_models.token_allocation import fit_area, grid_size, reference_sizes, split_budget, strict_sizes
from penguin_models.types import FrameKind, Size

KEY, INTERMEDIATE = FrameKind

sizes = st.builds(Size, st.integers(1, 2200), st.integers(1, 4000))
kinds = st.lists(st.sampled_from(FrameKind), min_size=0, max_size=179).map(lambda rest: [KEY, *rest])
merges = st.sampled_from([1, 2])
min_tokens = st.integers(1, 64)
budgets = st.integers(1, 16384)


def test_reference_sizes_equal_all_released_allocations(reference):
    cases = json.loads((reference / "tra_sizes.json").read_text())
    for case in cases:
        labels = [FrameKind(k) for k in case["frame_types"]]
        source_size = Size(case["height"], case["width"])
        ours = reference_sizes(source_size, labels, case["merge_size"], case["min_tokens"], case["max_tokens"])
        assert list(ours.key) == case["key_hw"]
        if case["intermediate_hw"] is not None:
            assert list(ours.intermediate) == case["intermediate_hw"]
        assert ours.total_tokens(labels) == case["total_tokens"]
    assert len(cases) == 200


@given(sizes, kinds, merges, min_tokens, budgets)
def test_strict_never_exceeds_budget_or_source_size(source_size, labels, m, minimum, budget):
    largest = grid_size(source_size, 14 * m)
    try:
        allocation = strict_sizes(source_size, labels, m, minimum, budget)
    except BudgetError as err:
        assert str(budget) in str(err)
        return
    assert allocation.total_tokens(labels) <= budget
    for size in (allocation.key, allocation.intermediate):
        assert size.height <= largest.height and size.width <= largest.width
        assert size.height % (14 * m) == size.width % (14 * m) == 0 and size.area > 0
    assert allocation.intermediate.area <= allocation.key.area


@given(sizes, kinds, merges, min_tokens, budgets)
def test_strict_equals_reference_unless_that_enlarges_or_overshoots(source_size, labels, m, minimum, budget):
    released = reference_sizes(source_size, labels, m, minimum, budget)
    largest = grid_size(source_size, 14 * m)
    used = [released.size(kind) for kind in set(labels)]
    enlarges = any(s.height > largest.height or s.width > largest.width for s in used)
    if enlarges or released.total_tokens(labels) > budget:
        return
    ours = strict_sizes(source_size, labels, m, minimum, budget)
    assert [ours.size(kind) for kind in set(labels)] == used


@given(sizes, kinds, merges, min_tokens)
def test_strict_refuses_only_what_cannot_fit(source_size, labels, m, minimum):
    """The needed number of tokens in the error message is enough, and one token less is refused."""
    with pytest.raises(BudgetError) as refused:
        strict_sizes(source_size, labels, m, minimum, max_tokens=0)
    needed = int(str(refused.value).split(" at least ")[1].split()[0])
    assert strict_sizes(source_size, labels, m, minimum, needed).total_tokens(labels) <= needed
    with pytest.raises(BudgetError):
        strict_sizes(source_size, labels, m, minimum, needed - 1)
    factor, floor = 14 * m, 1.5 * minimum * (14 * m) ** 2
    largest = grid_size(source_size, factor)
    for step in range(60):  # no area above the floor gives a frame of fewer tokens
        height, width = fit_area(source_size, floor * 1.03**step, factor, floor)
        size = Size(min(height, largest.height), min(width, largest.width))
        assert needed <= len(labels) * size.area // factor**2


@given(sizes, kinds, merges, min_tokens, budgets, st.integers(1, 50))
@example(Size(294, 1366), [KEY], 2, 16, 30, 2)
def test_strict_accepts_what_a_smaller_budget_accepts(source_size, labels, m, minimum, budget, more):
    try:
        strict_sizes(source_size, labels, m, minimum, budget)
    except BudgetError:
        return
    strict_sizes(source_size, labels, m, minimum, budget + more)


def test_a_single_keyframe_is_not_enlarged():
    """The released rule enlarges a single keyframe among 35 frames to more than ten times its area."""
    source_size, labels = Size(360, 640), [KEY, *[INTERMEDIATE] * 34]
    assert reference_sizes(source_size, labels, 2, 16, 10240).key.area > 10 * source_size.area
    assert strict_sizes(source_size, labels, 2, 16, 10240).key == grid_size(source_size, 28)


def test_no_frames_are_refused():
    with pytest.raises(MediaError, match="no frames"):
        reference_sizes(Size(10, 10), [])


def test_budget_is_split_in_proportion():
    assert split_budget([300, 100], 1000, [24, 24]) == [750, 250]
    assert split_budget([1000, 10, 10], 100, [24, 10, 8]) == [82, 10, 8]
    assert split_budget([1000, 10, 200], 96, [24, 10, 24]) == [62, 10, 24]
    with pytest.raises(BudgetError, match="3 images and videos need at least 58 visual tokens, but the budget is 57"):
        split_budget([1000, 10, 200], 57, [24, 10, 24])
