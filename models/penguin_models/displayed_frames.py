"""A decoded video frame -> RGB as players show it: turned, mirrored, with square pixels, on white where transparent."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from penguin_models.image_files import on_white
from penguin_models.types import Size, UInt8Array

if TYPE_CHECKING:
    import av

_MAX_ASPECT = 8  # A pixel that is longer is taken for a damaged header


def displayed(frame: av.VideoFrame, size: Size) -> UInt8Array:
    """Returns the pixels of a frame as players show it: uint8 [H, W, 3].

    Args:
        frame: A decoded frame of any pixel format.
        size: Its size with square pixels, before it is turned.
    """
    format_ = frame.format
    if format_.has_palette or any(component.is_alpha for component in format_.components):
        rgba = frame.to_ndarray(format="rgba", width=size.width, height=size.height)
        return _upright(frame, on_white(Image.fromarray(rgba)))
    return _upright(frame, frame.to_ndarray(format="rgb24", width=size.width, height=size.height))


def square_pixels(size: Size, aspect: Fraction | None) -> Size:
    """Returns the size of a frame with square pixels, enlarged along one axis.

    `aspect` is the width of a pixel relative to its height; None or 0 if unknown.
    """
    if not aspect or not 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT:
        return size
    if aspect > 1:
        return Size(size.height, round(size.width * aspect))
    return Size(round(size.height / aspect), size.width)


def _upright(frame: av.VideoFrame, rgb: UInt8Array) -> UInt8Array:
    """Turns and mirrors pixels as the display matrix of the frame says, which phones store next to them.

    The matrix maps a pixel's (x, y) to (a x + c y, b x + d y). Angles are rounded to quarter turns.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return rgb
    a, b, _, c, d = struct.unpack_from("=5i", bytes(matrix))
    if abs(b) + abs(c) > abs(a) + abs(d):
        rgb, a, d = rgb.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
