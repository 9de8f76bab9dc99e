"""Farthest-point selection: a few samples of a cluster that cover it."""

from __future__ import annotations

import numpy as np

from penguin_models.types import Float32Array, Int64Array


def farthest_points(vectors: Float32Array, count: int) -> Int64Array:
    """Chooses `count` of N vectors [N, D], each the farthest from those chosen before; the first is nearest their mean.

    Returns:
        Their numbers in the order of choice, int64 [min(count, N)].
    """
    chosen = np.empty(min(count, len(vectors)), np.int64)
    distance = np.full(len(vectors), np.inf, np.float32)
    following = int(np.argmin(((vectors - vectors.mean(axis=0)) ** 2).sum(axis=1))) if len(chosen) else 0
    for position in range(len(chosen)):
        chosen[position] = following
        np.minimum(distance, ((vectors - vectors[following]) ** 2).sum(axis=1), out=distance)
        distance[following] = -1.0  # never again, even if all others are copies of it
        following = int(np.argmax(distance))
    return chosen
