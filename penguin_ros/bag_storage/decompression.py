"""Decompresses parts of bags up to a limit, because a few kilobytes can hold many gigabytes."""

from __future__ import annotations

import bz2
from io import BytesIO
from typing import Any

import lz4.frame
import zstandard

MAX_PART_BYTES = 512 << 20
"""Limit of a decompressed chunk or message; an image of 50 megapixels with 16 bits per channel has 300 MB."""
MAX_HELD_BYTES = 1 << 30
"""Limit of the data of a bag that must be in memory at once, because it is not in the order of time."""
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_PIECE_BYTES = 1 << 20


def decompress(data: bytes, compression: str, limit: int = MAX_PART_BYTES) -> bytes:
    """Returns decompressed data; the compression is "zstd", "lz4", "bz2", or empty.

    Raises ValueError, or another error of the library, if it has more bytes than the limit, or is damaged.
    """
    if not compression:
        return data
    parts = []
    with _open(BytesIO(data), compression) as file:
        while part := file.read(_PIECE_BYTES):
            parts.append(part)
            if len(parts) * _PIECE_BYTES > limit + _PIECE_BYTES:
                raise ValueError(f"a part of it has more than {limit} bytes after decompression")
    return b"".join(parts)


def _open(file: BytesIO, compression: str) -> Any:
    if compression == "zstd":
        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    if compression == "lz4":
        return lz4.frame.open(file)
    if compression == "bz2":
        return bz2.open(file)
    raise ValueError(f"its compression is {compression[:40]!r}; zstd, lz4 and bz2 can be read")
