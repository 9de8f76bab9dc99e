"""A clip: frames sampled from a video, a bag or a folder of images. Reads no files."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias, TypeVar

import cv2
import numpy as np

from penguin_models.errors import MediaError
from penguin_models.types import Size, UInt8Array

_T = TypeVar("_T")
_log = logging.getLogger(__name__)

FPS = 1.0
MAX_FRAMES = 180


class ClipFrame(NamedTuple):
    """One sampled frame: its time in seconds as the container counts it, and its pixels, uint8 [H, W, 3]."""

    time_s: float
    rgb: UInt8Array


Clip: TypeAlias = Iterable[ClipFrame]
"""Sampled frames, one at a time; they can be read more than once."""


def check_sampling(fps: float, max_frames: int) -> None:
    """Raises MediaError if fps or max_frames is not positive and finite."""
    if not 0 < fps < math.inf or max_frames <= 0:
        raise MediaError(f"fps {fps} and max_frames {max_frames} must be above 0 and finite")


def sample_uniformly(frames: Sequence[_T], most: int) -> Sequence[_T]:
    """Returns all frames, or `most` of them spread evenly from the first to the last."""
    if len(frames) <= most:
        return frames
    return [frames[i] for i in np.linspace(0, len(frames) - 1, most, dtype=int)]


def at_first_size(clip: Clip, name: str = "the clip", tell: Callable[[str], None] | None = None) -> Iterator[ClipFrame]:
    """Yields the frames of a clip, all at the size of the first, because a model takes the frames of a clip as one.

    Frames of another size are stretched to it, so that boxes keep their meaning.

    Args:
        clip: Frames of any sizes.
        name: How the clip is called in the sentence that says so.
        tell: Receives the sentence, perhaps repeatedly; it is logged once as a warning if None.
    """
    size: Size | None = None
    for time_s, rgb in clip:
        own = Size(*rgb.shape[:2])
        size = size or own
        if own != size:
            (tell or warn_once)(
                f"{name} changes from {size.width}x{size.height} to {own.width}x{own.height} pixels; "
                "all its frames are scaled to the first size"
            )
            interpolation = cv2.INTER_AREA if own.area > size.area else cv2.INTER_LINEAR
            rgb = cv2.resize(rgb, size[::-1], interpolation=interpolation).astype(np.uint8, copy=False)
        yield ClipFrame(time_s, rgb)


@lru_cache(maxsize=1000)
def warn_once(message: str) -> None:
    """Logs a sentence as a warning, once in a process: clips are read several times."""
    _log.warning(message)


def duration(seconds: float) -> str:
    """Returns a duration in a unit that can be read."""
    for unit, length in (("years", 365.25 * 86_400), ("days", 86_400), ("hours", 3600)):
        if abs(seconds) >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"
