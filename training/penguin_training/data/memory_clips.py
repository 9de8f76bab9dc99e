"""Clips as a robot's memory holds them when a question comes: frames of several sizes, with gaps, and their turns.

The frames go through the runtime's own `FrameMemory`; its values are drawn at random, by the sample's id and a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from penguin_engine.scene.memory import FrameMemory, MemoryConfig
from penguin_models.config import ImageConfig
from penguin_models.errors import DataError, MediaError
from penguin_models.images import resize
from penguin_models.keyframe_policy import KeyframePolicy
from penguin_models.media import Clip, ClipFrame
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.processor import VIDEO_MERGE_SIZE
from penguin_models.reference_policy import ReferencePolicy
from penguin_models.types import Frame, Size, UInt8Array
from penguin_training.data.annotations import Annotation
from penguin_training.data.memory_turns import as_asked
from penguin_training.settings.data import MemorySettings

POLICIES: dict[str, Callable[[], KeyframePolicy]] = {"novelty": NoveltyPolicy, "reference": ReferencePolicy}
_LOWEST_SIDE = 0.5
"""Share of the samples with the smallest images: large ones cost most of the time, and become as small in memory."""
_DRAWS = 8  # A sample is drawn again this often if no question is left of it


@dataclass(frozen=True)
class DrawnMemory:
    """What was drawn for one sample."""

    config: MemoryConfig
    policy: str  # Name in `POLICIES`
    rate_hz: float  # Most frames per second that reach the memory
    side: int | None  # Shorter side of the camera's images in pixels; None for that of the clip

    def hold(self, clip: Clip) -> tuple[tuple[ClipFrame, ...], float]:
        """Returns what the memory holds after a clip, and the time of the first of these frames on the clip's clock.

        The clip has been sampled at `rate_hz`. The frames have the sizes at which they are held, and times in seconds
        since the first of them.
        """
        memory = FrameMemory(self.config, POLICIES[self.policy]())
        for time_s, rgb in clip:
            memory.add(Frame(self._as_camera(rgb), round(time_s * 1e9)))
        return held_frames(memory), memory.frames[0].stamp_ns * 1e-9 if memory.frames else 0.0

    def _as_camera(self, rgb: UInt8Array) -> UInt8Array:
        scale = 1.0 if self.side is None else self.side / min(rgb.shape[:2])
        return resize(rgb, Size(*(max(1, round(length * scale)) for length in rgb.shape[:2])))


def draw_memory(settings: MemorySettings, images: ImageConfig, sample: str, seed: int, draw: int = 0) -> DrawnMemory:
    """Draws the memory of a sample; `draw` numbers further ones."""
    random = np.random.default_rng([*sample.encode(errors="backslashreplace"), draw, seed])
    budget = int(random.integers(settings.token_budget[0], settings.token_budget[1] + 1))
    rate_hz = float(random.uniform(settings.rate_hz[0], settings.rate_hz[1]))
    side = None if settings.side is None else int(random.integers(settings.side[0], settings.side[1] + 1))
    if settings.side is not None and random.random() < _LOWEST_SIDE:
        side = settings.side[0]
    policy = str(random.choice(settings.policies))
    arrival = str(random.choice(settings.arrivals))
    config = MemoryConfig(budget, images.min_tokens, VIDEO_MERGE_SIZE, images.patch_size, arrival)
    return DrawnMemory(config, policy, rate_hz, side)


def held_frames(memory: FrameMemory) -> tuple[ClipFrame, ...]:
    """Returns the frames of a memory at the sizes at which it holds them, timed in seconds since the first of them."""
    frames = memory.frames
    return tuple(ClipFrame((f.stamp_ns - frames[0].stamp_ns) * 1e-9, resize(f.pixels, f.size)) for f in frames)


def through_memory(
    annotation: Annotation, clip: Callable[[float], Iterable[ClipFrame]], draw: Callable[[int], DrawnMemory]
) -> Annotation:
    """Returns a sample about one clip as a robot would be asked: what its memory holds, then a question.

    Turns that name a time before the first frame held are left out and counted in `dropped_turns`.

    Args:
        annotation: The sample.
        clip: Returns its frames at a rate, in frames per second, or at a lower one.
        draw: Returns the first memory drawn for it, or another one.

    Raises:
        DataError: It shows something else besides the clip, or has a system message, so that no robot would be asked
            this; or no memory that was drawn leaves a turn.
    """
    if len(annotation.media) != 1:
        raise DataError(
            f"it shows {len(annotation.media)} images and videos, but data.memory shows one video alone; leave it out"
        )
    (reference,) = annotation.media
    for number in range(_DRAWS):
        memory = draw(number)
        frames, start_s = memory.hold(clip(memory.rate_hz))
        if not frames:
            raise MediaError(f"{reference.path} has no frames")
        held = replace(annotation, media=(replace(reference, frames=frames, held=True),))
        if annotation.messages is None:
            return held
        messages, dropped = as_asked(annotation.messages, start_s, annotation.independent_turns)
        if messages:
            return replace(held, messages=messages, dropped_turns=dropped)
    raise DataError(
        f"all its questions name times before {start_s:.1f} s, where the first frame that the memory holds is, in each "
        f"of {_DRAWS} draws; raise data.memory.token_budget, or lower its rate_hz or side"
    )
