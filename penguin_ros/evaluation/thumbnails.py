"""Pictures small enough to be kept with results."""

from __future__ import annotations

import io

from PIL import Image

from penguin_models.types import UInt8Array

_WIDTH, _QUALITY = 640, 80


def thumbnail(rgb: UInt8Array) -> bytes:
    """An image, uint8 [H, W, 3], as a JPEG at most 640 pixels wide."""
    image = Image.fromarray(rgb)
    image.thumbnail((_WIDTH, 4 * _WIDTH))
    file = io.BytesIO()
    image.save(file, "jpeg", quality=_QUALITY)
    return file.getvalue()
