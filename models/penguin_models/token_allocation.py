"""Token allocation of Temporal Redundancy-Aware (TRA) compression: the size at which each frame of a clip is encoded.

Sizes are pure functions of the frames' kinds and source size; a policy (keyframe_policy.py) decides which frames are
keyframes. The formulas are those of the authors' released code (paper: arXiv 2603.06569).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penguin_models.errors import BudgetError, MediaError
from penguin_models.types import FrameKind, Size

KEY_AREA_RATIO = 16
"""A compressed intermediate frame has this fraction of a keyframe's area."""
MIN_TOKENS_FACTOR = 1.5
BUDGET_SHARE = 0.95
"""Share of the budget that the released rule aims at; rounding to the patch grid may use the rest, or exceed it."""


@dataclass(frozen=True)
class Allocation:
    """Sizes of the frames of one image or video, in pixels; sides are multiples of patch_size * merge_size."""

    key: Size
    intermediate: Size
    merge_size: int
    patch_size: int

    def size(self, kind: FrameKind) -> Size:
        """Returns the size in pixels of a frame of this kind."""
        return self.key if kind == FrameKind.KEY else self.intermediate

    def tokens(self, kind: FrameKind) -> int:
        """Returns the number of visual tokens of a frame of this kind."""
        return self.size(kind).area // (self.merge_size * self.patch_size) ** 2

    def total_tokens(self, kinds: Sequence[FrameKind]) -> int:
        """Returns the number of visual tokens of frames of these kinds."""
        return sum(self.tokens(kind) for kind in kinds)


SizeRule = Callable[[Size, Sequence[FrameKind], int, int, int, int], Allocation]


def reference_sizes(
    source_size: Size,
    kinds: Sequence[FrameKind],
    merge_size: int = 2,
    min_tokens: int = 16,
    max_tokens: int = 16384,
    patch_size: int = 14,
) -> Allocation:
    """Returns exactly the released allocation, which checkpoints were trained with.

    With f = patch_size * m, P_min = 1.5 min_tokens f^2, P_max = 0.95 max_tokens f^2 and A = H W: if all frames fit into
    P_max, they are encoded at source size. Otherwise A_key = P_max / (N_key + N_int / 16) and A_int = A_key / 16; if
    A_int is below P_min, A_int = P_min and A_key = (P_max - N_int P_min) / N_key. A_key is at least P_min.

    Sizes are in pixels. The result may exceed max_tokens and the source size; `strict_sizes` never does.

    Raises:
        MediaError: There are no frames.
    """
    factor = patch_size * merge_size
    areas = _reference_areas(source_size, kinds, factor, min_tokens, max_tokens)
    key, intermediate = (fit_area(source_size, area, factor, _floor_area(factor, min_tokens)) for area in areas)
    return Allocation(key, intermediate, merge_size, patch_size)


def strict_sizes(
    source_size: Size,
    kinds: Sequence[FrameKind],
    merge_size: int = 2,
    min_tokens: int = 16,
    max_tokens: int = 16384,
    patch_size: int = 14,
) -> Allocation:
    """Returns the released allocation, limited to the source size and the budget.

    It equals that of `reference_sizes`, which describes the arguments, unless that enlarges a frame or exceeds the
    budget.

    Raises:
        BudgetError: max_tokens is too small even for the smallest sizes that the rule allows.
        MediaError: There are no frames.
    """
    factor = patch_size * merge_size
    largest = grid_size(source_size, factor)
    smallest = smallest_size(source_size, factor, min_tokens)

    def allocation(key: Size, intermediate: Size) -> Allocation:
        key = _limited(key, largest)
        return Allocation(key, _limited(intermediate, key), merge_size, patch_size)

    def fit(area: float) -> Size:
        # Grows monotonically with the area; the released rounding does not, it rounds up only near the floor.
        return max(smallest, rounded_size(source_size, area, factor), key=lambda size: size.area)

    key_area, intermediate_area = _reference_areas(source_size, kinds, factor, min_tokens, max_tokens)
    floor = _floor_area(factor, min_tokens)
    best = allocation(*(fit_area(source_size, area, factor, floor) for area in (key_area, intermediate_area)))
    if best.total_tokens(kinds) <= max_tokens:
        return best
    best = allocation(smallest, smallest)
    if (needed := best.total_tokens(kinds)) > max_tokens:
        frames = "one frame needs" if len(kinds) == 1 else f"{len(kinds)} frames need"
        raise BudgetError(
            f"{frames} at least {needed} visual tokens ({smallest.area // factor**2} each), but the budget is "
            f"{max_tokens}; raise it, or use fewer frames"
        )
    low, high = 0, math.ceil(key_area)
    while low < high:  # bisect for the largest key area that fits the budget
        middle = (low + high + 1) // 2
        candidate = allocation(fit(middle), fit(middle / KEY_AREA_RATIO))
        if candidate.total_tokens(kinds) <= max_tokens:
            low, best = middle, candidate
        else:
            high = middle - 1
    return best


