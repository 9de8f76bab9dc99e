"""Token allocation of TRA compression: at what size each frame of a clip is encoded.

Sizes are pure functions of the frames' kinds and source size; which frames are keyframes is decided by a policy
(keyframe_policy.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from penguin_models.errors import BudgetError, MediaError
from penguin_models.types import FrameKind, Size

KEY_AREA_RATIO = 16
"""A compressed intermediate frame has this fraction of a key frame's area."""
MIN_TOKENS_FACTOR = 1.5
BUDGET_SHARE = 0.95
"""Share of the budget that the released rule aims at; rounding to the patch grid may take the rest, or more."""


@dataclass(frozen=True)
class Allocation:
    """Sizes of the frames of one video.

    Attributes:
        key: size of key frames in pixels.
        intermediate: size of intermediate frames.
        merge_size: m; sides are multiples of patch_size * m.
        patch_size: side of a patch in pixels.
    """

    key: Size
    intermediate: Size
    merge_size: int
    patch_size: int

    def size(self, kind: FrameKind) -> Size:
        """Size in pixels of a frame of this kind."""
        return self.key if kind == FrameKind.KEY else self.intermediate

    def tokens(self, kind: FrameKind) -> int:
        """Visual tokens of a frame of this kind."""
        return self.size(kind).area // (self.merge_size * self.patch_size) ** 2

    def total_tokens(self, kinds: Sequence[FrameKind]) -> int:
        """Visual tokens of a video with these kinds of frames."""
        keys = sum(kind == FrameKind.KEY for kind in kinds)
        return keys * self.tokens(FrameKind.KEY) + (len(kinds) - keys) * self.tokens(FrameKind.INTERMEDIATE)


SizeRule = Callable[[Size, Sequence[FrameKind], int, int, int, int], Allocation]


def reference_sizes(
    source_size: Size,
    kinds: Sequence[FrameKind],
    merge_size: int = 2,
    min_tokens: int = 16,
    max_tokens: int = 16384,
    patch_size: int = 14,
) -> Allocation:
    """The released allocation, exactly: what checkpoints were trained with.

    With f = patch_size * m, P_min = 1.5 min_tokens f^2, P_max = 0.95 max_tokens f^2 and A = H W: source sizes if all
    frames fit P_max; else A_key = P_max / (N_key + N_int / 16), A_int = A_key / 16; where A_int falls below P_min,
    A_int = P_min and A_key = (P_max - N_int P_min) / N_key; A_key is at least P_min.

    The result may exceed max_tokens and the source size; `strict_sizes` never does.

    Args:
        source_size: size of the frames in pixels.
        kinds: kind of each frame; 0 and 1 do.
        merge_size: m.
        min_tokens: see P_min.
        max_tokens: see P_max.
        patch_size: side of a patch in pixels.
    """
    factor = patch_size * merge_size
    key_area, intermediate_area = _reference_areas(source_size, kinds, factor, min_tokens, max_tokens)
    floor = MIN_TOKENS_FACTOR * min_tokens * factor**2
    key, intermediate = (fit_area(source_size, area, factor, floor) for area in (key_area, intermediate_area))
    return Allocation(key, intermediate, merge_size, patch_size)


def strict_sizes(
    source_size: Size,
    kinds: Sequence[FrameKind],
    merge_size: int = 2,
    min_tokens: int = 16,
    max_tokens: int = 16384,
    patch_size: int = 14,
) -> Allocation:
    """The released allocation made safe: never above the source size, never above the budget.

    Equal to `reference_sizes` wherever that neither enlarges a frame nor overshoots. Arguments as there.

    Raises:
        BudgetError: even with every frame at the smallest size the rule allows, max_tokens is exceeded.
    """
    factor = patch_size * merge_size
    largest = grid_size(source_size, factor)
    floor = MIN_TOKENS_FACTOR * min_tokens * factor**2
    smallest = smallest_size(source_size, factor, min_tokens)

    def allocation(key: Size, intermediate: Size) -> Allocation:
        key = _within(key, largest)
        return Allocation(key, _within(intermediate, key), merge_size, patch_size)

    def fit(area: float) -> Size:
        """Grows with the area, which the released rounding does not: that rounds up near the floor alone."""
        return max(smallest, rounded_size(source_size, area, factor), key=lambda size: size.area)

    key_area, intermediate_area = _reference_areas(source_size, kinds, factor, min_tokens, max_tokens)
    best = allocation(*(fit_area(source_size, area, factor, floor) for area in (key_area, intermediate_area)))
    if best.total_tokens(kinds) <= max_tokens:
        return best
    best = allocation(smallest, smallest)
    if (needed := best.total_tokens(kinds)) > max_tokens:
        raise BudgetError(
            f"{'one frame needs' if len(kinds) == 1 else f'{len(kinds)} frames need'} at least {needed} visual tokens "
            f"({smallest.area // factor**2} each), "
            f"the budget is {max_tokens}; raise it, or use fewer frames"
        )
    low, high = 0, math.ceil(key_area)
    while low < high:  # the largest key area that fits
        middle = (low + high + 1) // 2
        candidate = allocation(fit(middle), fit(middle / KEY_AREA_RATIO))
        if candidate.total_tokens(kinds) <= max_tokens:
            low, best = middle, candidate
        else:
            high = middle - 1
    return best


