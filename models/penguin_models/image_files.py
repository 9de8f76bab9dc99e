"""Image files of any kind -> RGB as a viewer shows them: upright, 8 bits, on a white ground where transparent.

A density that differs between the axes (JPEG, PNG) is ignored, as viewers do.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from penguin_models.clips import warn_once
from penguin_models.decoding import MAX_IMAGE_PIXELS, opened
from penguin_models.errors import MediaError
from penguin_models.file_checks import check_file
from penguin_models.types import UInt8Array

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
"""Formats of files that are read. Rare ones are left out, and EPS above all, for which Pillow starts Ghostscript."""
_ORIENTATION = 0x0112  # EXIF tag
_BAND_PIXELS = 1_000_000
_BITS_PER_SAMPLE, _SAMPLE_FORMAT, _SAMPLES_PER_PIXEL = 258, 339, 277  # TIFF tags
_SAMPLE_KINDS = {2: "signed integers", 3: "floats"}  # values of the sample format; others are unsigned integers
_INTEGER_RANGES = (0, 255), (32768, 65535)  # lowest maximum of an image, and limit
_FLOAT_RANGES = (0, 1), (128, 255), (32768, 65535)
_CAMERA_RAW = {".dng", ".nef", ".nrw", ".cr2", ".cr3", ".arw", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw"}
_BIG_TIFF = b"II+\0"
_TIFF = (b"II*\0", b"MM\0*", _BIG_TIFF)
_HEIC = re.compile(rb"....ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1|avif|avis)", re.DOTALL)
_VIDEO = re.compile(rb"....ftyp|\x1aE\xdf\xa3|RIFF....AVI |G.{187}G|\x00\x00\x01[\xb3\xba]", re.DOTALL)


def load_image(path: str | Path, max_pixels: int = MAX_IMAGE_PIXELS) -> UInt8Array:
    """Reads an image file with its EXIF orientation applied: uint8 [H, W, 3]. Of an animation, the first frame.

    Raises:
        MediaError: The file is missing, empty, truncated, not an image, or has more than `max_pixels` pixels.
    """
    with open_image(path, max_pixels) as image:
        return turned(to_rgb(image), orientation(image, f"image {path}"))


@contextmanager
def open_image(path: str | Path, max_pixels: int = MAX_IMAGE_PIXELS) -> Iterator[Image.Image]:
    """Opens an image file; raises MediaError as `load_image` does, also while the file is used."""
    head = check_file(path, "image")
    if Path(path).suffix.lower() in _CAMERA_RAW:  # Pillow would open the thumbnail inside
        raise MediaError(f"image {path} is a raw file of a camera; develop it to PNG or JPEG")
    if _HEIC.match(head):
        _register_heif()
    try:
        with opened(Path(path), f"image {path}", FORMATS, max_pixels) as image:
            yield image
    except UnidentifiedImageError as err:
        raise MediaError(f"image {path} {_tiff_kind(path, head) or _unidentified(head)}") from err


def orientation(image: Image.Image, what: str) -> int:
    """Returns the EXIF orientation of an image, from 1 to 8: 1 if it has none, or if it is damaged, which is logged."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception as err:  # noqa: BLE001 - Pillow's parser raises errors of every type; the picture may be intact
        warn_once(f"{what} has damaged EXIF data ({type(err).__name__}) and is shown without rotation")
        return 1
    return int(value) if value in range(1, 9) else 1


def turned(rgb: UInt8Array, orientation: int) -> UInt8Array:
    """Returns pixels turned and mirrored as an EXIF orientation says."""
    if orientation == 1:
        return rgb
    if orientation >= 5:
        rgb = rgb.transpose(1, 0, 2)
    return np.ascontiguousarray(
        rgb[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]
    )


def to_rgb(image: Image.Image) -> UInt8Array:
    """Converts any Pillow image to uint8 [H, W, 3].

    Grey levels of up to 16 bits are scaled by the range of their format. 32-bit integers and floats have none: it is
    0 to 1 (floats only), 0 to 255 or 0 to 65535 if it holds all levels, the highest of them in its upper half (for
    65535, and for 255 in floats), and otherwise their minimum to their maximum. NaN becomes black. Transparent pixels
    are laid on white.

    Raises:
        MediaError: All values are NaN or infinite.
    """
    if image.mode[0] in "IF":
        return np.repeat(_grey(image)[..., None], 3, axis=2)
    if not image.has_transparency_data:
        return _by_bands(image, lambda band: band.convert("RGB"))
    return on_white(image)


