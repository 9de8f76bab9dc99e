"""The released key-frame rule, one frame at a time.

A frame is compared with the last key frame: both resized (bilinear, antialiased) to sides that are multiples of 14,
converted to 8-bit HSV, cut into 14x14 patches; the similarity is the share of patches whose cosine exceeds 0.7. Below
0.95 the frame is the new key frame. Labels equal those of the released code, which holds the whole clip as float32;
this holds the last key frame.
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
    """Size at which frames are compared: multiples of 14, between 10 and 10240 patches."""
    height, width = (max(PATCH, round(side / PATCH) * PATCH) for side in source_size)
    if height * width > _MAX_AREA:
        scale = math.sqrt(source_size.area / _MAX_AREA)
        height, width = (max(PATCH, math.floor(side / scale / PATCH) * PATCH) for side in source_size)
    elif height * width < _MIN_AREA:
        scale = math.sqrt(_MIN_AREA / source_size.area)
        height, width = (max(PATCH, math.ceil(side * scale / PATCH) * PATCH) for side in source_size)
    return Size(height, width)


class ReferencePolicy:
    """The released rule as a `KeyframePolicy`.

    Attributes:
        similarity: of the last observed frame to the key frame before it, 0 to 1; 1.0 for a first frame.
    """

    def __init__(self) -> None:
        self.similarity = 1.0
        self._native: Size | None = None
        self._lanes: list[_Lane] = []

    def reset(self) -> None:
        """Forgets the key frame."""
        self._native, self._lanes = None, []

    def observe(self, frame: Frame) -> FrameKind:
        """Kind of the frame; one of another size than the frames before it is a key frame."""
        first = frame.size != self._native
        if first:
            self.reset()
            self._lanes = _lanes(frame.size)
        compared = list(_pool().map(lambda lane: lane.compare(frame.rgb), self._lanes))
        like, counted = (sum(numbers) for numbers in zip(*compared, strict=True))
        # Two black frames are the same frame (the released code gets NaN here, and no key frame either).
        self.similarity = like / counted if counted and not first else 1.0
        if not first and self.similarity >= MIN_FRAME_SIMILARITY:
            return FrameKind.INTERMEDIATE
        for lane in self._lanes:
            lane.make_key()
        self._native = frame.size  # only now: a frame that failed is no key frame
        return FrameKind.KEY


class _Lane:
    """Some rows of patches: of the key frame, and of the frame that is compared with it."""

    def __init__(self, resizing: Callable[[UInt8Array], Iterable[UInt8Array]], patches: Size):
        self._resizing, shape = resizing, (patches.height, patches.width)
        self._hsv = np.empty((patches.height * PATCH, patches.width * PATCH, 3), np.uint8)
        tiled = self._hsv.reshape(patches.height, PATCH, patches.width, PATCH * 3)
        self._tiles = tiled.swapaxes(1, 2)  # a view [h, w, 14, 42]
        self._key = np.zeros((*shape, PATCH * PATCH * 3), np.uint8)
        self._patches, self._key_patches = (np.empty(self._key.shape[1:], np.float32) for _ in range(2))
        self._norms, self._key_norms = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    @torch.inference_mode()  # whoever calls may be in it, which these threads do not inherit
    def compare(self, rgb: UInt8Array) -> tuple[int, int]:
        """How many patches of a frame are like the key frame's, and how many count: a pair of black ones does not."""
        dots, first = np.empty_like(self._norms), 0
        for band in self._resizing(rgb):  # stays in the processor's cache
            last = first + len(band) // PATCH
            # HSV in OpenCV's 8-bit ranges.
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
        like = (dots > PATCH_SIMILARITY * self._norms * self._key_norms) & counted
        return int(like.sum()), int(counted.sum())

    def make_key(self) -> None:
        """The frame that was compared last is the key frame."""
        self._key = self._tiles.reshape(self._key.shape)
        self._key_norms = self._norms.copy()


def _lanes(source_size: Size) -> list[_Lane]:
    """The rows of a frame, shared out over two threads where they can be resized apart."""
    size = comparison_size(source_size)
    rows, columns = size.height // PATCH, size.width // PATCH
    if not BandedResize.suits(source_size, size):
        return [_Lane(lambda rgb: [resize(rgb, size)], Size(rows, columns))]
    in_band = BAND_ROWS // PATCH
    bands = math.ceil(rows / in_band)
    cut = math.ceil(bands / 2)
    shares = [part for part in (slice(0, cut), slice(cut, bands)) if part.start < part.stop]
    return [
        _Lane(
            BandedResize(source_size, size, part), Size(min(rows, part.stop * in_band) - part.start * in_band, columns)
        )
        for part in shares
    ]


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    """Two threads in which torch starts no others: it would for every band."""
    threads, started = torch.get_num_threads(), Barrier(_THREADS)

    def alone() -> None:
        started.wait()  # so that each task gets a thread of its own
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(_THREADS, "key-frames")
    for task in [pool.submit(alone) for _ in range(_THREADS)]:
        task.result()
    torch.set_num_threads(threads)  # torch remembers the last number for threads that begin later
    return pool
