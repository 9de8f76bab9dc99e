"""Images small enough to be stored with results."""

from __future__ import annotations

import io

from PIL import Image

from penguin_models.types import UInt8Array

_WIDTH_PX, _QUALITY = 640, 80


def thumbnail(rgb: UInt8Array) -> bytes:
    """Returns an RGB image, uint8 [H, W, 3], as JPEG at most 640 pixels wide."""
    image = Image.fromarray(rgb)
    image.thumbnail((_WIDTH_PX, 4 * _WIDTH_PX))
    file = io.BytesIO()
    image.save(file, "jpeg", quality=_QUALITY)
    return file.getvalue()
