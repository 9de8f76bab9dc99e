"""Small image files of every kind, for fuzz tests."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, features

_MODES = {
    "RGB": ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF"),
    "RGBA": ("PNG", "WEBP", "TIFF", "AVIF", "GIF"),
    "L": ("JPEG", "PNG", "TIFF", "PPM", "JPEG2000"),
    "P": ("PNG", "GIF", "TIFF"),
    "I;16": ("PNG", "TIFF"),
    "F": ("TIFF",),
    "CMYK": ("JPEG",),
}


def small_images() -> list[bytes]:
    """Returns the content of small image files: of every mode and format, with EXIF data and without."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    exif.get_ifd(0x8769)[0x9003] = "2026:01:01 00:00:00"
    levels = np.random.default_rng(0).integers(0, 256, (8, 12, 4), np.uint8)
    contents = [
        b"SPIDER".ljust(1024, b"\0"),
        struct.pack(">256f", *[1.0] * 256),
        b"Image type: L*\r\nImage size (x*y): 4*4\r\n".ljust(511, b"\0") + b"\x1a" + bytes(16),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    ]
    for mode, kinds in _MODES.items():
        if mode == "I;16":
            image = Image.fromarray(levels[..., 0].astype(np.uint16) * 257)
        else:
            image = Image.fromarray(levels).convert("RGB" if mode in ("CMYK", "F") else mode).convert(mode)
        for kind in kinds:
            if features.check({"AVIF": "avif", "JPEG2000": "jpg_2000"}.get(kind, "zlib")):
                for options in ({"exif": exif}, {"progressive": True, "compression": "tiff_lzw"}):
                    file = io.BytesIO()
                    image.save(file, kind, **options)
                    contents.append(file.getvalue())
    return contents
