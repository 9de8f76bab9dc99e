"""Converts depth messages to metres: raw 16UC1 and 32FC1, and compressedDepth as PNG or RVL. Does not import ROS."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penguin_models.decoding import MAX_IMAGE_PIXELS, check_size
from penguin_models.errors import MediaError
from penguin_models.types import Float32Array
from penguin_ros.compressed_depth import compressed_depth

_RAW = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4", "64FC1": "f8"}
_MILLIMETRES = 0.001
_NO_VALUE = 65535  # what some cameras send beyond their range


def message_to_depth(message: Any) -> Float32Array:
    """Converts an Image or CompressedImage message of rclpy or rosbags to float32 [height, width] in metres.

    Pixels without a value (0, NaN, infinite, negative, 65535 mm) are NaN.

    Raises:
        MediaError: The message is not a depth image, its sizes contradict each other, or its data are damaged.
    """
    depth = compressed_depth(bytes(message.data), message.format) if hasattr(message, "format") else _raw(message)
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