def on_white(image: Image.Image) -> UInt8Array:
    """Lays an image with transparency on a white ground: uint8 [H, W, 3].

    A picture of which nothing would be left is returned without its transparency: some cameras fill alpha with 0.
    """
    transparent = image.info.get("transparency")
    if isinstance(transparent, tuple) and max(transparent) > 255:
        # Pillow 13.0 reads 16-bit colours of a PNG as 8 bits, but not the transparent one.
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    *colours, alpha = np.reshape(rgba.getextrema(), (4, 2)).tolist()  # lowest and highest value of each
    if alpha[0] == 255 or (alpha[1] == 0 and any(low < high for low, high in colours)):
        return _by_bands(rgba, lambda band: band.convert("RGB"))
    return _by_bands(
        rgba, lambda band: Image.alpha_composite(Image.new("RGBA", band.size, "white"), band).convert("RGB")
    )


def _by_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> UInt8Array:
    """Converts an image to uint8 [H, W, 3] some rows at a time: Pillow would hold several copies of a large one."""
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb[top : top + rows] = np.asarray(convert(band))
    return rgb


def _grey(image: Image.Image) -> UInt8Array:
    """Scales an image with one channel of more than 8 bits to uint8 [H, W]."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    is_16_bit = image.mode == "I" and image.format in (
        "PNG",
        "PPM",
    )  # Pillow opens 16-bit PGM as 32-bit, before 11 PNG too
    if image.mode.startswith("I;16") or is_16_bit:
        bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
        grey: UInt8Array = (values >> (bits - 8)).astype(np.uint8)
        if isinstance(transparent := image.info.get("transparency"), int):
            grey[values == transparent] = 255
        return grey
    if image.mode == "I" and tags.get(_SAMPLE_FORMAT, (1,))[0] == 1 and image.format == "TIFF":
        values = values.view(np.uint32)
    return _to_8_bits(values)


def _to_8_bits(values: npt.NDArray[Any]) -> UInt8Array:
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise MediaError("all its values are NaN or infinite")
    low, high = float(finite.min()), float(finite.max())
    for lowest, limit in _FLOAT_RANGES if values.dtype.kind == "f" else _INTEGER_RANGES:
        if low >= 0 and lowest <= high <= limit:
            low, high = 0, limit
            break
    grey = np.empty(values.shape, np.uint8)
    for row, levels in zip(grey, values, strict=True):  # the whole image as 64-bit floats would be large
        scaled = (np.clip(levels.astype(np.float64), low, high) - low) * (255 / max(high - low, 1e-300))
        row[:] = np.nan_to_num(scaled).round()
    return grey


def _register_heif() -> None:
    """Lets Pillow read HEIC by the package pillow-heif, if it is installed."""
    try:
        plugin = importlib.import_module("pillow_heif")
    except ImportError:
        return
    plugin.register_heif_opener()


def _tiff_kind(path: str | Path, head: bytes) -> str | None:
    """Returns the kind of a TIFF that Pillow cannot read, and what to do; None if the file is no TIFF."""
    if not head.startswith(_TIFF):
        return None
    try:
        tags = ImageFileDirectory_v2(head[: 16 if head.startswith(_BIG_TIFF) else 8])
        with Path(path).open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file.seek(tags.next)
            tags.load(file)
        bits = tags[_BITS_PER_SAMPLE][0]
    except Exception:  # noqa: BLE001 - Pillow's parser raises errors of every type
        return None  # damaged
    kind = _SAMPLE_KINDS.get(tags.get(_SAMPLE_FORMAT, (1,))[0], "unsigned integers")
    channels = tags.get(_SAMPLES_PER_PIXEL, 1)
    values = f"{channels} channel{'s' * (channels != 1)} of {bits}-bit {kind}"
    return f"is a TIFF with {values}, which Pillow cannot read; convert it to PNG with 8 or 16 bits per channel"


def _unidentified(head: bytes) -> str:
    """Returns what a file is that Pillow cannot read, and what to do."""
    if found := _HEIC.match(head):
        if found[1].startswith(b"avi"):
            return "is AVIF, which this Pillow cannot read: pip install --upgrade pillow, or pip install pillow-heif"
        return "is HEIC (HEIF), which needs a plugin: pip install pillow-heif"
    if _VIDEO.match(head):
        return "is a video; use it as a video (--video)"
    return (
        f"is not an image of a format that is read ({', '.join(FORMATS)}), or it is damaged; convert it to PNG or JPEG"
    )
