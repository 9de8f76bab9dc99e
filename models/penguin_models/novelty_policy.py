"""Keyframes for robots: a frame is a keyframe if something in view is new, not if only light or noise changed.

Each frame is reduced to a small grid of cells and compared with the scene at the last keyframe:
- Lighting is removed first, as a plane of gains over the image (exposure, flicker, a lamp to one side), with clipping
  modelled.
- A cell has changed if it lies outside the range of its 3x3 neighbourhood in the scene (so shaking by less than a cell
  changes nothing) by more than a threshold, which rises with the measured sensor noise.
- Enough changed cells close together make a keyframe: an object appears, moves or leaves, or the camera moves.
Unchanged cells of the scene slowly follow the frames, so that slow changes of light never add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from penguin_models.errors import SettingError
from penguin_models.types import BoolArray, Float32Array, Frame, FrameKind, Size, UInt8Array

_NOISE_FACTOR = 6.0
_GRID_CELLS = 160
"""Cells along the longer side of the image."""
_ADAPT_S = 8.0
"""Time constant with which unchanged cells follow a slow change, in seconds."""
_WINDOW = 5
"""Changed cells are counted in windows of this many cells per side."""
_DARK, _BRIGHT = 8.0, 247.0
"""Cells outside this range carry no information about the exposure."""
_BLOCKS = 8
_KERNEL = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class NoveltyConfig:
    """Sensitivity of `NoveltyPolicy`."""

    threshold: float = 10.0  # change of a cell in grey levels (of 255) per colour
    min_cells: int = 6  # number of changed cells within a window of 5x5 that make a keyframe
    min_interval_s: float = 0.5  # least time between keyframes, at which continuous motion gives them

    def __post_init__(self) -> None:
        for name, valid, allowed in (
            ("threshold", 0 < self.threshold < 255, "above 0 and below 255"),
            ("min_cells", 1 <= self.min_cells <= _WINDOW**2, f"between 1 and {_WINDOW**2}"),
            ("min_interval_s", self.min_interval_s >= 0, "0 or above"),
        ):
            if not valid:
                raise SettingError(f"{name} is {getattr(self, name)!r}, it must be {allowed}")


class NoveltyPolicy:
    """A `KeyframePolicy` that notices local change.

    `novelty` is the largest number of changed cells in one window of the last frame, relative to `min_cells`; at 1 and
    above, the frame shows something new.
    """

    def __init__(self, config: NoveltyConfig | None = None):
        self.config = config or NoveltyConfig()
        self.novelty = 0.0
        self._size: Size | None = None
        self.reset()

    def reset(self) -> None:
        """Forgets the scene; the next frame is a keyframe."""
        self._scene: Float32Array | None = None
        self._previous: Float32Array | None = None
        self._noise = 0.0
        self._key_ns = self._last_ns = 0

    def observe(self, frame: Frame) -> FrameKind:
        """Returns the kind of the frame; the first frame and every change of size give a keyframe."""
        cells = self._cells(frame.rgb)
        if self._scene is None or self._previous is None or frame.size != self._size:
            self.reset()
            self._size = frame.size
            return self._make_key(cells, frame.stamp_ns)
        gain = _gain(cells, self._scene)
        self._measure_noise(cells)
        changed = self._changed(cells, gain)
        counts = cv2.boxFilter(changed.astype(np.float32), -1, (_WINDOW, _WINDOW), normalize=False)
        self.novelty = float(counts.max()) / self.config.min_cells
        waited_s = (frame.stamp_ns - self._key_ns) * 1e-9
        if self.novelty >= 1 and waited_s >= self.config.min_interval_s:
            return self._make_key(cells, frame.stamp_ns)
        self._follow(cells, gain, changed, (frame.stamp_ns - self._last_ns) * 1e-9)
        self._previous, self._last_ns = cells, frame.stamp_ns
        return FrameKind.INTERMEDIATE

    def _make_key(self, cells: Float32Array, stamp_ns: int) -> FrameKind:
        self._scene, self._previous = cells.copy(), cells
        self._key_ns = self._last_ns = stamp_ns
        return FrameKind.KEY

    def _cells(self, rgb: UInt8Array) -> Float32Array:
        """Averages square cells of whole pixels, without incomplete cells at the edges: float32 [rows, columns, 3]."""
        height, width = rgb.shape[:2]
        side = max(1, min(height, width, round(max(height, width) / _GRID_CELLS)))
        rows, columns = height // side, width // side
        small: UInt8Array = cv2.resize(
            rgb[: rows * side, : columns * side], (columns, rows), interpolation=cv2.INTER_AREA
        )
        return small.astype(np.float32)

    def _measure_noise(self, cells: Float32Array) -> None:
        """Tracks the temporal noise of a cell: a robust deviation between frames, with exposure removed."""
        assert self._previous is not None
        colours = cells - self._previous
        difference = (colours[..., 0] + colours[..., 1] + colours[..., 2]) / np.float32(3)
        difference = np.abs(difference - np.median(difference))  # removes flicker, which changes all cells alike
        deviation = 1.4826 * float(np.median(difference)) * np.sqrt(3 / 2)
        self._noise += 0.2 * (deviation - self._noise)

    def _changed(self, cells: Float32Array, gain: Float32Array) -> BoolArray:
        assert self._scene is not None
        expected = np.clip(self._scene * gain, 0, 255)
        # A clipped cell may have been brighter than it looked.
        highest = np.where(self._scene < _BRIGHT, expected, 255).astype(np.float32)
        above = cells - cv2.dilate(highest, _KERNEL)
        below = cv2.erode(expected, _KERNEL) - cells
        limit = max(self.config.threshold, _NOISE_FACTOR * self._noise)
        changed: BoolArray = _largest(np.maximum(above, below)) > limit
        return changed

    def _follow(self, cells: Float32Array, gain: Float32Array, changed: BoolArray, elapsed_s: float) -> None:
        assert self._scene is not None
        # A clipped cell does not show what it would look like in other light.
        known = ~changed & (_largest(cells) < _BRIGHT)
        step = min(1.0, max(0.0, elapsed_s) / _ADAPT_S)
        weight = np.where(_largest(self._scene) < _BRIGHT, step, 1.0) * known
        # Dividing by the gain preserves the scene's own exposure, so flicker does not leak into it.
        self._scene += weight[..., None].astype(np.float32) * (cells / gain - self._scene)


def _largest(cells: Float32Array) -> Float32Array:
    """Returns the largest of the three colours, ten times as fast as `max`: [rows, columns, 3] -> [rows, columns]."""
    largest: Float32Array = np.maximum(np.maximum(cells[..., 0], cells[..., 1]), cells[..., 2])
    return largest


def _gain(cells: Float32Array, scene: Float32Array) -> Float32Array:
    """Estimates the light relative to the scene as a plane of gains, float32 [rows, columns, 1].

    The plane is fitted to the median ratio in each block, over cells that are neither dark nor clipped. Blocks in which
    something happened lie off the plane and are left out.
    """
    rows, columns = cells.shape[:2]
    a, b = _largest(cells), _largest(scene)
    usable = (a > _DARK) & (a < _BRIGHT) & (b > _DARK) & (b < _BRIGHT)
    if np.count_nonzero(usable) < 0.05 * usable.size:
        return np.ones((rows, columns, 1), np.float32)
    ratio = a / np.maximum(b, 1.0)
    middle = float(np.median(ratio[usable]))
    ratio = np.where(usable, ratio, middle)
    height, width = max(1, rows // _BLOCKS), max(1, columns // _BLOCKS)
    down, across = rows // height, columns // width
    blocks = ratio[: down * height, : across * width].reshape(down, height, across, width)
    medians = np.median(blocks, axis=(1, 3)).reshape(-1)
    y, x = (v.reshape(-1) for v in np.mgrid[-1 : 1 : down * 1j, -1 : 1 : across * 1j])
    design = np.stack((np.ones_like(x), x, y), axis=1)
    good = np.abs(medians - middle) < 0.5 * middle
    for _ in range(3):  # fit, then leave out the blocks that lie off the plane
        plane, *_ = np.linalg.lstsq(design[good], medians[good], rcond=None)
        off = np.abs(medians - design @ plane)
        good = off <= max(0.02, 2.5 * float(np.median(off)))
    at_x, at_y = np.linspace(-1, 1, columns), np.linspace(-1, 1, rows)
    gains = plane[0] + plane[1] * at_x[None, :] + plane[2] * at_y[:, None]
    plane_of_gains: Float32Array = np.clip(gains, 0.25, 4.0).astype(np.float32)[..., None]
    return plane_of_gains
