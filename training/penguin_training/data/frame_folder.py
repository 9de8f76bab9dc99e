"""A clip as a folder: one image file per frame, named by its time in milliseconds, such as `00001500.jpg`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from penguin_models.errors import MediaError
from penguin_models.media import (
    FPS,
    MAX_FRAMES,
    MAX_IMAGE_PIXELS,
    ClipFrame,
    check_sampling,
    load_image,
    sample_uniformly,
)

_SLACK = 1e-6
_Timed = TypeVar("_Timed", bound=tuple[Any, ...])


def at_rate(frames: Iterable[_Timed], rate_hz: float) -> Iterator[_Timed]:
    """Yields at most `rate_hz` frames per second; the first value of each is its time in seconds."""
    first_s, last = None, -1
    for frame in frames:
        first_s = frame[0] if first_s is None else first_s
        slot = math.floor((frame[0] - first_s) * rate_hz + _SLACK)
        if slot > last:
            yield frame
            last = slot


class FrameFolder:
    """A folder of frames as a `Clip`."""

    def __init__(
        self, path: str | Path, fps: float = FPS, max_frames: int = MAX_FRAMES, max_pixels: int = MAX_IMAGE_PIXELS
    ):
        """Chooses the frames without reading them: at most `fps` per second, and `max_frames` of these, uniformly."""
        check_sampling(fps, max_frames)
        self._max_pixels = max_pixels
        folder = Path(path)
        if not folder.is_dir():
            raise MediaError(f"clip {folder} is not a folder of frames")
        files = sorted((int(file.stem), file) for file in folder.iterdir() if file.stem.isdecimal())
        if not files:
            raise MediaError(f"clip {folder} holds no frames named by their milliseconds, such as 00001500.jpg")
        chosen = at_rate(((time_ms / 1000, file) for time_ms, file in files), fps)
        self._frames = sample_uniformly([*chosen], max_frames)

    def __iter__(self) -> Iterator[ClipFrame]:
        """Reads the chosen frames, one at a time; raises MediaError if one cannot be read."""
        for time_s, file in self._frames:
            yield ClipFrame(time_s, load_image(file, self._max_pixels))
