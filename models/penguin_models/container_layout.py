"""Where files begin that were joined into one byte by byte, and where the last of them should end. Decodes nothing.

ffmpeg reads joined transport and program streams as one, but of joined MP4 files only the first, and of Matroska files
the first two.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

_EBML, _SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")
_UNKNOWN_RIFF = (0, 0xFFFFFFFF)  # sizes of files that were written without going back to the header
_Element = tuple[bytes, int, int]  # kind, and its first byte and the one after its last


class Layout(NamedTuple):
    """The bytes of the files joined into one, and whether the last breaks off before the end that it announces."""

    parts: list[tuple[int, int]]
    breaks_off: bool


def read_layout(path: Path) -> Layout:
    """Reads the layout of a video file; one of an unknown format, or of one that ffmpeg reads as a whole, has one part.

    It is known whether Matroska, WebM and AVI files break off.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head.startswith(_EBML):
            starts, end = _starts(_ebml_elements(file, size), _EBML, _SEGMENT)
        elif head.startswith(b"RIFF") and head[8:] == b"AVI ":
            starts, end = _starts(_riff_chunks(file, size), b"AVI ", b"AVI ")
        elif head[4:8] == b"ftyp":
            starts, end = _starts(_mp4_boxes(file, size), b"ftyp", b"moov")[0], 0
        else:
            starts, end = [0], 0
    return Layout(list(zip(starts, [*starts[1:], size], strict=True)), end > size)


def _starts(elements: Iterator[_Element], first: bytes, content: bytes) -> tuple[list[int], int]:
    """Returns where files begin, each with its first element and then content, and the end of the last element."""
    starts, end, has_content = [0], 0, False
    for kind, start, stop in elements:
        if kind == first and has_content:
            starts.append(start)
            has_content = False
        has_content = has_content or kind == content
        end = stop
    return starts, end


def _ebml_elements(file: BinaryIO, size: int) -> Iterator[_Element]:
    """Yields the elements of the highest level (RFC 8794) up to one of unknown length."""
    at = 0
    while at + 12 <= size:
        file.seek(at)
        head = file.read(12)
        size_at = 9 - head[0].bit_length()
        length = 9 - head[size_at].bit_length() if size_at <= 4 else 9
        if length > 8 or size_at + length > 12:
            return  # not an element
        unknown = (1 << 7 * length) - 1
        content = int.from_bytes(head[size_at : size_at + length], "big") & unknown
        if content == unknown:
            return
        end = at + size_at + length + content
        yield head[:size_at], at, end
        at = end


def _riff_chunks(file: BinaryIO, size: int) -> Iterator[_Element]:
    """Yields the chunks of the highest level of an AVI, which has a new one for each gigabyte."""
    at = 0
    while at + 12 <= size:
        file.seek(at)
        head = file.read(12)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF" or length in _UNKNOWN_RIFF:
            return
        end = at + 8 + length + length % 2
        yield head[8:], at, end
        at = end


def _mp4_boxes(file: BinaryIO, size: int) -> Iterator[_Element]:
    """Yields the boxes of the highest level (ISO/IEC 14496-12)."""
    at = 0
    while at + 16 <= size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length < 8:
            return  # the last box, which lasts to the end
        yield head[4:8], at, at + length
        at += length
