"""Where files begin that were joined into one byte by byte, and where the last of them should end. Decodes nothing.

ffmpeg reads joined transport and program streams as one, but of joined MP4 files only the first, and of Matroska files
the first two.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

_EBML, _SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")
_HEADERS = (
    re.compile(rb"FLV\x01[\0\x01\x04\x05]\0{3}\x09\0{4}"),  # with size 0 of the tag before the first
    re.compile(rb"nut/multimedia container\0NM\x7aV\x1f_\x04\xad"),
    re.compile(bytes.fromhex("3026b275 8e66cf11 a6d900aa 0062ce6c")),  # ASF (WMV)
    re.compile(rb"DKIF\0\0\x20\0"),  # IVF
    re.compile(rb"YUV4MPEG2 W\d"),
    re.compile(rb"\.RMF\0\0\0[\x10\x12]\0[\0\x01]"),  # RealMedia
)
"""How files begin of which ffmpeg reads only the first; long enough that no other content looks like it."""
_OGG = re.compile(rb"OggS\0(.)", re.DOTALL)  # a page and its flags (RFC 3533)
_OGG_FIRST = 2  # flag of the first page of a stream
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
        head = file.read(64)
        if head.startswith(_EBML):
            starts, end = _starts(_ebml_elements(file, size), _EBML, _SEGMENT)
        elif head.startswith(b"RIFF") and head[8:12] == b"AVI ":
            starts, end = _starts(_riff_chunks(file, size), b"AVI ", b"AVI ")
        elif head[4:8] == b"ftyp":
            starts, end = _starts(_mp4_boxes(file, size), b"ftyp", b"moov")[0], 0
        else:
            starts, end = _marked_starts(file, head), 0
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


def _marked_starts(file: BinaryIO, head: bytes) -> list[int]:
    """Returns where files begin whose headers cannot be mistaken, and 0 for files of other formats."""
    mark = next((mark for mark in (*_HEADERS, _OGG) if mark.match(head)), None)
    if mark is None:
        return [0]
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if mark is not _OGG:
            return [found.start() for found in mark.finditer(content)]
        pages = [(page.start(), page[1][0] & _OGG_FIRST) for page in mark.finditer(content)]
    return [0, *(start for (_, before), (start, first) in pairwise(pages) if first and not before)]


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
