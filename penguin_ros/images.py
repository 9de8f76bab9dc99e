"""Converts every incoming image message to RGB.

Works on messages of rclpy and of rosbags alike, and does not import ROS. cv_bridge, if it works (bridge.py), converts
the encodings it handles correctly; raw_images.py converts the others, and all of them without it, to the same values.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penguin_models.errors import MediaError
from penguin_models.types import UInt8Array
from penguin_ros.bridge import bridge
from penguin_ros.compressed_images import compressed_to_rgb
from penguin_ros.raw_images import Mono16Scaling, check_raw, pixel_bytes, raw_to_rgb

_BRIDGED = {
    *("mono8", "yuv422", "yuv422_yuy2"),
    *(f"{channels}{bits}" for channels in ("rgb", "bgr", "rgba", "bgra") for bits in (8, 16)),
    *(f"bayer_{pattern}{bits}" for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)),
}
"""Encodings that cv_bridge converts to RGB in every distribution."""


def message_to_rgb(message: Any, mono16_scaling: Mono16Scaling = "percentiles") -> UInt8Array:
    """Converts an Image or CompressedImage message of rclpy or rosbags to uint8 [height, width, 3].

    16-bit grey is scaled as `penguin_ros.raw_images.MONO16_SCALINGS` says.

    Raises:
        MediaError: The message is not a colour image, its sizes contradict each other, or its data are damaged.
    """
    if hasattr(message, "format"):
        return compressed_to_rgb(message.data, message.format, mono16_scaling)
    encoding, height, width, step = message.encoding, message.height, message.width, message.step
    # Checked first: cv_bridge reads past the end of short data, and makes pictures of depth.
    check_raw(encoding, height, width, step, len(message.data))
    # cv_bridge fails on the other byte order with NumPy 2, and on rows whose padding is not a whole number of pixels.
    bridged = encoding in _BRIDGED and not message.is_bigendian and step % pixel_bytes(encoding) == 0
    cv_bridge = bridge() if bridged else None
    if cv_bridge is None:
        big_endian = bool(message.is_bigendian)
        return raw_to_rgb(encoding, height, width, step, message.data, big_endian, mono16_scaling)
    try:
        rgb = np.ascontiguousarray(cv_bridge.imgmsg_to_cv2(message, "rgb8"))
    except Exception as err:  # its C++ side raises various types
        raise MediaError(f"cv_bridge cannot convert this {encoding} image: {err}") from err
    if rgb.shape != (height, width, 3):
        raise MediaError(f"cv_bridge returned {rgb.shape} for a {width}x{height} {encoding} image")
    return rgb
