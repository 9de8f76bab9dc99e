"""Opens image data: only formats that are allowed, and only up to a number of pixels, checked before decoding.

A file of a few kilobytes can hold a picture of gigabytes, and Pillow starts Ghostscript for PostScript (EPS).
"""

from __future__ import annotations

import ctypes
import io
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from penguin_models.errors import MediaError

MAX_IMAGE_PIXELS = 50_000_000
"""Maximum number of pixels of an image or a frame, unless the caller allows more."""
MAX_SIDE = 65_535
"""Maximum width and height: the largest of a JPEG. Patches enlarge a narrower image, in proportion to this side."""
_MAX_SCANS = 200  # of a progressive JPEG; encoders write about 10, and each costs a pass over the whole picture
_TILE_SIZE = 322, 323  # TIFF tags
_LARGE = 10_000_000
_START_OF_SCAN = b"\xff\xda"
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_MAX_REASON = 200


def check_size(what: str, width: int, height: int, max_pixels: int) -> None:
    """Raises MediaError, whose subject is `what`, if an image is empty or too large to be decoded."""
    if width < 1 or height < 1:
        raise MediaError(f"{what} is empty: {width}x{height} pixels")
    if width * height > max_pixels:
        raise MediaError(
            f"{what} has {width}x{height} = {width * height} pixels, the limit is {max_pixels}; scale it down, or "
            "raise max_image_pixels"
        )
    if max(width, height) > MAX_SIDE:
        raise MediaError(
            f"{what} has {width}x{height} pixels, the limit of a side is {MAX_SIDE}; scale it down or cut it"
        )


@contextmanager
def opened(source: Path | bytes, what: str, formats: Sequence[str], max_pixels: int) -> Iterator[Image.Image]:
    """Opens a file or its content as an image that may be decoded.

    Args:
        source: The file, or its bytes.
        what: Subject of error messages.
        formats: Pillow's names of the formats that are allowed.
        max_pixels: Maximum number of pixels.

    Raises:
        UnidentifiedImageError: The data are not of these formats.
        MediaError: The image is too large, or anything is raised while it is opened, decoded or converted: Pillow's
            decoders raise errors of every type for damaged data.
    """
    if max_pixels > (Image.MAX_IMAGE_PIXELS or max_pixels):
        Image.MAX_IMAGE_PIXELS = max_pixels  # Pillow's own limit for a process: it warns above it, fails at twice it
    Image.init()
    known = [name for name in formats if name in Image.OPEN]  # Pillow may have been built without a codec
    image: Image.Image | None = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damage; what matters becomes an error
            with Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=known) as image:
                check_size("it", *image.size, max_pixels)
                if isinstance(image, TiffImageFile):  # a tile is decoded as a whole, and may be larger than the image
                    width, height = (image.tag_v2.get(tag, 1) for tag in _TILE_SIZE)
                    check_size("its tile", width, height, max_pixels)
                if image.info.get("progressive"):
                    _check_scans(source)
                yield image
    except UnidentifiedImageError:
        raise
    except Image.DecompressionBombError as err:
        count = re.search(r"\d+", str(err))
        has = f"it has {count[0] if count else 'too many'} pixels, the limit is {max_pixels}; scale it down"
        raise MediaError(f"{what} cannot be decoded: {has}, or raise max_image_pixels") from err
    except Exception as err:
        raise MediaError(f"{what} cannot be decoded: {_reason(err)}") from err
    finally:
        if image is not None:
            image.close()
            return_memory(image.width * image.height)


def _check_scans(source: Path | bytes) -> None:
    data = source.read_bytes() if isinstance(source, Path) else source
    if (scans := data.count(_START_OF_SCAN)) > _MAX_SCANS:
        raise MediaError(f"it is a progressive JPEG of {scans} scans, the limit is {_MAX_SCANS}; save it again")


def _reason(error: Exception) -> str:
    return _ADDRESS.sub("", " ".join(str(error).split()))[:_MAX_REASON] or type(error).__name__


def return_memory(pixels: int) -> None:
    """Gives freed memory back to the system after a large image, of which glibc would keep hundreds of megabytes."""
    if pixels > _LARGE and sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
        if trim is not None:
            trim(0)
