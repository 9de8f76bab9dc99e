"""Decodes the data of a CompressedImage message to RGB: JPEG, PNG, TIFF (what image_transport sends) and WebP."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from penguin_models.decoding import MAX_IMAGE_PIXELS, opened
from penguin_models.errors import MediaError
from penguin_models.media import orientation, to_rgb, turned, warn_once
from penguin_models.types import UInt8Array
from penguin_ros.compressed_depth import compressed_depth, is_compressed_depth
from penguin_ros.raw_images import (
    BAYER_CONVERSIONS,
    DEPTH,
    Mono16Scaling,
    check_mosaic,
    measured_to_mono8,
    mono16_to_mono8,
    to_8_bits,
)

_VIDEO_FORMAT = re.compile(r"[hx]\.?26[345]|hevc|avc|av1|vp[89]|theora|ffmpeg|mpeg-?[124]|mp4", re.IGNORECASE)
_ANNEX_B = (b"\0\0\0\1", b"\0\0\1")
"""How a packet of H.264 or H.265 begins."""
ToMono8 = Callable[[Any, Mono16Scaling], UInt8Array]
_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP")


def compressed_to_rgb(
    data: Any, image_format: str = "", mono16_scaling: Mono16Scaling = "percentiles", max_pixels: int = MAX_IMAGE_PIXELS
) -> UInt8Array:
    """Decodes the data of a `sensor_msgs/CompressedImage` to uint8 [height, width, 3].

    The EXIF orientation is applied, a Bayer mosaic is interpolated, 16-bit grey is scaled (see
    `penguin_ros.raw_images.MONO16_SCALINGS`), depth becomes grey (see `raw_images.measured_to_mono8`), and transparent
    pixels are laid on white, as those of image files are.

    Raises:
        MediaError: The image is video, of another format, larger than `max_pixels`, truncated or damaged.
    """
    # compressed_image_transport writes "<encoding of the raw image>; jpeg compressed <encoding in the JPEG>".
    encoding, _, rest = image_format.lower().partition(";")
    encoding, converted_to = encoding.strip(), rest.partition("compressed")[2].strip()
    is_mosaic = encoding in BAYER_CONVERSIONS and converted_to in ("", encoding)
    data = bytes(data)
    if is_compressed_depth(image_format):
        warn_once(
            f"images of the format {image_format!r:.80} are depth: they are shown as grey, the larger the brighter"
        )
        return _grey_to_rgb(measured_to_mono8(compressed_depth(data, image_format, max_pixels), mono16_scaling))
    what = f"compressed image ({repr(image_format)[1:-1][:80] or 'no format'})"
    try:
        with opened(data, what, _FORMATS, max_pixels) as image:
            if is_mosaic and image.mode.startswith(("L", "I")):
                return _mosaic_to_rgb(np.asarray(image), encoding)
            to_mono8 = measured_to_mono8 if encoding.upper() in DEPTH else mono16_to_mono8
            return turned(_picture_to_rgb(image, to_mono8, mono16_scaling), orientation(image, what))
    except UnidentifiedImageError as err:
        raise MediaError(f"{what} cannot be decoded: {_reason(data, image_format)}") from err


def _mosaic_to_rgb(mosaic: Any, encoding: str) -> UInt8Array:
    check_mosaic(encoding, *mosaic.shape)
    values = mosaic if mosaic.dtype == np.uint8 else mosaic.astype(np.uint16)  # Pillow before 11 has 16 bits as int32
    return to_8_bits(cv2.cvtColor(values, BAYER_CONVERSIONS[encoding]))


def _picture_to_rgb(image: Image.Image, to_mono8: ToMono8, mono16_scaling: Mono16Scaling) -> UInt8Array:
    if image.mode.startswith("I"):
        return _grey_to_rgb(to_mono8(np.asarray(image).astype(np.uint16), mono16_scaling))
    return to_rgb(image)


def _grey_to_rgb(grey: UInt8Array) -> UInt8Array:
    return np.repeat(grey[..., None], 3, axis=-1)


def _reason(data: bytes, image_format: str) -> str:
    if not data:
        return "it is empty (0 bytes)"
    if _VIDEO_FORMAT.search(image_format) or data.startswith(_ANNEX_B):
        return (
            "it is a packet of a video, not an image; use a topic with H.264, H.265, raw or JPEG images, or convert "
            "the video to one with `ros2 run image_transport republish`"
        )
    return (
        f"its {len(data)} bytes, which begin with {data[:8].hex(' ')}, are not JPEG, PNG, TIFF or WebP; publish one of "
        "these"
    )
