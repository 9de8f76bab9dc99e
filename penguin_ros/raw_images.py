"""Converts raw images of sensor_msgs to RGB: every colour encoding, with padded rows, in both byte orders.

Bayer patterns are interpolated by OpenCV, alpha is dropped, 16 bits are scaled to 8. Depth and other measurements
become grey: the larger, the brighter.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from penguin_models.errors import MediaError
from penguin_models.types import UInt8Array


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
    "yuy2": _Layout(cv2.COLOR_YUV2RGB_YUYV, 2),
    "yvyu": _Layout(cv2.COLOR_YUV2RGB_YVYU, 2),
    # A plane of brightness, one byte per pixel, and below it one or two planes of colour, which 2x2 (or 2x1: nv16, or
    # 1x1: nv24) pixels share.
    "nv12": _Layout(cv2.COLOR_YUV2RGB_NV12, 1),
    "nv21": _Layout(cv2.COLOR_YUV2RGB_NV21, 1),
    **dict.fromkeys(("yuv420", "yuv420p", "i420", "iyuv"), _Layout(cv2.COLOR_YUV2RGB_I420, 1)),
    "yv12": _Layout(cv2.COLOR_YUV2RGB_YV12, 1),
    "nv16": _Layout(None, 1),
    "nv24": _Layout(None, 1),
}
BAYER_CONVERSIONS = {
    # OpenCV names a Bayer pattern by its second row: BG is a sensor whose first row begins with RG.
    f"bayer_{pattern}{bits}": getattr(cv2, f"COLOR_Bayer{code}2RGB")
    for pattern, code in (("rggb", "BG"), ("bggr", "RG"), ("gbrg", "GR"), ("grbg", "GB"))
    for bits in (8, 16)
}
"""OpenCV's conversion to RGB of each Bayer encoding."""
_LAYOUTS |= {name: _Layout(code, 1, int(name[len("bayer_rggb") :]) // 8) for name, code in BAYER_CONVERSIONS.items()}
_TWO_COLOUR_PLANES = ("yuv420", "yuv420p", "i420", "iyuv", "yv12")
_PLANES = {"nv12": 1.5, "nv21": 1.5, "nv16": 2, "nv24": 3, **dict.fromkeys(_TWO_COLOUR_PLANES, 1.5)}
"""Bytes per pixel of the encodings whose brightness and colour are planes of their own."""
_BT601 = 1.164 * np.eye(1, 3).repeat(3, 0) + np.array([[0, 0, 1.596], [0, -0.391, -0.813], [0, 2.018, 0]])
_BT601_FROM_BYTES = np.column_stack((_BT601, _BT601 @ [-16, -128, -128]))  # [RGB, YUV1], as OpenCV's YUV2RGB_NV12
DEPTH = {"16UC1": "u2", "16SC1": "i2", "32SC1": "i4", "32FC1": "f4", "64FC1": "f8"}
"""Encodings of depth and other measurements (temperatures), with NumPy's names of their values."""
_LAYOUTS |= {name: _Layout(cv2.COLOR_GRAY2RGB, 1, int(kind[1])) for name, kind in DEPTH.items()}
Mono16Scaling: TypeAlias = str
"""How 16-bit grey becomes 8-bit grey: one of `MONO16_SCALINGS`."""
MONO16_SCALINGS = ("percentiles", "full_range")
"""percentiles: the range that a picture uses becomes 0 to 255; full_range: 0 to 65535 becomes 0 to 255."""
_PERCENTILES = (0.1, 99.9)
_FEW = 1000
"""Of fewer pixels, one on each side is left out: 0.1 % of them is none."""
_MIN_SENSOR = 64
"""Pixels of the smallest thermal cameras (8x8); smaller images keep all values."""
_MIN_SPAN = 32
"""Of 65535: what spans less is noise."""
_NAMES = {name.lower(): name for name in _LAYOUTS}


def raw_to_rgb(
    encoding: str,
    height: int,
    width: int,
    step: int,
    data: Any,
    is_bigendian: bool = False,
    mono16_scaling: Mono16Scaling = "percentiles",
) -> UInt8Array:
    """Converts the fields of a `sensor_msgs/Image`.

    Args:
        encoding: Name from sensor_msgs/image_encodings.hpp.
        height: Number of rows.
        width: Number of columns.
        step: Bytes per row, padding included.
        data: Buffer of height * step bytes; nv12, nv21 and yuv420 have half as many again, nv16 twice and nv24 three
            times as many.
        is_bigendian: Byte order of 16-bit values.
        mono16_scaling: See `MONO16_SCALINGS`.

    Returns:
        uint8 [height, width, 3], a copy.

    Raises:
        MediaError: The encoding is unknown, or the sizes contradict each other.
    """
    conversion, channels, itemsize = _layout(encoding)
    check_raw(encoding, height, width, step, len(data))
    buffer = np.frombuffer(data, np.uint8)
    if encoding in _PLANES:
        return _planes_to_rgb(encoding, height, width, _plane_step(encoding, height, width, step, len(data)), buffer)
    rows = np.ascontiguousarray(buffer[: step * height].reshape(height, step)[:, : width * pixel_bytes(encoding)])
    kind = DEPTH.get(encoding, f"u{itemsize}")
    values = rows.view(f"{'>' if is_bigendian else '<'}{kind}").astype(kind)
    pixels: NDArray[Any] = values.reshape((height, width, channels) if channels > 1 else (height, width))
    if encoding in DEPTH:
        pixels = measured_to_mono8(pixels, mono16_scaling)
    elif encoding == "mono16":
        pixels = mono16_to_mono8(pixels, mono16_scaling)
    rgb = pixels.copy() if conversion is None else cv2.cvtColor(pixels, conversion)
    return to_8_bits(rgb)


def _planes_to_rgb(encoding: str, height: int, width: int, step: int, buffer: UInt8Array) -> UInt8Array:
    rows = buffer[: round(step * height * _PLANES[encoding])].reshape(-1, step)
    conversion = _LAYOUTS[encoding].conversion
    if encoding in _TWO_COLOUR_PLANES:
        colours = rows[height:].reshape(height, step // 2)[:, : width // 2]  # the rows of one plane, then the other's
        rows = np.concatenate((rows[:height, :width].ravel(), colours.ravel())).reshape(-1, width)
    if conversion is not None:
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(rows[:, :width]), conversion), np.uint8)
    share = 2 if encoding == "nv24" else 1  # bytes of colour per pixel
    colour = rows[height:].reshape(height, share * step)[:, : share * width].reshape(height, -1, 2)
    colour = colour.repeat(width // colour.shape[1], axis=1)
    brightness = np.maximum(rows[:height, :width], 16)  # OpenCV clamps it for the other encodings
    return np.asarray(cv2.transform(np.dstack((brightness, colour)), _BT601_FROM_BYTES), np.uint8)


def to_8_bits(pixels: NDArray[Any]) -> UInt8Array:
    """Scales 16-bit values to 8 bits, 65535 to 255; returns 8-bit values unchanged."""
    return cv2.convertScaleAbs(pixels, alpha=255 / 65535) if pixels.dtype == np.uint16 else pixels


def mono16_to_mono8(grey: NDArray[np.uint16], scaling: Mono16Scaling) -> UInt8Array:
    """Scales 16-bit grey, [height, width], to 8 bits.

    With "percentiles", the values between the percentiles 0.1 and 99.9 become 0 to 255 if they span less than half of
    the scale, as those of thermal, infrared and 12-bit cameras do; a picture without contrast, which spans
    less than 32, is not stretched.
    """
    low, high = _range_of(grey)
    if scaling == "full_range" or high - low < _MIN_SPAN or high - low >= 65535 / 2:
        return to_8_bits(grey)
    return np.clip(np.round((grey - np.float32(low)) * np.float32(255 / (high - low))), 0, 255).astype(np.uint8)


def measured_to_mono8(values: NDArray[Any], scaling: Mono16Scaling = "percentiles") -> UInt8Array:
    """Scales depth or another measurement, [height, width], to 8 bits; a pixel without one (0, NaN, infinity) is black.

    The values between the percentiles 0.1 and 99.9 become 1 to 255. "full_range" concerns 16 bits only, as for mono16.
    """
    if scaling == "full_range" and values.dtype == np.uint16:
        return to_8_bits(values)
    is_measured = np.isfinite(values) & (values != 0)
    if not is_measured.any():
        return np.zeros(values.shape, np.uint8)
    measured = values[is_measured].astype(np.float64)
    low, high = _range_of(measured)
    grey = np.zeros(values.shape, np.uint8)
    share = (measured - low) / (high - low) if high > low else np.full(measured.shape, 0.5)
    grey[is_measured] = np.clip(np.round(1 + 254 * share), 1, 255)
    return grey


def _range_of(values: NDArray[Any]) -> tuple[float, float]:
    """Returns the values that become black and white; of few values, a dead and a hot pixel do not count."""
    if values.size < _FEW:
        ordered = np.sort(values, axis=None)
        left_out = int(values.size >= _MIN_SENSOR)
        return float(ordered[left_out]), float(ordered[-1 - left_out])
    low, high = np.percentile(values, _PERCENTILES).tolist()
    return low, high


def known_encoding(encoding: str) -> str:
    """Returns an encoding in the case of sensor_msgs, which some drivers change; an unknown one as it is."""
    return _NAMES.get(encoding.lower(), encoding)


def pixel_bytes(encoding: str) -> int:
    """Returns the bytes per pixel of a row; raises MediaError if the encoding is unknown."""
    _, channels, itemsize = _layout(encoding)
    return channels * itemsize


def check_raw(encoding: str, height: int, width: int, step: int, data_bytes: int) -> None:
    """Raises MediaError if the fields of a `sensor_msgs/Image` are of no known encoding or contradict each other."""
    if height <= 0 or width <= 0:
        raise MediaError(f"the image is empty: {width}x{height} pixels")
    row_bytes = width * pixel_bytes(encoding)
    if encoding in BAYER_CONVERSIONS:
        check_mosaic(encoding, height, width)
    if _LAYOUTS[encoding].channels == 2 and width % 2:
        raise MediaError(f"a {encoding} image must have an even width, not {width}")
    if _PLANES.get(encoding) == 1.5 and (width % 2 or height % 2):
        raise MediaError(f"a {encoding} image must have an even width and height, not {width}x{height}")
    if encoding == "nv16" and width % 2:
        raise MediaError(f"a {encoding} image must have an even width, not {width}")
    if encoding in _TWO_COLOUR_PLANES and step % 2:
        raise MediaError(f"step {step} of a {encoding} image must be even: rows of colour have half as many bytes")
    if step < row_bytes:
        raise MediaError(f"step {step} is less than the {row_bytes} bytes of a row of {width} {encoding} pixels")
    if encoding in _PLANES:
        _plane_step(encoding, height, width, step, data_bytes)
    elif data_bytes < step * height:
        raise MediaError(f"the image data ends after {data_bytes} of {step * height} bytes ({height} rows of {step})")


def check_mosaic(encoding: str, height: int, width: int) -> None:
    """Raises MediaError if a Bayer image is too small to interpolate; OpenCV would return a black image."""
    if min(height, width) < 3:
        raise MediaError(
            f"a {encoding} image must be at least 3x3 pixels, not {width}x{height}: colours are interpolated"
        )


def _plane_step(encoding: str, height: int, width: int, step: int, data_bytes: int) -> int:
    """Returns the bytes per row of the plane of brightness; raises MediaError if the data are too short."""
    share = _PLANES[encoding]
    if data_bytes >= step * height * share:
        return step
    # depthai_ros counts the plane of colour into the step: all bytes divided by the height.
    if step == width * share and data_bytes >= step * height:
        return width
    raise MediaError(
        f"the image data ends after {data_bytes} of {round(step * height * share)} bytes ({height} rows of {step}, and "
        f"the colours of {encoding})"
    )


def _layout(encoding: str) -> _Layout:
    if encoding not in _LAYOUTS:
        raise MediaError(f"encoding {encoding!r:.80} is not supported; supported are {', '.join(_LAYOUTS)}")
    return _LAYOUTS[encoding]
