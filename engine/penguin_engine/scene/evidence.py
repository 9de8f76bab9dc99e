"""Which frames an answer looks at when its first token has a deadline.

The newest frame always, at the largest size that fits, then frames that are not prefilled yet, newest first (pictures
of episodes by rank), while the predicted time permits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from penguin_engine.scene.memory import FrameMemory, HeldFrame
from penguin_engine.scene.pace import Pace
from penguin_models.types import Size

MARGIN = 0.9
"""Share of the time that is left which frames that are not required may take, by prediction."""


@dataclass(frozen=True)
class Candidate:
    """A frame that an answer could look at."""

    frame: HeldFrame
    memory: FrameMemory
    camera: str = ""  # name of its camera, where there are several
    required: bool = False  # whether an answer looks at it in any case, as at the newest frame of a camera
    rank: int = 0  # candidates of lower rank are chosen first, of equal rank the newest


@dataclass(frozen=True)
class Shown:
    """A frame that an answer looks at, and the size at which it does."""

    candidate: Candidate
    size: Size
    tokens: int

    @property
    def frame(self) -> HeldFrame:
        """The frame."""
        return self.candidate.frame

    @property
    def as_held(self) -> bool:
        """Whether it is shown at the size at which the memory holds it."""
        return self.size == self.frame.size


def choose(
    pace: Pace | None, candidates: Sequence[Candidate], text_tokens: int, fixed_tokens: int, due_s: float
) -> tuple[list[Shown], float]:
    """Chooses frames and sizes.

    Args:
        pace: Predicts what they cost; without one everything is chosen.
        candidates: Frames in the order of the prompt that are not in the KV cache yet.
        text_tokens: Tokens of the text before each frame.
        fixed_tokens: Tokens of the question.
        due_s: When the first token is due, on the clock of the pace; infinite if there is no deadline.

    Returns:
        The chosen frames in the same order, and the predicted seconds until the first token.
    """
    if pace is None:
        return [Shown(item, item.frame.size, item.frame.tokens) for item in candidates], math.nan
    left_s = due_s - pace.clock()
    predicted_s = pace.append_s(fixed_tokens)
    required = [candidate for candidate in candidates if candidate.required]
    shown: dict[int, Shown] = {}
    for count, candidate in enumerate(required):
        share_s = (left_s - predicted_s) / (len(required) - count)
        item, cost_s = _fitting(pace, candidate, text_tokens, share_s)
        shown[id(candidate)] = item
        predicted_s += cost_s
    for candidate in sorted(candidates, key=lambda candidate: (candidate.rank, -candidate.frame.stamp_ns)):
        if candidate.required:
            continue
        frame = candidate.frame
        cost_s = seconds_to_show(pace, candidate, frame.size, text_tokens)
        if predicted_s + cost_s > MARGIN * left_s:
            break
        shown[id(candidate)] = Shown(candidate, frame.size, frame.tokens)
        predicted_s += cost_s
    return [shown[id(candidate)] for candidate in candidates if id(candidate) in shown], predicted_s


def _fitting(pace: Pace, candidate: Candidate, text_tokens: int, left_s: float) -> tuple[Shown, float]:
    """Returns the frame at the largest size that fits, or at the cheapest, and its cost in seconds."""
    options = []
    for size in candidate.memory.ladder(candidate.frame.size):
        cost_s = seconds_to_show(pace, candidate, size, text_tokens)
        options.append((cost_s, size))
        if cost_s <= left_s:
            break
    cost_s, size = options[-1] if options[-1][0] <= left_s else min(options, key=lambda option: option[0])
    return Shown(candidate, size, candidate.memory.tokens_of(size)), cost_s


def seconds_to_show(pace: Pace, candidate: Candidate, size: Size, text_tokens: int) -> float:
    """Returns the predicted seconds to encode a frame at a size, unless it is encoded, and to prefill it."""
    tokens = candidate.memory.tokens_of(size)
    encoded = candidate.frame.encoded is not None and size == candidate.frame.size
    encode_s = 0.0 if encoded else pace.encode_s(tokens * candidate.memory.config.merge_size**2)
    return encode_s + pace.append_s(tokens + text_tokens)
