"""A clip as a folder: one image file per frame, named by its time in milliseconds, such as `00001500.jpg`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

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
        chosen, last = [], -1
        for time_ms, file in files:
            slot = math.floor((time_ms - files[0][0]) / 1000 * fps + _SLACK)
            if slot > last:
                chosen.append((time_ms / 1000, file))
                last = slot
        self._frames = sample_uniformly(chosen, max_frames)

    def __iter__(self) -> Iterator[ClipFrame]:
        """Reads the chosen frames, one at a time; raises MediaError if one cannot be read."""
        for time_s, file in self._frames:
            yield ClipFrame(time_s, load_image(file, self._max_pixels))
