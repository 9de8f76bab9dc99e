"""Zstandard, which is in the standard library from Python 3.14."""

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdError, decompress, open
else:
    from backports.zstd import ZstdError, decompress, open

__all__ = ["ZstdError", "decompress", "open"]
