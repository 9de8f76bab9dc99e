"""Which frames of a memory shrink or leave to make room.

Older intermediate frames shrink first, then older keyframes, as far as patches may be encoded again. Frames are evicted
last: intermediate frames, then the keyframes that are missed least. A keyframe is missed in proportion to the time
between its neighbours, so that of a long motion the beginning and the end stay, and less with age.

A change makes the tokens of all later frames stale. Frames before a chosen start therefore stay untouched, and of
several starts the one is taken at which the evicted keyframes are missed least per token of room. So the recent past is
thinned often and the distant one seldom, and keyframes stay spread over the past, denser where it is recent.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Protocol

from penguin_models.types import FrameKind, Size

_STALE_PER_ROOM = 0.9
"""Tokens that become stale per token of room: with it, at most 1.9 tokens are prefilled per arriving one."""
_STARTS = 8
_NEWEST = 2
"""Number of the newest frames that, if they are keyframes, are evicted after all others."""


class CompactedFrame(Protocol):
    """What a compaction knows of a frame."""

    stamp_ns: int
    kind: FrameKind
    tokens: int
    smaller: Size | None  # size to which it would shrink; None if that would free too little


class Ladder(Protocol):
    """Sizes of frames."""

    def tokens_of(self, size: Size) -> int:
        """Returns the visual tokens of a frame of a size in pixels."""
        ...

    def smaller(self, kind: FrameKind, size: Size) -> Size | None:
        """Returns the size to which a frame of this size shrinks, or None if that would free too little."""
        ...


@dataclass(frozen=True)
class Limits:
    """What a compaction has to reach, and what it may cost."""

    token_budget: int
    room: int  # visual tokens that have to be free
    max_frames: int  # number of frames that may stay
    half_loss_s: float  # age at which a keyframe is missed half as much as a new one
    may_shrink: bool
    encoded_again: int  # visual tokens of shrunk frames that may be encoded


@dataclass
class Compaction:
    """A planned compaction."""

    changes: dict[int, Size | None] = field(default_factory=dict)  # new size of a frame by its index; None to evict it
    stale: int = 0  # visual tokens behind the first change that stay, and have to be prefilled again
    room: int = 0  # free visual tokens
    loss: float = 0.0  # how much the evicted keyframes are missed


def plan_compaction(frames: Sequence[CompactedFrame], ladder: Ladder, limits: Limits) -> Compaction:
    """Plans how at least one frame, in order of capture, makes room for another."""
    held = _Held(frames)
    starts = sorted({len(frames) * number // _STARTS for number in range(_STARTS)})
    plans = (_Planner(held, ladder, limits, start).plan() for start in starts)
    return min(filter(None, plans), key=lambda plan: (plan.loss / plan.room, plan.stale / plan.room))


class _Held:
    """The frames in memory, prepared for several plans."""

    def __init__(self, frames: Sequence[CompactedFrame]):
        self.frames = frames
        self.tokens = [frame.tokens for frame in frames]
        self.tokens_before = [0, *accumulate(self.tokens)]
        self.seconds = [(frame.stamp_ns - frames[-1].stamp_ns) * 1e-9 for frame in frames]
        self.kinds: dict[FrameKind, list[int]] = {kind: [] for kind in FrameKind}  # indices in order
        self.shrinkable: dict[FrameKind, list[int]] = {kind: [] for kind in FrameKind}
        for index, frame in enumerate(frames):
            self.kinds[frame.kind].append(index)
            if frame.smaller is not None:
                self.shrinkable[frame.kind].append(index)


class _Planner:
    """Plans a compaction that leaves the frames before a start untouched."""

    def __init__(self, held: _Held, ladder: Ladder, limits: Limits, start: int):
        self._held, self._ladder, self._limits, self._start = held, ladder, limits, start
        self._tokens = held.tokens.copy()
        self._total, self._count, self._first = held.tokens_before[-1], len(self._tokens), len(self._tokens)
        self._encoded_again = 0
        self._plan = Compaction()

    def plan(self) -> Compaction | None:
        """Returns the compaction, or None if frames before the start would have to change first."""
        for kind in (FrameKind.INTERMEDIATE, FrameKind.KEY) if self._limits.may_shrink else ():
            before, after = self._split(self._held.shrinkable[kind])
            for index in after:
                while (size := self._smaller(index)) is not None:
                    if self._change(index, size):
                        return self._plan
            if any(self._smaller(index) is not None for index in before):
                return None
        before, after = self._split(self._held.kinds[FrameKind.INTERMEDIATE])
        for index in after:
            if self._change(index, None):
                return self._plan
        if before:
            return None
        for index, loss in self._least_missed(self._split(self._held.kinds[FrameKind.KEY])[1]):
            self._plan.loss += loss
            if self._change(index, None):
                return self._plan
        return None

    def _split(self, indices: list[int]) -> tuple[list[int], list[int]]:
        """Returns those before the start, and the others."""
        middle = bisect_left(indices, self._start)
        return indices[:middle], indices[middle:]

    def _smaller(self, index: int) -> Size | None:
        """Returns the size to which a frame may shrink."""
        frame, changed = self._held.frames[index], self._plan.changes.get(index)
        size = frame.smaller if changed is None else self._ladder.smaller(frame.kind, changed)
        if size is None:
            return None
        again = self._encoded_again - self._planned(index) + self._ladder.tokens_of(size)
        return size if again <= self._limits.encoded_again else None

    def _planned(self, index: int) -> int:
        """Returns the tokens of a frame if it shrinks, else 0."""
        return self._tokens[index] if self._plan.changes.get(index) is not None else 0

    def _change(self, index: int, size: Size | None) -> bool:
        """Plans a change; returns whether the plan is complete."""
        tokens = 0 if size is None else self._ladder.tokens_of(size)
        self._encoded_again += tokens - self._planned(index)
        self._count -= size is None
        self._total -= self._tokens[index] - tokens
        self._tokens[index] = tokens
        self._first = min(self._first, index)
        plan, limits = self._plan, self._limits
        plan.changes[index] = size
        plan.stale, plan.room = self._total - self._held.tokens_before[self._first], limits.token_budget - self._total
        is_enough = plan.room >= limits.room and self._count <= limits.max_frames
        return is_enough and plan.stale <= _STALE_PER_ROOM * plan.room

    def _least_missed(self, indices: Sequence[int]) -> Iterator[tuple[int, float]]:
        """Yields frames to evict, with how much each is missed once those before it are gone."""
        seconds = self._held.seconds
        present = [index for index, tokens in enumerate(self._tokens) if tokens]
        later = dict(pairwise(present))
        earlier = {after: before for before, after in later.items()}

        def loss(index: int) -> float:
            next_s = seconds[later[index]] if index in later else 0.0
            previous_s = seconds[earlier[index]] if index in earlier else 2 * seconds[index] - next_s
            return (next_s - previous_s) / (self._limits.half_loss_s - seconds[index])

        newest = len(seconds) - _NEWEST
        queue = [(index >= newest, loss(index), index) for index in indices]
        heapq.heapify(queue)
        while queue:
            protected, then, index = heapq.heappop(queue)
            now = loss(index)
            if now > then:  # a neighbour has been evicted since
                heapq.heappush(queue, (protected, now, index))
                continue
            yield index, now
            before, after = earlier.get(index), later.get(index)
            if before is not None:
                later.pop(before) if after is None else later.update({before: after})
            if after is not None:
                earlier.pop(after) if before is None else earlier.update({after: before})
