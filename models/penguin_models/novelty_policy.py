"""Key frames for robots: a frame is a key frame when something in view is new, not when the light or the noise changed.

Each frame is shrunk to a small grid of cells and compared with a picture of the scene as it was at the last key frame:
- the light is taken out first, as a plane of gains over the image (exposure, flicker, a lamp at one side), with
  clipping modelled;
- a cell has changed where it lies outside the range of its 3x3 neighbourhood in that picture (a camera that shakes by
  less than a cell changes nothing) by more than a threshold, which rises with the measured sensor noise;
- enough changed cells close together make a key frame: an object that appears, moves or goes, or a camera that moved.
Cells that have not changed follow the scene slowly, so that slow changes of light never add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from penguin_models.errors import PolicyError
from penguin_models.types import BoolArray, Float32Array, Frame, FrameKind, Size, UInt8Array

_NOISE_FACTOR = 6.0
_WINDOW = 5
"""Changed cells are counted in windows of so many cells a side."""
_DARK, _BRIGHT = 8.0, 247.0
"""Cells outside of this range say nothing about the exposure."""
_BLOCKS = 8
_KERNEL = np.ones((3, 3), np.uint8)


@dataclass(frozen=True)
class NoveltyConfig:
    """How easily something counts as new.

    Attributes:
        threshold: change of a cell in grey levels of 255, per colour.
        min_cells: changed cells within a window of 5x5 that make a key frame.
        grid_cells: cells along the longer side of the image.
        min_interval_s: least time between two key frames; while something keeps moving, they come at this interval.
        adapt_s: time in which unchanged cells follow a slow change.
    """

    threshold: float = 10.0
    min_cells: int = 6
    grid_cells: int = 160
    min_interval_s: float = 0.5
    adapt_s: float = 8.0

    def __post_init__(self) -> None:
        limits = (
            ("threshold", self.threshold, 0 < self.threshold < 255, "above 0 and below 255"),
            ("min_cells", self.min_cells, 1 <= self.min_cells <= _WINDOW**2, f"between 1 and {_WINDOW**2}"),
            ("grid_cells", self.grid_cells, 16 <= self.grid_cells <= 1024, "between 16 and 1024"),
            ("min_interval_s", self.min_interval_s, self.min_interval_s >= 0, "0 or above"),
            ("adapt_s", self.adapt_s, self.adapt_s > 0, "above 0"),
        )
        for name, value, valid, wanted in limits:
            if not valid:
                raise PolicyError(f"{name} is {value!r}, it must be {wanted}")


class NoveltyPolicy:
    """A `KeyframePolicy` that notices local change.

    Attributes:
        novelty: most changed cells in one window of the last frame, relative to `min_cells`; 1 and above is new.
    """

    def __init__(self, config: NoveltyConfig | None = None):
        self.config = config or NoveltyConfig()
        self.novelty = 0.0
        self._size: Size | None = None
        self.reset()

    def reset(self) -> None:
        """Forgets the scene."""
        self._scene: Float32Array | None = None
        self._previous: Float32Array | None = None
        self._noise = 0.0
        self._key_ns = self._last_ns = 0

    def observe(self, frame: Frame) -> FrameKind:
        """Kind of the frame; the first one, and one of another size, are key frames."""
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
        """Means of square cells of whole pixels: float32 [rows, columns, 3]; a rest at the far edges is left out."""
        height, width = rgb.shape[:2]
        side = max(1, min(height, width, round(max(height, width) / self.config.grid_cells)))
        rows, columns = height // side, width // side
        small: UInt8Array = cv2.resize(
            rgb[: rows * side, : columns * side], (columns, rows), interpolation=cv2.INTER_AREA
        )
        return small.astype(np.float32)

    def _measure_noise(self, cells: Float32Array) -> None:
        """Follows the temporal noise of a cell: a robust deviation between frames, exposure taken out."""
        assert self._previous is not None
        difference = _mean(cells - self._previous)  # flicker moves all cells alike: the median takes it out
        difference = np.abs(difference - np.median(difference))
        deviation = 1.4826 * float(np.median(difference)) * np.sqrt(3 / 2)
        self._noise += 0.2 * (deviation - self._noise)

    def _changed(self, cells: Float32Array, gain: Float32Array) -> BoolArray:
        assert self._scene is not None
        expected = np.clip(self._scene * gain, 0, 255)
        # A cell that was clipped may have been brighter than it looked.
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
        step = min(1.0, max(0.0, elapsed_s) / self.config.adapt_s)
        weight = np.where(_largest(self._scene) < _BRIGHT, step, 1.0) * known
        # The scene keeps its own exposure; otherwise flicker would wander into it.
        self._scene += weight[..., None].astype(np.float32) * (cells / gain - self._scene)


# numpy takes ten times as long along an axis of three.
def _largest(cells: Float32Array) -> Float32Array:
    """Of the three colours: [rows, columns, 3] -> [rows, columns]."""
    largest: Float32Array = np.maximum(np.maximum(cells[..., 0], cells[..., 1]), cells[..., 2])
    return largest


def _mean(cells: Float32Array) -> Float32Array:
    """Of the three colours: [rows, columns, 3] -> [rows, columns]."""
    mean: Float32Array = (cells[..., 0] + cells[..., 1] + cells[..., 2]) / np.float32(3)
    return mean


def _gain(cells: Float32Array, scene: Float32Array) -> Float32Array:
    """Light on the cells relative to the scene: a plane of gains, float32 [rows, columns, 1].

    Fitted to the median ratios of blocks, of cells that are neither dark nor clipped; blocks in which something
    happened lie off the plane and are left out.
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
    for _ in range(3):
        plane, *_ = np.linalg.lstsq(design[good], medians[good], rcond=None)
        off = np.abs(medians - design @ plane)
        good = off <= max(0.02, 2.5 * float(np.median(off)))
    at_x, at_y = np.linspace(-1, 1, columns), np.linspace(-1, 1, rows)
    gains = plane[0] + plane[1] * at_x[None, :] + plane[2] * at_y[:, None]
    plane_of_gains: Float32Array = np.clip(gains, 0.25, 4.0).astype(np.float32)[..., None]
    return plane_of_gains
