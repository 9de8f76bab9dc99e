"""Converts every incoming image message to RGB: raw encodings of sensor_msgs and compressed images.

Works on messages of rclpy and of rosbags alike, and does not import ROS. cv_bridge, if it works (bridge.py), converts
the encodings it handles correctly; this module converts the others, and all of them without it, to the same values:
Bayer patterns are interpolated by OpenCV, alpha is dropped, then 16 bits are scaled to 8. Depth is refused.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from penguin_models.errors import MediaError
from penguin_models.media import DECODING_ERRORS, to_rgb
from penguin_models.types import UInt8Array
from penguin_ros.bridge import bridge


class _Layout(NamedTuple):
    """How an encoding stores a pixel: OpenCV's conversion to RGB, values per pixel, bytes per value."""

    conversion: int | None
    channels: int
    itemsize: int = 1


_LAYOUTS = {
    "rgb8": _Layout(None, 3),
    "bgr8": _Layout(cv2.COLOR_BGR2RGB, 3),
    "8UC3": _Layout(cv2.COLOR_BGR2RGB, 3),
    "rgba8": _Layout(cv2.COLOR_RGBA2RGB, 4),
    "bgra8": _Layout(cv2.COLOR_BGRA2RGB, 4),
    "8UC4": _Layout(cv2.COLOR_BGRA2RGB, 4),
    "mono8": _Layout(cv2.COLOR_GRAY2RGB, 1),
    "8UC1": _Layout(cv2.COLOR_GRAY2RGB, 1),
    "rgb16": _Layout(None, 3, 2),
    "bgr16": _Layout(cv2.COLOR_BGR2RGB, 3, 2),
    "rgba16": _Layout(cv2.COLOR_RGBA2RGB, 4, 2),
    "bgra16": _Layout(cv2.COLOR_BGRA2RGB, 4, 2),
    "mono16": _Layout(cv2.COLOR_GRAY2RGB, 1, 2),
    # Two bytes per pixel: two neighbours share their colour.
    "yuv422": _Layout(cv2.COLOR_YUV2RGB_UYVY, 2),
    "uyvy": _Layout(cv2.COLOR_YUV2RGB_UYVY, 2),
    "yuv422_yuy2": _Layout(cv2.COLOR_YUV2RGB_YUYV, 2),
    "yuyv": _Layout(cv2.COLOR_YUV2RGB_YUYV, 2),
}
# OpenCV names a Bayer pattern by its second row: BG is a sensor whose first row begins with RG.
for _pattern, _code in (("rggb", "BG"), ("bggr", "RG"), ("gbrg", "GR"), ("grbg", "GB")):
    for _bits in (8, 16):
        _LAYOUTS[f"bayer_{_pattern}{_bits}"] = _Layout(getattr(cv2, f"COLOR_Bayer{_code}2RGB"), 1, _bits // 8)
_SEMI_PLANAR = ("nv21", "nv24")
_DEPTH = ("16UC1", "16SC1", "32SC1", "32FC1", "64FC1")
_BRIDGED = {
    *("mono8", "mono16", "yuv422", "yuv422_yuy2"),
    *(f"{channels}{bits}" for channels in ("rgb", "bgr", "rgba", "bgra") for bits in (8, 16)),
    *(f"bayer_{pattern}{bits}" for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)),
}
"""Encodings that cv_bridge converts to RGB in every distribution."""


def message_to_rgb(message: Any) -> UInt8Array:
    """Converts an Image or CompressedImage message of rclpy or rosbags to uint8 [height, width, 3].

    Raises:
        MediaError: The message is not a colour image, its sizes contradict each other, or its data are damaged.
    """
    if hasattr(message, "format"):
        return compressed_to_rgb(message.data, message.format)
    encoding, height, width, step = message.encoding, message.height, message.width, message.step
    cv_bridge = bridge()
    if cv_bridge is None:
        return raw_to_rgb(encoding, height, width, step, message.data, bool(message.is_bigendian))
    # Checked first: cv_bridge reads past the end of short data, and makes pictures of depth.
    check_raw(encoding, height, width, step, len(message.data))
    # cv_bridge fails on the other byte order with NumPy 2, and on rows whose padding is not a whole number of pixels.
    if encoding not in _BRIDGED or message.is_bigendian or step % pixel_bytes(encoding):
        return raw_to_rgb(encoding, height, width, step, message.data, bool(message.is_bigendian))
    try:
        rgb = np.ascontiguousarray(cv_bridge.imgmsg_to_cv2(message, "rgb8"))
    except Exception as err:  # its C++ side raises various types
        raise MediaError(f"cv_bridge cannot convert this {encoding} image: {err}") from err
    if rgb.shape != (height, width, 3):
        raise MediaError(f"cv_bridge returned {rgb.shape} for a {width}x{height} {encoding} image")
    return rgb