SIZE_RULES: dict[str, SizeRule] = {"strict": strict_sizes, "reference": reference_sizes}


def grid_size(source_size: Size, factor: int) -> Size:
    """Returns the source size rounded to multiples of `factor`, each side at least one multiple."""
    return Size(*(max(factor, round(side / factor) * factor) for side in source_size))


def smallest_size(source_size: Size, factor: int, min_tokens: int) -> Size:
    """Returns the smallest size that the rule gives to a frame of any area, but never more than the source size."""
    floor = _floor_area(factor, min_tokens)
    rounded_up = fit_area(source_size, floor, factor, floor)
    area, rounded = floor, rounded_size(source_size, floor, factor)
    while rounded.area < floor:  # continue with the area at which the next side grows by one multiple
        sides = _sides(source_size, area)
        area *= min(((side + factor / 2) / exact) ** 2 for side, exact in zip(rounded, sides, strict=True)) * (1 + 1e-9)
        rounded = rounded_size(source_size, area, factor)
    return _limited(min(rounded, rounded_up, key=lambda size: size.area), grid_size(source_size, factor))


def split_budget(source_tokens: Sequence[int], max_tokens: int, floors: Sequence[int]) -> list[int]:
    """Splits the budget over the images and videos of one prompt, in proportion to their source tokens.

    Each gets at least its floor. Images of equal size get what the released rule gives each of them.

    Raises:
        BudgetError: The floors alone exceed the budget.
    """
    if sum(floors) > max_tokens:
        raise BudgetError(
            f"{len(floors)} images and videos need at least {sum(floors)} visual tokens, but the budget is "
            f"{max_tokens}; raise it, or use fewer"
        )
    shares = dict(enumerate(floors))
    undecided, left = set(shares), max_tokens
    while undecided:
        total = sum(source_tokens[i] for i in undecided)
        proportional = {i: left * source_tokens[i] // total for i in undecided}
        below_floor = {i for i in undecided if proportional[i] < floors[i]}
        if not below_floor:
            shares |= proportional
            break
        undecided -= below_floor
        left -= sum(floors[i] for i in below_floor)
    return [shares[i] for i in range(len(floors))]


def fit_area(source_size: Size, area: float, factor: int, floor: float) -> Size:
    """Returns the released rounding of an area: sides in the source aspect ratio, multiples of `factor`.

    If the rounded area is below `floor`, the sides are computed from `floor` and rounded up.
    """
    size = rounded_size(source_size, area, factor)
    if size.area < floor:
        size = Size(*(max(factor, math.ceil(side / factor) * factor) for side in _sides(source_size, floor)))
    return size


def rounded_size(source_size: Size, area: float, factor: int) -> Size:
    """Returns sides of about this area in the source aspect ratio, rounded to multiples of `factor`, at least one."""
    return Size(*(max(factor, round(side / factor) * factor) for side in _sides(source_size, area)))


def _reference_areas(
    source_size: Size, kinds: Sequence[FrameKind], factor: int, min_tokens: int, max_tokens: int
) -> tuple[float, float]:
    if not kinds:
        raise MediaError("there are no frames to allocate visual tokens to")
    floor = _floor_area(factor, min_tokens)
    budget = BUDGET_SHARE * max_tokens * factor**2
    keys = sum(kind == FrameKind.KEY for kind in kinds)
    others = len(kinds) - keys
    if len(kinds) * source_size.area <= budget:
        return source_size.area, source_size.area
    key_area = budget / (keys + others / KEY_AREA_RATIO)
    intermediate_area = key_area / KEY_AREA_RATIO
    if intermediate_area < floor and keys:
        intermediate_area = floor
        key_area = (budget - others * floor) / keys
    return max(key_area, floor), max(intermediate_area, floor)


def _floor_area(factor: int, min_tokens: int) -> float:
    return MIN_TOKENS_FACTOR * min_tokens * factor**2


def _sides(source_size: Size, area: float) -> tuple[float, float]:
    """Returns height and width of this area in the source aspect ratio."""
    width = math.sqrt(area * source_size.width / source_size.height)
    return width * source_size.height / source_size.width, width


def _limited(size: Size, largest: Size) -> Size:
    return Size(min(size.height, largest.height), min(size.width, largest.width))
