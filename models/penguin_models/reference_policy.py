"""The released key-frame rule, one frame at a time.

A frame is compared with the last key frame: both resized (bilinear, antialiased) to sides that are multiples of 14,
converted to 8-bit HSV, cut into 14x14 patches; the similarity is the share of patches whose cosine exceeds 0.7. Below
0.95 the frame is the new key frame. Labels equal those of the released code, which holds the whole clip as float32;
this holds the last key frame.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor

from penguin_models.banded_resize import BandedResize, resize
from penguin_models.types import Frame, FrameKind, Size, UInt8Array

PATCH = 14
PATCH_SIMILARITY = 0.7
MIN_FRAME_SIMILARITY = 0.95
_NEAR_ZERO = 0.01
_EPSILON = 1e-8
_MIN_AREA = 10 * PATCH**2
_MAX_AREA = 10240 * PATCH**2
_BAND_ROWS = 2


def comparison_size(native: Size) -> Size:
    """Size at which frames are compared: multiples of 14, between 10 and 10240 patches."""
    height, width = (max(PATCH, round(side / PATCH) * PATCH) for side in native)
    if height * width > _MAX_AREA:
        scale = math.sqrt(native.area / _MAX_AREA)
        height, width = (max(PATCH, math.floor(side / scale / PATCH) * PATCH) for side in native)
    elif height * width < _MIN_AREA:
        scale = math.sqrt(_MIN_AREA / native.area)
        height, width = (max(PATCH, math.ceil(side * scale / PATCH) * PATCH) for side in native)
    return Size(height, width)


class ReferencePolicy:
    """The released rule as a `KeyframePolicy`.

    Attributes:
        similarity: of the last observed frame to the key frame before it, 0 to 1; 1.0 for a first frame.
    """

    def __init__(self) -> None:
        self.similarity = 1.0
        self._converter: _HsvConverter | None = None
        self._key: Tensor | None = None  # the key frame's patches, uint8 [h, w, 588]
        self._key_norms: Tensor | None = None  # [h, w]

    def reset(self) -> None:
        """Forgets the key frame."""
        self._key = self._key_norms = self._converter = None

    def observe(self, frame: Frame) -> FrameKind:
        """Kind of the frame; one of another size than the frames before it is a key frame."""
        if self._converter is None or frame.size != self._converter.native:
            self.reset()
            self._converter = _HsvConverter(frame.size)
        tiles = _tiles(self._converter.convert(frame.rgb))
        key = _flat(tiles) if self._key is None else self._key
        norms, dots = _norms_and_dots(tiles, key)
        self.similarity = 1.0 if self._key_norms is None else _similarity(dots, norms, self._key_norms)
        if self._key is not None and self.similarity >= MIN_FRAME_SIMILARITY:
            return FrameKind.INTERMEDIATE
        self._key, self._key_norms = _flat(tiles), norms
        return FrameKind.KEY


class _HsvConverter:
    """Resizes frames of one size and converts them to HSV."""

    def __init__(self, native: Size):
        self.native = native
        self._size = comparison_size(native)
        self._banded = BandedResize(native, self._size) if BandedResize.suits(native, self._size) else None
        self._hsv = np.empty((*self._size, 3), np.uint8)

    def convert(self, rgb: UInt8Array) -> Tensor:
        """uint8 [H, W, 3] RGB -> [h, w, 3] HSV in OpenCV's 8-bit ranges; valid until the next call."""
        resized = resize(rgb, self._size) if self._banded is None else self._banded(rgb)
        cv2.cvtColor(resized, cv2.COLOR_RGB2HSV, self._hsv)
        return torch.from_numpy(self._hsv)


def _tiles(hsv: Tensor) -> Tensor:
    """Cuts [14 h, 14 w, 3] into patches: a view [h, w, 14, 42]."""
    height, width, _ = hsv.shape
    return hsv.view(height // PATCH, PATCH, width // PATCH, PATCH * 3).transpose(1, 2)


def _flat(tiles: Tensor, dtype: torch.dtype = torch.uint8) -> Tensor:
    """A copy of [h, w, 14, 42] as vectors [h, w, 588]."""
    return tiles.to(dtype, memory_format=torch.contiguous_format, copy=True).flatten(2)


def _norms_and_dots(tiles: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Norms of patches, and their dot products with the key frame's, in bands that stay in the processor's cache."""
    norms, dots = torch.empty(key.shape[:2]), torch.empty(key.shape[:2])
    for start in range(0, len(key), _BAND_ROWS):
        band = slice(start, start + _BAND_ROWS)
        patches = _flat(tiles[band], torch.float32)
        torch.linalg.vector_norm(patches, dim=-1, out=norms[band])
        dots[band] = torch.linalg.vecdot(patches, key[band].float())
    return norms + _EPSILON, dots


def _similarity(dots: Tensor, norms: Tensor, key_norms: Tensor) -> float:
    """Share of patches like the key frame's; a pair of black ones does not count."""
    counted = (norms >= _NEAR_ZERO) | (key_norms >= _NEAR_ZERO)
    like = (dots / norms / key_norms > PATCH_SIMILARITY) & counted
    # Two black frames are the same frame (the released code gets NaN here, and no key frame either).
    return int(like.sum()) / int(counted.sum()) if counted.any() else 1.0
