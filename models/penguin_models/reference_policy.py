"""The released keyframe rule, one frame at a time.

A frame is compared with the last keyframe: both are resized (bilinear, antialiased) to sides that are multiples of 14,
converted to 8-bit HSV and cut into 14x14 patches. The similarity is the share of patches whose cosine exceeds 0.7; if
it is below 0.95, the frame is the new keyframe. Labels equal those of the released code, which holds the whole clip as
float32; this policy holds one keyframe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Barrier

import cv2
import numpy as np
import torch

from penguin_models.banded_resize import BAND_ROWS, BandedResize, resize
from penguin_models.types import Frame, FrameKind, Size, UInt8Array

PATCH = 14
PATCH_SIMILARITY = 0.7
MIN_FRAME_SIMILARITY = 0.95
_NEAR_ZERO = 0.01
_EPSILON = 1e-8
_MIN_AREA = 10 * PATCH**2
_MAX_AREA = 10240 * PATCH**2
_THREADS = 2


def comparison_size(source_size: Size) -> Size:
    """Returns the size at which frames are compared: multiples of 14, between 10 and 10240 patches."""
    height, width = (max(PATCH, round(side / PATCH) * PATCH) for side in source_size)
    if height * width > _MAX_AREA:
        scale = math.sqrt(source_size.area / _MAX_AREA)
        height, width = (max(PATCH, math.floor(side / scale / PATCH) * PATCH) for side in source_size)
    elif height * width < _MIN_AREA:
        scale = math.sqrt(_MIN_AREA / source_size.area)
        height, width = (max(PATCH, math.ceil(side * scale / PATCH) * PATCH) for side in source_size)
    return Size(height, width)


class ReferencePolicy:
    """The released rule as a `KeyframePolicy`."""

    def __init__(self) -> None:
        self.similarity = 1.0  # of the last frame to the keyframe before it, 0 to 1; 1.0 for a first frame
        self._source_size: Size | None = None
        self._lanes: list[_Lane] = []

    def reset(self) -> None:
        """Forgets the keyframe; the next frame is one."""
        self._source_size, self._lanes = None, []

    def observe(self, frame: Frame) -> FrameKind:
        """Returns the kind of the frame; the first frame and every change of size give a keyframe."""
        first = frame.size != self._source_size
        if first:
            self.reset()
            self._lanes = _split_rows(frame.size)
        compared = list(_pool().map(lambda lane: lane.compare(frame.rgb), self._lanes))
        similar, counted = (sum(numbers) for numbers in zip(*compared, strict=True))
        # Two black frames count as equal; the released code gets NaN, which gives no keyframe either.
        self.similarity = similar / counted if counted and not first else 1.0
        if not first and self.similarity >= MIN_FRAME_SIMILARITY:
            return FrameKind.INTERMEDIATE
        for lane in self._lanes:
            lane.make_key()
        self._source_size = frame.size  # last, so that a frame that failed does not become the keyframe
        return FrameKind.KEY


class _Lane:
    """The rows of patches that one thread compares: those of the keyframe and of the current frame."""

    def __init__(self, resizing: Callable[[UInt8Array], Iterable[UInt8Array]], patches: Size):
        self._resizing, shape = resizing, (patches.height, patches.width)
        self._hsv = np.empty((patches.height * PATCH, patches.width * PATCH, 3), np.uint8)
        tiled = self._hsv.reshape(patches.height, PATCH, patches.width, PATCH * 3)
        self._tiles = tiled.swapaxes(1, 2)  # a view [h, w, 14, 42]
        self._key = np.zeros((*shape, PATCH * PATCH * 3), np.uint8)
        self._patches, self._key_patches = (np.empty(self._key.shape[1:], np.float32) for _ in range(2))
        self._norms, self._key_norms = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    @torch.inference_mode()  # threads do not inherit the caller's mode
    def compare(self, rgb: UInt8Array) -> tuple[int, int]:
        """Returns how many patches are similar to the keyframe's, and how many count; pairs of black ones do not."""
        dots, first = np.empty_like(self._norms), 0
        for band in self._resizing(rgb):  # small enough to stay in the processor's cache
            last = first + len(band) // PATCH
            cv2.cvtColor(band, cv2.COLOR_RGB2HSV, self._hsv[first * PATCH : last * PATCH])
            for row in range(first, last):
                np.copyto(self._patches.reshape(self._tiles[row].shape), self._tiles[row])
                np.copyto(self._key_patches, self._key[row])
                np.einsum("ij,ij->i", self._patches, self._patches, out=self._norms[row])
                np.einsum("ij,ij->i", self._patches, self._key_patches, out=dots[row])
            first = last
        np.sqrt(self._norms, out=self._norms)
        self._norms += _EPSILON
        counted = (self._norms >= _NEAR_ZERO) | (self._key_norms >= _NEAR_ZERO)
        similar = (dots > PATCH_SIMILARITY * self._norms * self._key_norms) & counted
        return int(similar.sum()), int(counted.sum())

    def make_key(self) -> None:
        """Makes the frame that was compared last the keyframe."""
        self._key = self._tiles.reshape(self._key.shape)
        self._key_norms = self._norms.copy()


def _split_rows(source_size: Size) -> list[_Lane]:
    """Splits the rows of a frame over two threads, if it can be resized in bands."""
    size = comparison_size(source_size)
    rows, columns = size.height // PATCH, size.width // PATCH
    if not BandedResize.suits(source_size, size):
        return [_Lane(lambda rgb: [resize(rgb, size)], Size(rows, columns))]
    band_rows = BAND_ROWS // PATCH
    bands = math.ceil(rows / band_rows)
    middle = math.ceil(bands / _THREADS)
    lanes = []
    for part in (range(middle), range(middle, bands)):
        if part:
            height = min(rows, part.stop * band_rows) - part.start * band_rows
            resizing = BandedResize(source_size, size, slice(part.start, part.stop))
            lanes.append(_Lane(resizing, Size(height, columns)))
    return lanes


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    """Returns two threads in which torch runs single-threaded; it would otherwise start threads for every band."""
    threads, started = torch.get_num_threads(), Barrier(_THREADS)
    pool = ThreadPoolExecutor(_THREADS, "keyframes", torch.set_num_threads, (1,))
    list(pool.map(lambda _: started.wait(), range(_THREADS)))  # starts both threads
    torch.set_num_threads(threads)  # threads that start later use the last number that was set
    return pool
