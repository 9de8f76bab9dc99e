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

from penguin_models.types import Frame, FrameKind, Size, UInt8Array

PATCH = 14
PATCH_SIMILARITY = 0.7
MIN_FRAME_SIMILARITY = 0.95
_NEAR_ZERO = 0.01
_EPSILON = 1e-8
_MIN_AREA = 10 * PATCH**2
_MAX_AREA = 10240 * PATCH**2
_BAND_ROWS = 5


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
        self._key: Tensor | None = None  # unit vectors of the key frame's patches [h, w, 588]
        self._key_lit: Tensor | None = None  # [h, w], False where a patch is black

    def reset(self) -> None:
        """Forgets the key frame."""
        self._key = self._converter = None

    def observe(self, frame: Frame) -> FrameKind:
        """Kind of the frame; one of another size than the frames before it is a key frame."""
        if self._converter is None or frame.size != self._converter.native:
            self.reset()
            self._converter = _HsvConverter(frame.size)
        hsv = self._converter.convert(frame.rgb)
        self.similarity = 1.0 if self._key is None else self._compare(hsv)
        if self._key is not None and self.similarity >= MIN_FRAME_SIMILARITY:
            return FrameKind.INTERMEDIATE
        patches = _patches(hsv).clone()
        norms = torch.linalg.vector_norm(patches, dim=-1, keepdim=True) + _EPSILON
        self._key_lit = norms[..., 0] >= _NEAR_ZERO
        self._key = patches.div_(norms)
        return FrameKind.KEY

    def _compare(self, hsv: Tensor) -> float:
        """Share of patches like the key frame's, in bands that stay in the processor's cache."""
        assert self._key is not None and self._key_lit is not None
        norms, dots = torch.empty_like(self._key_lit, dtype=torch.float32), torch.empty(self._key_lit.shape)
        for start in range(0, len(self._key), _BAND_ROWS):
            band = slice(start, start + _BAND_ROWS)
            patches = _patches(hsv[start * PATCH : (start + _BAND_ROWS) * PATCH])
            torch.linalg.vector_norm(patches, dim=-1, out=norms[band])
            dots[band] = torch.linalg.vecdot(patches, self._key[band])
        norms += _EPSILON
        counted = (norms >= _NEAR_ZERO) | self._key_lit
        like = (dots.div_(norms) > PATCH_SIMILARITY) & counted
        # Two black frames are the same frame (the released code gets NaN here, and no key frame either).
        return int(like.sum()) / int(counted.sum()) if counted.any() else 1.0


class _HsvConverter:
    """Resizes frames of one size and converts them to HSV, in buffers that are allocated once."""

    def __init__(self, native: Size):
        self.native = native
        self._size = comparison_size(native)
        self._planes_u8 = np.empty((3, *native), np.uint8)
        self._planes = torch.empty(1, 3, *native)
        self._resized = torch.empty(1, 3, *self._size)
        self._resized_u8 = torch.empty(3, *self._size, dtype=torch.uint8)
        self._rgb = np.empty((*self._size, 3), np.uint8)
        self._hsv = np.empty((*self._size, 3), np.uint8)

    def convert(self, rgb: UInt8Array) -> Tensor:
        """uint8 [H, W, 3] RGB -> [h, w, 3] HSV in OpenCV's 8-bit ranges; valid until the next call."""
        cv2.split(rgb, list(self._planes_u8))
        self._planes[0].copy_(torch.from_numpy(self._planes_u8))
        # F.interpolate(mode="bilinear", antialias=True), into a buffer.
        torch.ops.aten._upsample_bilinear2d_aa.out(self._planes, list(self._size), False, out=self._resized)
        self._resized_u8.copy_(self._resized[0])  # truncates, as the released code does
        cv2.merge(list(self._resized_u8.numpy()), self._rgb)
        cv2.cvtColor(self._rgb, cv2.COLOR_RGB2HSV, self._hsv)
        return torch.from_numpy(self._hsv)


def _patches(hsv: Tensor) -> Tensor:
    """Cuts [14 h, 14 w, 3] into flattened patches, float32 [h, w, 588]."""
    height, width, _ = hsv.shape
    tiles = hsv.view(height // PATCH, PATCH, width // PATCH, PATCH * 3).transpose(1, 2)
    return tiles.to(torch.float32, memory_format=torch.contiguous_format).flatten(2)
