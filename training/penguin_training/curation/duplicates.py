"""Finds samples that show the same as an earlier one, by perceptual hashes and mean colours.

Candidates come from faiss's multi-index hashing of the lowest frequencies: four bands of 16 bits, one of which two
pictures must share but for one bit. A candidate is a duplicate if all its views are within a Hamming distance, and
their colours agree as far as the contrast of the picture lets hashes be trusted: those of plain pictures are all alike.
A sample is compared with the samples that are kept, so that copies of copies do not drift away.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

import faiss
import numpy as np

from penguin_models.types import Int64Array, UInt8Array
from penguin_training.curation.inspection import GRID, HASH_BYTES

_LOW_BYTES, _BANDS, _BAND_BITS = 8, 4, 16
_LOW_DISTANCE = 10  # Largest between the low frequencies of candidates
_LEVELS, _CONTRAST_SHARE = 3.0, 2.0  # Colours may differ by this number of levels, and this multiple of the contrast
_QUERIES = 100_000


def find_duplicates(hashes: Sequence[bytes], colours: Sequence[bytes], max_distance: int) -> Int64Array:
    """Returns for each sample the number of the kept sample that it duplicates, or -1 if it is kept itself.

    Args:
        hashes: Hashes of each sample's views, see `Inspected`; samples without any are never duplicates.
        colours: Mean colours of each sample's views.
        max_distance: Largest Hamming distance between the hashes of duplicates, of 256 bits.
    """
    duplicate_of = np.full(len(hashes), -1, np.int64)
    rows = np.array([number for number, views in enumerate(hashes) if views], np.int64)
    if not len(rows):
        return duplicate_of
    # The view in the middle stands for a sample: clips often begin with a black frame.
    low = np.stack([_middle(hashes[row])[:_LOW_BYTES] for row in rows])
    codes, code_of = np.unique(low, axis=0, return_inverse=True)
    repeated = np.bincount(code_of) > 1
    near: dict[int, Int64Array] = {
        code: others for code, others in _neighbours(codes) if len(others) > 1 or repeated[code]
    }
    kept: dict[int, list[int]] = defaultdict(list)  # code -> samples that are kept
    for row, code in zip(rows.tolist(), code_of.tolist(), strict=True):
        if code not in near:
            continue
        candidates = sorted(other for found in near[code].tolist() for other in kept.get(found, ()))
        match = _first_match(row, candidates, hashes, colours, max_distance)
        if match is None:
            kept[code].append(row)
        else:
            duplicate_of[row] = match
    return duplicate_of


def _middle(views: bytes) -> UInt8Array:
    every: UInt8Array = np.frombuffer(views, np.uint8).reshape(-1, HASH_BYTES)
    middle: UInt8Array = every[len(every) // 2]
    return middle


def _neighbours(codes: UInt8Array) -> Iterator[tuple[int, Int64Array]]:
    """Yields each code's number with the numbers of the codes near it, its own included."""
    index = faiss.IndexBinaryMultiHash(8 * _LOW_BYTES, _BANDS, _BAND_BITS)
    index.nflip = 1
    index.add(np.ascontiguousarray(codes))
    for first in range(0, len(codes), _QUERIES):
        ends, _, found = index.range_search(np.ascontiguousarray(codes[first : first + _QUERIES]), _LOW_DISTANCE + 1)
        for number, (start, end) in enumerate(pairwise(ends), first):
            yield number, found[start:end]


def _first_match(
    row: int, candidates: list[int], hashes: Sequence[bytes], colours: Sequence[bytes], max_distance: int
) -> int | None:
    """Returns the first candidate with as many views, all of which are the same as the sample's."""
    same = [other for other in candidates if len(hashes[other]) == len(hashes[row])]
    if not same:
        return None
    others = np.frombuffer(b"".join(hashes[other] for other in same), np.uint8).reshape(len(same), -1, HASH_BYTES)
    own = np.frombuffer(hashes[row], np.uint8).reshape(-1, HASH_BYTES)
    distances = np.bitwise_count(others ^ own).sum(axis=2, dtype=np.int64)  # [candidates, views]
    shape = (-1, GRID * GRID, 3)
    others_rgb = np.frombuffer(b"".join(colours[other] for other in same), np.uint8).reshape(len(same), *shape)
    own_rgb = np.frombuffer(colours[row], np.uint8).reshape(shape).astype(np.float32)
    contrast = np.abs(own_rgb - own_rgb.mean(axis=1, keepdims=True)).mean(axis=(1, 2))
    difference = np.abs(others_rgb - own_rgb).mean(axis=(2, 3))
    agree = (distances <= max_distance) & (difference <= _LEVELS + _CONTRAST_SHARE * contrast)
    matches = np.flatnonzero(agree.all(axis=1))
    return same[matches[0]] if len(matches) else None
