"""A clip as a folder: one image file a frame, in the order of their names, and `times.json` with a time for each."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from penguin_models.errors import MediaError
from penguin_models.media import FPS, MAX_FRAMES, ClipFrame, check_sampling, load_image

TIMES = "times.json"
_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_SLACK = 1e-6


class FrameFolder:
    """A folder of frames as a `Clip`.

    `times.json` holds a list of seconds, one for each image file sorted by name, or an object {file name: seconds}.
    """

    def __init__(self, path: str | Path, fps: float = FPS, max_frames: int = MAX_FRAMES):
        """Chooses the frames, without reading them.

        Args:
            path: the folder.
            fps: at most so many frames per second are taken.
            max_frames: where there would be more, this many are taken evenly from them.

        Raises:
            MediaError: the folder or its times are missing or malformed, or fps or max_frames make no sense.
        """
        check_sampling(fps, max_frames)
        folder = Path(path)
        if not folder.is_dir():
            raise MediaError(f"clip {folder} is not a folder of frames")
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _IMAGES)
        times = _read_times(folder, [file.name for file in files])
        chosen, last = [], -1
        for file, time_s in zip(files, times, strict=True):
            slot = math.floor((time_s - times[0]) * fps + _SLACK)
            if slot > last:
                chosen.append((time_s, file))
                last = slot
        if len(chosen) > max_frames:
            chosen = [chosen[i] for i in np.linspace(0, len(chosen) - 1, max_frames, dtype=int)]
        self._frames = chosen

    def __iter__(self) -> Iterator[ClipFrame]:
        """Reads the chosen frames, one at a time.

        Raises:
            MediaError: a file cannot be read.
        """
        for time_s, file in self._frames:
            yield ClipFrame(time_s, load_image(file))


def _read_times(folder: Path, names: list[str]) -> list[float]:
    """Seconds of each frame, in the order of `names`."""
    if not names:
        raise MediaError(f"clip {folder} has no image files")
    try:
        values = json.loads((folder / TIMES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise MediaError(f"clip {folder} needs a {TIMES} with the seconds of its frames: {err}") from err
    if isinstance(values, dict):
        values = [values.get(name) for name in names]
    numbers = isinstance(values, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )
    if not numbers or len(values) != len(names):
        raise MediaError(f"clip {folder}: {TIMES} must hold a number of seconds for each of its {len(names)} frames")
    if any(later <= earlier for earlier, later in pairwise(values)):
        raise MediaError(f"clip {folder}: the times in {TIMES} must increase")
    return [float(v) for v in values]
