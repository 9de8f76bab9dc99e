"""Boxes and labels drawn into an image."""

from __future__ import annotations

import colorsys
import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from penguin_models.atomic_write import atomic_write
from penguin_models.errors import MediaError
from penguin_models.grounding import GroundedObject
from penguin_models.types import Size, UInt8Array

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""Formats of overlays by file extension."""


def draw_objects(rgb: UInt8Array, objects: Sequence[GroundedObject]) -> UInt8Array:
    """Returns a copy with a box and a label for each object; a label has the same colour in every image."""
    image = Image.fromarray(rgb)
    draw = ImageDraw.Draw(image)
    size = Size(*rgb.shape[:2])
    unit = max(1, min(size) // 240)
    font = ImageFont.load_default(size=max(10, 8 * unit))
    for item in objects:
        colour = label_colour(item.label)
        x1, y1, x2, y2 = item.box.to_pixels(size)
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=2 * unit)
        left, top, right, bottom = draw.textbbox((0, 0), item.label, font=font)
        height, width = bottom - top + 2 * unit, right - left + 2 * unit
        x, y = min(x1, max(0, size.width - width)), y1 - height if y1 >= height else y1
        draw.rectangle((x, y, x + width, y + height), fill=colour)
        draw.text((x + unit - left, y + unit - top), item.label, fill=(0, 0, 0), font=font)
    return np.asarray(image)


def label_colour(label: str) -> tuple[int, int, int]:
    """Returns a bright colour that depends on the label alone."""
    hue = zlib.crc32(label.lower().encode()) % 360 / 360
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.6, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def check_writable(path: Path) -> None:
    """Raises MediaError if an overlay cannot be written; checked before the answer is generated."""
    if not path.absolute().parent.is_dir():
        raise MediaError(f"overlay {path} cannot be written: there is no folder {path.parent}")
    if path.suffix.lower() not in _FORMATS:
        raise MediaError(f"overlay {path} cannot be written: name it .png, .jpg or .webp")


def save_overlay(path: Path, rgb: UInt8Array, objects: Sequence[GroundedObject]) -> None:
    """Writes the image with its objects; the file extension chooses the format.

    Raises:
        MediaError: The format cannot hold the image, as WebP cannot hold more than 16,383 pixels per side.
        WriteError: The file cannot be written; an older one is unchanged.
    """
    check_writable(path)
    content = io.BytesIO()
    try:
        Image.fromarray(draw_objects(rgb, objects)).save(content, _FORMATS[path.suffix.lower()])
    except (OSError, ValueError) as err:
        raise MediaError(f"overlay {path} cannot be written: {err}") from err
    with atomic_write(path, "wb") as file:
        file.write(content.getvalue())
