"""Converts depth messages to metres: raw 16UC1 and 32FC1, and compressedDepth as PNG or RVL. Does not import ROS."""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from penguin_models.decoding import MAX_IMAGE_PIXELS, check_size
from penguin_models.errors import MediaError
from penguin_models.types import Float32Array

_RAW = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4", "64FC1": "f8"}
_MILLIMETRES = 0.001
_HEADER = struct.Struct("<iff")  # of compressed_depth_image_transport: format, and how 16 bits code the inverse depth
_RVL_SIZE = struct.Struct("<ii")
_PNG = b"\x89PNG"
_NO_VALUE = 65535  # what some cameras send beyond their range


def message_to_depth(message: Any) -> Float32Array:
    """Converts an Image or CompressedImage message of rclpy or rosbags to float32 [height, width] in metres.

    Pixels without a value (0, NaN, infinite, negative, 65535 mm) are NaN.

    Raises:
        MediaError: The message is not a depth image, its sizes contradict each other, or its data are damaged.
    """
    depth = _compressed(bytes(message.data), message.format) if hasattr(message, "format") else _raw(message)
    if depth.dtype.kind == "u":
        depth = np.where(depth == _NO_VALUE, 0, depth * np.float32(_MILLIMETRES))
    with np.errstate(invalid="ignore"):
        return np.where((depth > 0) & np.isfinite(depth), depth, np.nan).astype(np.float32)


def _raw(message: Any) -> NDArray[Any]:
    encoding, height, width, step = message.encoding, message.height, message.width, message.step
    if encoding not in _RAW:
        raise MediaError(f"encoding {encoding!r:.40} is not depth; supported are {', '.join(_RAW)} and compressedDepth")
    check_size("the depth image", width, height, MAX_IMAGE_PIXELS)
    dtype = np.dtype((">" if message.is_bigendian else "<") + _RAW[encoding])
    if step < width * dtype.itemsize or len(message.data) < step * height:
        raise MediaError(
            f"a depth image of {width}x{height} {encoding} pixels has {len(message.data)} bytes in rows of {step}; "
            f"its rows need {width * dtype.itemsize}"
        )
    rows = np.frombuffer(message.data, np.uint8)[: step * height].reshape(height, step)
    pixels = np.ascontiguousarray(rows[:, : width * dtype.itemsize]).view(dtype)
    return pixels.astype(dtype.newbyteorder("="))


def _compressed(data: bytes, image_format: str) -> NDArray[Any]:
    """Decodes what compressed_depth_image_transport sends, or a 16-bit PNG without its header."""
    is_png = data.startswith(_PNG)
    if not is_png and len(data) <= _HEADER.size:
        raise MediaError(f"the compressed depth image ({image_format!r:.40}) has {len(data)} bytes: it is truncated")
    _, scale, offset = (0, 0.0, 0.0) if is_png else _HEADER.unpack_from(data)
    body = data if is_png else data[_HEADER.size :]
    coded = _read_png(body) if body.startswith(_PNG) else _read_rvl(body, image_format)
    if not image_format.strip().upper().startswith("32FC1"):
        return coded
    if not (np.isfinite([scale, offset]).all() and scale > 0):
        raise MediaError(f"the compressed depth image codes depth with the values {scale:g} and {offset:g}, not valid")
    with np.errstate(divide="ignore"):
        inverse = np.float32(scale) / (coded - np.float32(offset))
    return np.where(coded == 0, np.float32(0), inverse)


def _read_png(body: bytes) -> NDArray[np.uint16]:
    if len(body) < 24:
        raise MediaError(f"the PNG of a compressed depth image has {len(body)} bytes: it is truncated")
    width, height = struct.unpack(">II", body[16:24])
    check_size("the depth image", width, height, MAX_IMAGE_PIXELS)
    try:
        coded = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        coded = None
    if coded is None or coded.dtype != np.uint16 or coded.ndim != 2:
        raise MediaError("the PNG of a compressed depth image is damaged, or not grey with 16 bits")
    return np.asarray(coded, np.uint16)


def _read_rvl(body: bytes, image_format: str) -> NDArray[np.uint16]:
    """Decodes RVL (Wilson, "Fast Lossless Depth Image Compression", 2017), with its size before it."""
    if "rvl" not in image_format.lower() or len(body) < _RVL_SIZE.size:
        raise MediaError(
            f"the compressed depth image ({image_format!r:.40}) begins with {body[:4].hex(' ')}: it is neither PNG nor "
            "RVL"
        )
    width, height = _RVL_SIZE.unpack_from(body)
    check_size("the depth image", width, height, MAX_IMAGE_PIXELS)
    damaged = MediaError(f"the RVL data of a depth image of {width}x{height} pixels are damaged or truncated")
    numbers = _rvl_numbers(body[_RVL_SIZE.size :])
    depth, position, at = np.zeros(width * height, np.int64), 0, 0
    deltas, targets = [], []
    while position < depth.size:  # a run of pixels without a value, then a run with
        if at + 2 > len(numbers):
            raise damaged
        empty, filled = int(numbers[at]), int(numbers[at + 1])
        at, position = at + 2, position + empty
        if at + filled > len(numbers) or position + filled > depth.size or not empty + filled:
            raise damaged
        deltas.append(numbers[at : at + filled])
        targets.append(np.arange(position, position + filled))
        at, position = at + filled, position + filled
    coded = np.concatenate(deltas)
    depth[np.concatenate(targets)] = np.cumsum((coded >> 1) ^ -(coded & 1))  # the differences are zigzag-coded
    return depth.astype(np.uint16).reshape(height, width)


def _rvl_numbers(data: bytes) -> NDArray[np.int64]:
    """Returns the numbers of an RVL stream: 3 bits per nibble, the lowest first; the fourth says whether more follow.

    Nibbles fill words of 32 bits from the highest to the lowest.
    """
    words = np.frombuffer(data[: len(data) // 4 * 4], "<u4")
    nibbles = ((words[:, None] >> np.arange(28, -1, -4, dtype=np.uint32)) & 15).astype(np.int64).ravel()
    ends = np.flatnonzero(nibbles < 8)
    if not len(ends):
        return ends
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(ends[-1] + 1) - np.repeat(starts, ends - starts + 1)
    return np.add.reduceat((nibbles[: ends[-1] + 1] & 7) << (3 * np.minimum(place, 15)), starts)
