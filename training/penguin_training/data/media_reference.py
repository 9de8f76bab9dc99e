"""Images and clips that a sample refers to: paths, file:// URLs, and images inside the annotation file (data: URIs)."""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from PIL import UnidentifiedImageError

from penguin_models.decoding import MAX_IMAGE_PIXELS, opened
from penguin_models.errors import DataError, MediaError
from penguin_models.image_files import FORMATS
from penguin_models.media import ClipFrame, orientation, to_rgb, turned

_URL = re.compile(r"([a-z][a-z0-9+.\-]*)://", re.IGNORECASE)
_FILE = re.compile(r"file://(?:localhost)?(/[^?#]*).*", re.IGNORECASE | re.DOTALL)
_MAX_NAME_BYTES = 255  # of a file or folder
_DATA = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)


@dataclass(frozen=True)
class MediaReference:
    """An image or a clip that a sample refers to."""

    path: Path  # Its file or folder; only a name for messages if `frames` holds the pixels
    is_clip: bool  # Whether it is a clip
    # Decoded frames of media without a file; an image has one
    frames: tuple[ClipFrame, ...] = field(default=(), compare=False, repr=False)
    # Whether the frames are those that a robot's memory holds: each at a size of its own, at which it is encoded as it
    # is, with times in seconds since the first of them
    held: bool = False
    timed: bool = True  # Whether the time of each held frame is stated before it


def read_reference(value: Any, key: str, root: Path, is_clip: bool) -> MediaReference:
    """Reads what the field `key` says about an image or clip: a path relative to `root`, a file:// URL or a data: URI.

    Raises:
        DataError: It is none of these, for example a URL of a web server, or a data: URI that holds no image.
    """
    if not isinstance(value, str) or not value:
        raise DataError(f"{key} must be a path or a list of paths, not {value!r:.60}")
    checked_unicode(value, key)
    if value[:5].lower() == "data:":
        if is_clip:
            raise DataError(f"{key} is a clip in a data: URI; write it to a file and give its path")
        return _decode_uri(value, key)
    scheme = _URL.match(value)
    path = root / value
    if scheme is not None:
        url = _FILE.fullmatch(value)
        if url is None:
            raise DataError(f"{key} is the URL {value!r:.80}; download it and give its path")
        path = Path(unquote(url[1]))
    if "\0" in str(path) or any(len(os.fsencode(part)) > _MAX_NAME_BYTES for part in path.parts):
        raise DataError(f"{key} is not a path: {value!r:.80}")
    return MediaReference(path, is_clip)


def checked_unicode(text: str, what: str) -> str:
    """Returns the text; JSON can hold halves of a surrogate pair (`\\udc80`), which cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise DataError(f"{what} is not valid Unicode (character {err.start}: {text[err.start]!r}); fix it") from err
    return text


def decode_image(content: bytes, what: str) -> MediaReference:
    """Decodes the content of an image file; raises DataError, which begins with `what`, if it is no image."""
    try:
        with opened(content, what, FORMATS, MAX_IMAGE_PIXELS) as image:
            rgb = turned(to_rgb(image), orientation(image, what))
    except UnidentifiedImageError as err:
        raise DataError(f"{what} cannot be decoded: its bytes are no image") from err
    except MediaError as err:
        raise DataError(str(err)) from err
    return MediaReference(Path(what), False, (ClipFrame(0.0, rgb),))


def _decode_uri(uri: str, key: str) -> MediaReference:
    header = _DATA.match(uri)
    try:
        if header is None:
            raise ValueError("it does not begin with data:image/...;base64,")
        content = base64.b64decode(uri[header.end() :], validate=True)
    except ValueError as err:
        raise DataError(f"{key} is a data: URI that cannot be decoded: {err}") from err
    return replace(decode_image(content, f"{key} is a data: URI that"), path=Path("data: URI"))
