"""Why a path cannot be read as an image or a video, in words, by what is there and by its first bytes."""

from __future__ import annotations

import errno
import re
import stat
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from penguin_models.errors import MediaError

_HEAD_BYTES = 4096
_URL = re.compile(r"(?:.*/)?(https?|ftps?|file|s3|gs|hf|rtsps?|rtmps?|rtp|udp|srt):/+(?=[^/])", re.IGNORECASE)
_DATA_URI = re.compile(r"(?:.*/)?(data:(?:[\w.+-]+/[^,]{,200})?(?:;base64)?,)", re.IGNORECASE)
_STREAMS = ("rt", "udp", "srt")
_MARKUP = rb"(?is)(\xef\xbb\xbf)?\s*<"
_KINDS = (
    (rb"version https://git-lfs", "is a Git LFS pointer, not the file itself; fetch the file: git lfs pull"),
    (rb"[^\n]*annex/objects/", "is a git-annex pointer, not the file itself; fetch the file: git annex get"),
    (_MARKUP + rb"(?:.*<)?(!doctype\s+html|html|head|body)\b", "is a web page; download the file itself"),
    (_MARKUP + rb"(?:.*<)?svg\b", "is an SVG drawing; convert it to PNG"),
    (_MARKUP + rb"\?xml\b", "is an XML document, perhaps an error message of a server; download the file again"),
    (rb"(\xef\xbb\xbf)?#EXTM3U|ffconcat version", "is a playlist; give the video that it names"),
    (rb"%PDF-", "is a PDF document; convert its page to PNG"),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!", "is an archive; unpack it"),
    (rb"\x89MCAP0|SQLite format 3|#ROSBAG", "is a bag; use it as a bag (--bag)"),
)
"""What is taken for an image or a video by mistake: how the file begins, and what to do."""


def url_fault(path: str | Path, kind: str) -> str | None:
    """Returns a sentence if a missing path is in fact a URL or data: URI, perhaps after a folder; else None."""
    if data := _DATA_URI.match(str(path)):
        return f"{kind} {data[1]}... is a data: URI, and only files are read; decode it to a file first"
    found = _URL.match(str(path))
    if found is None:
        return None
    scheme, rest = found[1].lower(), str(path)[found.end() :]  # pathlib leaves one of two slashes
    if scheme == "file":
        return f"{kind} file:///{rest} is a URL; give the path: /{unquote(rest)}"
    remedy = "download it first"
    if scheme.startswith(_STREAMS):
        remedy = "start a camera driver that publishes the stream, and ask a running node"
    return f"{kind} {scheme}://{rest} is a URL, and only files are read; {remedy}"


def check_file(path: str | Path, kind: Literal["image", "video"]) -> bytes:
    """Returns the first bytes of a file that may be an image or a video.

    Raises:
        MediaError: There is no such file, it cannot be read, it is empty, or it is known to be something else.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        head = _head(path) if stat.S_ISREG(mode) else b""
    except FileNotFoundError as err:
        if path.is_symlink() and "annex/objects/" in str(path.readlink()):
            raise MediaError(f"{kind} {path} is not in this clone yet; fetch it: git annex get") from err
        raise MediaError(url_fault(path, kind) or f"{kind} {path} does not exist") from err
    except OSError as err:
        if err.errno == errno.ENAMETOOLONG and (fault := url_fault(path, kind)):
            raise MediaError(fault) from err
        remedy = "; give yourself the right to read it: chmod" if isinstance(err, PermissionError) else ""
        raise MediaError(f"{kind} {path} cannot be read: {err.strerror}{remedy}") from err
    except ValueError as err:  # a zero byte in the name
        raise MediaError(f"{kind} {str(path)!r} cannot be read: {err}") from err
    if stat.S_ISDIR(mode):
        raise MediaError(f"{kind} {path} is a folder; give a file")
    if not stat.S_ISREG(mode):
        raise MediaError(
            f"{kind} {path} is a device or a pipe; for a live camera, start its driver and ask a running node"
        )
    if not head:
        raise MediaError(f"{kind} {path} is empty (0 bytes); copy it again")
    for beginning, fault in _KINDS:
        if re.match(beginning, head):
            raise MediaError(f"{kind} {path} {fault}")
    return head


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)