SIZE_RULES: dict[str, SizeRule] = {"strict": strict_sizes, "reference": reference_sizes}


def grid_size(source_size: Size, factor: int) -> Size:
    """The source size rounded to multiples of `factor`, at least one."""
    return Size(*(max(factor, round(side / factor) * factor) for side in source_size))


def smallest_size(source_size: Size, factor: int, min_tokens: int) -> Size:
    """The smallest size that the rule gives a frame of any area, its source size where that is smaller."""
    floor = MIN_TOKENS_FACTOR * min_tokens * factor**2
    rounded_up = fit_area(source_size, floor, factor, floor)
    area, rounded = floor, rounded_size(source_size, floor, factor)
    while rounded.area < floor:  # on to the area at which the next side is rounded to one more
        scales = [
            ((side / factor + 0.5) / _sides(source_size, area)[i] * factor) ** 2 for i, side in enumerate(rounded)
        ]
        area *= min(scales) * (1 + 1e-9)
        rounded = rounded_size(source_size, area, factor)
    return _within(min(rounded, rounded_up, key=lambda size: size.area), grid_size(source_size, factor))


def split_budget(source_tokens: Sequence[int], max_tokens: int, floors: Sequence[int]) -> list[int]:
    """Shares of the budget for several images or videos of one prompt, in proportion to their source tokens.

    Images of equal size get what the released rule gives each of them; none gets less than its floor.

    Raises:
        BudgetError: the floors alone exceed the budget.
    """
    if sum(floors) > max_tokens:
        raise BudgetError(
            f"{len(floors)} images and videos need at least {sum(floors)} visual tokens, the budget is {max_tokens}; "
            "raise it, or use fewer"
        )
    shares = dict(enumerate(floors))
    open_shares, left = set(shares), max_tokens
    while open_shares:
        total = sum(source_tokens[i] for i in open_shares)
        proportional = {i: left * source_tokens[i] // total for i in open_shares}
        short = {i for i in open_shares if proportional[i] < floors[i]}
        if not short:
            shares |= proportional
            break
        open_shares -= short
        left -= sum(floors[i] for i in short)
    return [shares[i] for i in range(len(floors))]


def _reference_areas(
    source_size: Size, kinds: Sequence[FrameKind], factor: int, min_tokens: int, max_tokens: int
) -> tuple[float, float]:
    if not kinds:
        raise MediaError("no frames to allocate tokens to")
    floor = MIN_TOKENS_FACTOR * min_tokens * factor**2
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


def fit_area(source_size: Size, area: float, factor: int, floor: float) -> Size:
    """The released rounding: sides of about this area in the source aspect ratio, both multiples of `factor`.

    Where their product is below `floor`, they are computed from `floor` and rounded up.
    """
    size = rounded_size(source_size, area, factor)
    if size.area < floor:
        size = Size(*(max(factor, math.ceil(side / factor) * factor) for side in _sides(source_size, floor)))
    return size


def rounded_size(source_size: Size, area: float, factor: int) -> Size:
    """Sides of about this area in the source aspect ratio, to the next multiples of `factor`, at least one."""
    return Size(*(max(factor, round(side / factor) * factor) for side in _sides(source_size, area)))


def _sides(source_size: Size, area: float) -> tuple[float, float]:
    """Height and width of this area in the source aspect ratio."""
    width = math.sqrt(area * source_size.width / source_size.height)
    return width * source_size.height / source_size.width, width


def _within(size: Size, largest: Size) -> Size:
    return Size(min(size.height, largest.height), min(size.width, largest.width))
