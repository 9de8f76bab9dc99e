"""FrameMemory: what a camera has seen, within a hard budget of visual tokens; TRA compression while frames arrive.

A frame arrives at its full size and keeps it while the budget allows, so recent frames are sharp. When the next frame
does not fit, a *compaction* (compaction.py) makes room. Frames shrink along a fixed ladder of scale levels on which the
area halves, several levels at once, and only while the patches encoded again stay below 15 % of those that arrived;
otherwise a frame is evicted. The newest frame is never touched.

Knows nothing of models and runtimes: the owner of the memory encodes the frames whose `encoded` is None.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from penguin_engine.scene.compaction import Limits, plan_compaction
from penguin_engine.scene.stamp_order import StampOrder
from penguin_models.errors import BudgetError
from penguin_models.images import resize
from penguin_models.keyframe_policy import KeyframePolicy
from penguin_models.token_allocation import MIN_TOKENS_FACTOR, fit_area, grid_size
from penguin_models.types import Frame, FrameKind, Size, UInt8Array

_CONTEXT_SCALE_LEVEL, _KEY_SCALE_LEVEL = 4, 3
"""First scale level to shrink to: 1/16 of the area, as in the released rule, and 1/8 for keyframes."""
_LARGEST_SHARE = 0.5
"""A frame shrinks to at most this share of its tokens, or not at all."""
_ENCODED_AGAIN = 0.15
"""Maximum number of patches encoded again per arriving patch."""
_ROOM_SHARE = 0.125
"""Once frames have to leave, this share of the budget is free after the next one has arrived: few, large compactions
choose better which ones leave."""


@dataclass(frozen=True)
class MemoryConfig:
    """Configuration of a memory."""

    token_budget: int = 10_240  # maximum number of visual tokens held
    min_tokens: int = 16  # of the allocation rule; a frame does not shrink below 1.5 times this
    merge_size: int = 2  # patches per side that are merged into one visual token
    patch_size: int = 14  # side of a patch in pixels
    # "full_size": every frame arrives as large as fits; "by_kind": once the budget has been reached, intermediate
    # frames arrive at the size to which they would shrink
    arrival: str = "full_size"
    # A keyframe of this age is missed half as much as a new one: the smaller, the more of the budget goes to the recent
    # past (docs/ablation.md)
    half_loss_s: float = 30.0
    # A frame older than the newest one by this many seconds means that time jumped back (a bag loops): the memory is
    # cleared. Frames that are late by less are dropped
    jump_back_s: float = 1.0

    def __post_init__(self) -> None:
        if self.token_budget < self.floor_tokens:
            raise BudgetError(
                f"a token budget of {self.token_budget} cannot hold one frame of {self.floor_tokens} tokens; raise it"
            )
        if self.arrival not in ("full_size", "by_kind"):
            raise BudgetError(f"arrival is {self.arrival!r}, it must be 'full_size' or 'by_kind'")
        for name in ("half_loss_s", "jump_back_s"):
            if not getattr(self, name) > 0:
                raise BudgetError(f"{name} is {getattr(self, name)}, it must be above 0")

    @property
    def factor(self) -> int:
        """Side in pixels of one visual token."""
        return self.patch_size * self.merge_size

    @property
    def max_frames(self) -> int:
        """Maximum number of frames: what the budget holds at the floor. Only smaller frames reach it."""
        return self.token_budget // self.floor_tokens

    @property
    def floor_tokens(self) -> int:
        """Visual tokens below which a frame does not shrink."""
        return math.ceil(MIN_TOKENS_FACTOR * self.min_tokens)


@dataclass(eq=False)
class HeldFrame:
    """A frame in the memory."""

    seq: int  # number of its arrival, counted from 0 since the memory was created
    stamp_ns: int  # stamp of capture in nanoseconds
    kind: FrameKind  # keyframe or intermediate frame
    source_size: Size  # size of the camera's image in pixels
    size: Size  # size at which it is held, in pixels
    tokens: int  # number of its visual tokens
    pixels: UInt8Array  # uint8 [H, W, 3]: the camera's image, or its resized copy if `size` is smaller
    smaller: Size | None  # size to which it would shrink; None if that would free too little
    missing: int = 0  # number of evicted keyframes between this frame and the next one
    header: Any = field(default=None, repr=False)  # header of the source message
    # The owner's visual tokens at this size; None if it has to be encoded (again)
    encoded: Any = field(default=None, repr=False)


@dataclass
class MemoryCounters:
    """Counts since the memory was created."""

    received: int = 0  # frames passed to `add`
    late: int = 0  # frames dropped because they were older than the newest one
    resized: int = 0  # times a frame shrank
    evicted: int = 0  # frames evicted to make room
    keyframes: int = 0  # frames labelled as keyframes
    compactions: int = 0  # times room was made
    clears: int = 0  # times the memory was cleared
    patches_arrived: int = 0  # patches of all frames at their arrival
    patches_encoded: int = 0  # `patches_arrived` plus the patches of frames that shrank
    tokens_arrived: int = 0  # visual tokens of all frames at their arrival
    tokens_prefilled: int = 0  # `tokens_arrived` plus the tokens that compactions made stale


class FrameMemory:
    """The frames of one camera, within a token budget.

    Attributes:
        config: Budget and sizes.
        policy: Labels the frames.
        counters: Counts since the memory was created.
        arrival_tokens: Largest number of visual tokens with which a frame arrives, but never below the floor; None for
            what the budget holds.
    """

    def __init__(self, config: MemoryConfig, policy: KeyframePolicy):
        self.config = config
        self.policy = policy
        self.counters = MemoryCounters()
        self.arrival_tokens: int | None = None
        self._frames: list[HeldFrame] = []
        self._tokens = 0
        self._saturated = False

    @property
    def frames(self) -> Sequence[HeldFrame]:
        """Frames in memory, in order of capture."""
        return tuple(self._frames)

    @property
    def tokens(self) -> int:
        """Number of visual tokens held; never above the budget."""
        return self._tokens

    def add(self, frame: Frame) -> int | None:
        """Adds a frame; the policy labels it unless it is late.

        Returns:
            Index in `frames` of the first frame that is new or has changed; all before it are unchanged. None if the
            frame was late and dropped.
        """
        self.counters.received += 1
        newest_ns = self._frames[-1].stamp_ns if self._frames else None
        order = StampOrder.of(frame.stamp_ns, newest_ns, self.config.jump_back_s)
        if order is StampOrder.LATE:
            self.counters.late += 1
            return None
        if order is StampOrder.JUMPED_BACK:
            self.clear()
        held = self._arrive(frame, self.policy.observe(frame))
        first_changed = len(self._frames)
        if self._tokens + held.tokens > self.config.token_budget or first_changed >= self.config.max_frames:
            self._saturated = True
            first_changed = self._compact(held.tokens)
        self._frames.append(held)
        self._tokens += held.tokens
        self._count_arrival(held, first_changed)
        return first_changed

    def set_budget(self, token_budget: int) -> None:
        """Changes the budget. What no longer fits shrinks or is evicted, as when a frame arrives.

        Raises:
            BudgetError: The budget cannot hold one frame; nothing has changed.
        """
        self.config = replace(self.config, token_budget=token_budget)
        if self._tokens <= token_budget and len(self._frames) <= self.config.max_frames:
            return
        self._saturated = True
        newest = self._frames[-1]
        size = self._fitting(newest.size)
        if size != newest.size:
            self._change(newest, size)
        self._frames.pop()
        self._tokens -= newest.tokens
        if self._frames and self._tokens + newest.tokens > token_budget:
            self._compact(newest.tokens)
        self._frames.append(newest)
        self._tokens += newest.tokens

    def clear(self) -> None:
        """Clears the memory."""
        self._frames.clear()
        self._tokens = 0
        self._saturated = False
        self.policy.reset()
        self.counters.clears += 1

    def held_share(self, since_ns: int) -> float:
        """Returns the share of the keyframes since a stamp that are held; 0 if the memory may begin later."""
        if not self._frames or self._frames[0].stamp_ns > since_ns:
            return 0.0
        frames = [frame for frame in self._frames if frame.stamp_ns >= since_ns]
        held = sum(frame.kind == FrameKind.KEY for frame in frames)
        missing = sum(frame.missing for frame in frames)
        return held / (held + missing) if missing else 1.0

    def native_tokens(self, source_size: Size) -> int:
        """Returns the visual tokens of a camera's image at its full size."""
        return self.tokens_of(grid_size(source_size, self.config.factor))

    def tokens_of(self, size: Size) -> int:
        """Returns the visual tokens of a frame of a size in pixels, which is a multiple of a token's."""
        return size.area // self.config.factor**2

    def ladder(self, size: Size) -> Iterator[Size]:
        """Yields a size and the scale levels below it, down to the floor, each smaller than the one before."""
        yield size
        last = size
        for level in range(1, 32):
            smaller = self._at_scale_level(size, level)
            if smaller.area < last.area:  # near the floor sides are rounded up
                yield smaller
                last = smaller
            if size.area / 2**level < self._floor_area:
                return

    def shrunk(self, size: Size, tokens: int) -> Size:
        """Returns the largest scale level of a size with at most some visual tokens, or the smallest there is."""
        for smaller in self.ladder(size):
            if self.tokens_of(smaller) <= tokens:
                break
        return smaller

    def smaller(self, kind: FrameKind, size: Size) -> Size | None:
        """Returns the size to which a frame of this size shrinks, or None if that would free too little."""
        tokens = self.tokens_of(size)
        for scale_level in range(_KEY_SCALE_LEVEL if kind == FrameKind.KEY else _CONTEXT_SCALE_LEVEL, 32):
            smaller = self._at_scale_level(size, scale_level)
            if self.tokens_of(smaller) <= tokens * _LARGEST_SHARE:
                return smaller
            if size.area / 2**scale_level < self._floor_area:
                return None
        return None

    def _arrive(self, frame: Frame, kind: FrameKind) -> HeldFrame:
        """Returns the frame at its arrival size: full size, or the largest scale level that fits the budget."""
        source_size = grid_size(frame.size, self.config.factor)
        size = self._fitting(source_size)
        if self.arrival_tokens is not None:
            size = self.shrunk(size, self.arrival_tokens)
        if self.config.arrival == "by_kind" and self._saturated and kind == FrameKind.INTERMEDIATE:
            size = self.smaller(kind, size) or size
        return HeldFrame(
            seq=self.counters.received - 1,
            stamp_ns=frame.stamp_ns,
            kind=kind,
            source_size=frame.size,
            size=size,
            tokens=self.tokens_of(size),
            pixels=frame.rgb if size == source_size else resize(frame.rgb, size),
            smaller=self.smaller(kind, size),
            header=frame.header,
        )

    def _fitting(self, source_size: Size) -> Size:
        """Returns the largest scale level that the whole budget holds."""
        factor, size = self.config.factor, source_size
        for scale_level in range(1, 64):
            if self.tokens_of(size) <= self.config.token_budget:
                break
            size = self._at_scale_level(source_size, scale_level)
        while self.tokens_of(size) > self.config.token_budget:  # an extreme aspect ratio: one side is one token
            size = Size(*(max(factor, side // 2 // factor * factor) for side in size))
        return size

    def _compact(self, arriving: int) -> int:
        """Makes room and returns the index of the first frame that changed."""
        self.counters.compactions += 1
        is_full = len(self._frames) >= self.config.max_frames
        again = self.counters.patches_encoded - self.counters.patches_arrived
        left = _ENCODED_AGAIN * self.counters.patches_arrived - again
        budget = self.config.token_budget
        room = arriving + int(_ROOM_SHARE * budget) if self.counters.evicted else arriving
        limits = Limits(
            token_budget=budget,
            room=min(budget, room),
            half_loss_s=self.config.half_loss_s,
            max_frames=self.config.max_frames // 2 if is_full else len(self._frames),
            may_shrink=not is_full,
            encoded_again=int(left / self.config.merge_size**2),
        )
        plan = plan_compaction(self._frames, self, limits)
        first_changed = min(plan.changes)
        for index, size in plan.changes.items():
            self._change(self._frames[index], size)
        self._forget()
        self.counters.tokens_prefilled += plan.stale
        return min(first_changed, len(self._frames))

    def _forget(self) -> None:
        """Drops evicted frames, and counts the keyframes among them in the frame before."""
        held: list[HeldFrame] = []
        for frame in self._frames:
            if frame.tokens > 0:
                held.append(frame)
            elif held:
                held[-1].missing += frame.missing + (frame.kind == FrameKind.KEY)
        self._frames = held

    def _change(self, frame: HeldFrame, size: Size | None) -> None:
        """Shrinks a frame, or marks it as evicted if `size` is None."""
        frame.encoded = None
        tokens = 0 if size is None else self.tokens_of(size)
        self._tokens -= frame.tokens - tokens
        frame.tokens = tokens
        if size is None:
            self.counters.evicted += 1
            return
        frame.pixels = resize(frame.pixels, size)
        frame.size = size
        frame.smaller = self.smaller(frame.kind, size)
        self.counters.resized += 1
        self.counters.patches_encoded += tokens * self.config.merge_size**2

    def _count_arrival(self, held: HeldFrame, first_changed: int) -> None:
        patches = held.tokens * self.config.merge_size**2
        self.counters.patches_arrived += patches
        self.counters.patches_encoded += patches
        self.counters.tokens_arrived += held.tokens
        self.counters.tokens_prefilled += held.tokens
        self.counters.keyframes += held.kind == FrameKind.KEY

    def _at_scale_level(self, size: Size, scale_level: int) -> Size:
        """Returns the size at a scale level: the area halved that many times, down to the allocation rule's floor."""
        floor = min(self._floor_area, size.area)
        smaller = fit_area(size, size.area / 2**scale_level, self.config.factor, floor)
        return Size(min(smaller.height, size.height), min(smaller.width, size.width))

    @property
    def _floor_area(self) -> int:
        return self.config.floor_tokens * self.config.factor**2
