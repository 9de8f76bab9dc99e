"""Converts every incoming image message to RGB.

Works on messages of rclpy and of rosbags alike, and does not import ROS. cv_bridge, if it works (bridge.py), converts
the encodings it handles correctly; raw_images.py converts the others, and all of them without it, to the same values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from penguin_models.decoding import MAX_IMAGE_PIXELS, check_size
from penguin_models.media import warn_once
from penguin_models.types import UInt8Array
from penguin_ros.bridge import bridge
from penguin_ros.compressed_images import compressed_to_rgb
from penguin_ros.raw_images import DEPTH, Mono16Scaling, check_raw, known_encoding, pixel_bytes, raw_to_rgb

_BRIDGED = {
    *("mono8", "yuv422", "yuv422_yuy2"),
    *(f"{channels}{bits}" for channels in ("rgb", "bgr", "rgba", "bgra") for bits in (8, 16)),
    *(f"bayer_{pattern}{bits}" for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)),
}
"""Encodings that cv_bridge converts to RGB in every distribution."""


class Decoding(NamedTuple):
    """How messages are decoded."""

    mono16_scaling: Mono16Scaling = "percentiles"  # see `penguin_ros.raw_images.MONO16_SCALINGS`
    max_pixels: int = MAX_IMAGE_PIXELS  # images with more are refused


DEFAULT_DECODING = Decoding()


def message_to_rgb(message: Any, decoding: Decoding = DEFAULT_DECODING) -> UInt8Array:
    """Converts an Image or CompressedImage message of rclpy or rosbags to uint8 [height, width, 3].

    Raises:
        MediaError: The encoding or format is unknown, the image is too large, its sizes contradict each other, or its
            data are damaged.
    """
    if hasattr(message, "format"):
        return compressed_to_rgb(message.data, message.format, *decoding)
    encoding, height, width, step = known_encoding(message.encoding), message.height, message.width, message.step
    if encoding in DEPTH:
        warn_once(
            f"{encoding} images are depth or another measurement: they are shown as grey, the larger the brighter"
        )
    check_size("the image", width, height, decoding.max_pixels)
    # Checked first: cv_bridge reads past the end of short data.
    check_raw(encoding, height, width, step, len(message.data))
    # cv_bridge fails on the other byte order with NumPy 2, and on rows whose padding is not a whole number of pixels.
    bridged = message.encoding in _BRIDGED and not message.is_bigendian and step % pixel_bytes(encoding) == 0
    rgb = _by_cv_bridge(message) if bridged else None
    if rgb is not None:
        return rgb
    return raw_to_rgb(encoding, height, width, step, message.data, bool(message.is_bigendian), decoding.mono16_scaling)


def _by_cv_bridge(message: Any) -> UInt8Array | None:
    """Returns None if cv_bridge is not installed, does not work, or fails on this image, which is logged once."""
    cv_bridge = bridge()
    if cv_bridge is None:
        return None
    try:
        rgb = np.ascontiguousarray(cv_bridge.imgmsg_to_cv2(message, "rgb8"))
    except Exception as err:  # noqa: BLE001  # its C++ side raises various types
        fault = type(err).__name__
    else:
        if rgb.shape == (message.height, message.width, 3):
            return rgb
        fault = f"it returned the shape {rgb.shape}"
    warn_once(f"cv_bridge cannot convert {message.encoding} images ({fault}), so the package's own conversion is used")
    return None