def raw_to_rgb(encoding: str, height: int, width: int, step: int, data: Any, is_bigendian: bool = False) -> UInt8Array:
    """Converts the fields of a `sensor_msgs/Image`.

    Args:
        encoding: Name from sensor_msgs/image_encodings.hpp.
        height: Number of rows.
        width: Number of columns.
        step: Bytes per row, padding included.
        data: Buffer of height * step bytes.
        is_bigendian: Byte order of 16-bit values.

    Returns:
        uint8 [height, width, 3], a copy.

    Raises:
        MediaError: The encoding is not a colour image, or the sizes contradict each other.
    """
    conversion, channels, itemsize = _layout(encoding)
    check_raw(encoding, height, width, step, len(data))
    buffer = np.frombuffer(data, np.uint8)
    rows = np.ascontiguousarray(buffer[: step * height].reshape(height, step)[:, : width * pixel_bytes(encoding)])
    if itemsize == 2:
        rows = rows.view(">u2" if is_bigendian else "<u2").astype(np.uint16)
    pixels = rows.reshape((height, width, channels) if channels > 1 else (height, width))
    rgb = pixels.copy() if conversion is None else cv2.cvtColor(pixels, conversion)
    return cv2.convertScaleAbs(rgb, alpha=255 / 65535) if itemsize == 2 else rgb


def pixel_bytes(encoding: str) -> int:
    """Returns the bytes per pixel; raises MediaError if the encoding is not a colour image."""
    _, channels, itemsize = _layout(encoding)
    return channels * itemsize


def check_raw(encoding: str, height: int, width: int, step: int, data_bytes: int) -> None:
    """Raises MediaError if the fields of a `sensor_msgs/Image` are not a colour image or contradict each other."""
    row_bytes = width * pixel_bytes(encoding)
    if height <= 0 or width <= 0:
        raise MediaError(f"the image is empty: {width}x{height} pixels")
    if encoding.startswith("bayer_") and min(height, width) < 3:
        raise MediaError(
            f"a {encoding} image must be at least 3x3 pixels, not {width}x{height}: colours are interpolated"
        )
    if _LAYOUTS[encoding].channels == 2 and width % 2:
        raise MediaError(f"a {encoding} image must have an even width, not {width}")
    if step < row_bytes:
        raise MediaError(f"step {step} is less than the {row_bytes} bytes of a row of {width} {encoding} pixels")
    if data_bytes < step * height:
        raise MediaError(f"the image data ends after {data_bytes} of {step * height} bytes ({height} rows of {step})")


def compressed_to_rgb(data: Any, image_format: str = "") -> UInt8Array:
    """Decodes the data of a `sensor_msgs/CompressedImage` (JPEG, PNG, WebP, ...) to uint8 [H, W, 3].

    Raises:
        MediaError: The image is depth, truncated or damaged.
    """
    if "compressedDepth" in image_format or image_format.split(";")[0].strip() in _DEPTH:
        raise MediaError(f"format {image_format!r} is a depth image; subscribe to a colour topic")
    try:
        with Image.open(io.BytesIO(bytes(data))) as image:
            return to_rgb(image)
    except (UnidentifiedImageError, Image.DecompressionBombError, *DECODING_ERRORS) as err:
        raise MediaError(f"compressed image ({image_format or 'no format'}) cannot be decoded: {err}") from err


def _layout(encoding: str) -> _Layout:
    if encoding in _DEPTH:
        raise MediaError(f"encoding {encoding} is depth or a measurement, not a colour image; use a colour topic")
    if encoding in _SEMI_PLANAR:
        raise MediaError(
            f"encoding {encoding} is not supported, because camera drivers use this name for different layouts; "
            "set the driver to rgb8, bgr8 or yuv422_yuy2"
        )
    if encoding not in _LAYOUTS:
        raise MediaError(f"encoding {encoding!r} is not supported; supported are {', '.join(_LAYOUTS)}")
    return _LAYOUTS[encoding]
