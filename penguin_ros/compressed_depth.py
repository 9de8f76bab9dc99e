"""Depth in a CompressedImage, as compressed_depth_image_transport writes it: PNG or RVL after a header of 12 bytes.

RVL: A. D. Wilson, "Fast Lossless Depth Image Compression", ISS 2017.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from penguin_models.decoding import MAX_IMAGE_PIXELS, check_size, opened
from penguin_models.errors import MediaError

_HEADER = struct.Struct("<iff")  # kind of compression, and the two parameters of inverse depth
_RVL_SIZE = struct.Struct("<II")  # columns, rows
_PNG = b"\x89PNG"


def is_compressed_depth(image_format: str) -> bool:
    """Returns whether the format of a CompressedImage is one of compressed_depth_image_transport."""
    return "compresseddepth" in image_format.lower()


def compressed_depth(data: bytes, image_format: str, max_pixels: int = MAX_IMAGE_PIXELS) -> NDArray[Any]:
    """Returns the depth in a `sensor_msgs/CompressedImage`, [height, width].

    uint16, usually in millimetres, with 0 where there is none; of the encoding 32FC1 float32, usually in metres, with
    NaN where there is none.

    Raises:
        MediaError: The data are truncated, damaged, larger than `max_pixels`, or of another format.
    """
    encoding, _, compression = image_format.partition(";")
    what = f"compressed depth ({repr(image_format)[1:-1][:80]})"
    has_header = not data.startswith(_PNG)  # some drivers leave it out
    if len(data) < _HEADER.size:
        raise MediaError(f"{what} cannot be decoded: it has {len(data)} bytes, its header alone has {_HEADER.size}")
    _, scale, offset = _HEADER.unpack_from(data) if has_header else (0, 0.0, 0.0)
    content = data[_HEADER.size :] if has_header else data
    stored = _rvl(content, what, max_pixels) if "rvl" in compression.lower() else _png(content, what, max_pixels)
    if encoding.strip().upper() != "32FC1":
        return stored
    if not has_header:
        raise MediaError(f"{what} cannot be decoded: 32FC1 needs the header of compressed_depth_image_transport")
    if not (np.isfinite([scale, offset]).all() and scale > 0):
        raise MediaError(f"{what} cannot be decoded: its header has the values {scale:g} and {offset:g}, not valid")
    with np.errstate(divide="ignore", over="ignore"):
        depth = np.float32(scale) / (stored.astype(np.float32) - np.float32(offset))
    return np.where(stored == 0, np.float32(np.nan), depth)


def _png(content: bytes, what: str, max_pixels: int) -> NDArray[np.uint16]:
    try:
        with opened(content, what, ("PNG",), max_pixels) as image:
            if not image.mode.startswith("I"):
                raise MediaError(f"{what} cannot be decoded: its PNG has pixels of mode {image.mode}, not 16-bit grey")
            return np.asarray(image).astype(np.uint16)
    except UnidentifiedImageError as err:
        raise MediaError(f"{what} cannot be decoded: its data begin with {content[:4].hex(' ')}, not as PNG") from err


def _rvl(content: bytes, what: str, max_pixels: int) -> NDArray[np.uint16]:
    """Decodes runs: a number of zeros, a number of other values, and the difference of each of these to the last."""
    if len(content) < _RVL_SIZE.size:
        raise MediaError(f"{what} cannot be decoded: it ends within its size")
    width, height = _RVL_SIZE.unpack_from(content)
    check_size(what, width, height, max_pixels)
    numbers = _variable_length(content[_RVL_SIZE.size :])
    position, pixel, end = 0, 0, width * height
    where, differences = [], []
    while pixel < end:
        zeros, count = numbers[position : position + 2].tolist() if position + 2 <= len(numbers) else (0, 0)
        position += 2
        pixel += zeros
        if position + count > len(numbers) or pixel + count > end or not zeros + count:
            raise MediaError(f"{what} cannot be decoded: it is damaged after {pixel} of {end} pixels")
        where.append(np.arange(pixel, pixel + count))
        differences.append(numbers[position : position + count])
        position, pixel = position + count, pixel + count
    folded = np.concatenate(differences)
    depth = np.zeros(end, np.uint16)
    depth[np.concatenate(where)] = np.cumsum((folded >> 1) ^ -(folded & 1)).astype(np.uint16)
    return depth.reshape(height, width)


def _variable_length(content: bytes) -> NDArray[np.int64]:
    """Returns the numbers in a sequence of nibbles: three bits each, the lowest first; bit 3 says that more follow.

    Eight nibbles are a little-endian word, the first in its highest bits.
    """
    words = np.frombuffer(content, "<u4", len(content) // 4).astype(">u4").view(np.uint8)
    nibbles = np.column_stack((words >> 4, words & 15)).ravel().astype(np.int64)
    ends = np.flatnonzero(nibbles < 8)
    if not len(ends):
        return np.zeros(0, np.int64)
    starts = np.concatenate(([0], ends[:-1] + 1))
    digit = np.arange(ends[-1] + 1) - np.repeat(starts, ends - starts + 1)
    return np.add.reduceat((nibbles[: ends[-1] + 1] & 7) << np.minimum(3 * digit, 33), starts)
