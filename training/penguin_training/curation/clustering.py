"""Hierarchical k-means, and how many samples each cluster contributes to a balanced selection.

The clusters of a level are the points of the next one, so that dense regions do not own the upper levels (Vo et al.,
"Automatic Data Curation for Self-Supervised Learning: A Clustering-Based Approach", arXiv 2405.15613).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np

from penguin_models.types import Float32Array, Int64Array

POINTS_PER_CLUSTER = 256
"""Samples per cluster of the finest level that k-means is fitted to, at most."""
_ITERATIONS = 20


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """A tree of clusters.

    Attributes:
        centroids: Unit vectors of the finest clusters, float32 [leaves, D].
        parents: For each level but the coarsest, the finest first, the cluster of the next level that each belongs to.
    """

    centroids: Float32Array
    parents: list[Int64Array]

    def assign(self, vectors: Float32Array) -> Int64Array:
        """Returns the finest cluster of unit vectors [N, D]: int64 [N]."""
        return _nearest(self.centroids, vectors)

    def level_sizes(self, leaf_sizes: Int64Array) -> list[Int64Array]:
        """Returns the sizes of the clusters of each level, the finest first, by those of the finest level."""
        sizes = [leaf_sizes]
        for parent in self.parents:
            sizes.append(np.bincount(parent, weights=sizes[-1], minlength=int(parent.max()) + 1).astype(np.int64))
        return sizes


def cluster(vectors: Float32Array, levels: Sequence[int], seed: int) -> Hierarchy:
    """Clusters unit vectors [N, D] into levels[0] clusters, their centroids into levels[1], and so on."""
    points = vectors
    centroids: list[Float32Array] = []
    parents: list[Int64Array] = []
    for number in levels:
        means = faiss.Kmeans(
            points.shape[1],
            min(number, len(points)),
            niter=_ITERATIONS,
            seed=seed,
            spherical=True,
            min_points_per_centroid=1,
            max_points_per_centroid=POINTS_PER_CLUSTER,
        )
        means.train(np.ascontiguousarray(points))
        found: Float32Array = np.asarray(means.centroids, np.float32)
        if centroids:
            parents.append(_nearest(found, points))
        centroids.append(found)
        points = found
    return Hierarchy(centroids[0], parents)


def balanced_quotas(hierarchy: Hierarchy, leaf_sizes: Int64Array, keep: int) -> Int64Array:
    """Returns the number of samples to keep of each finest cluster: int64 [leaves], `keep` in total or all there are.

    From the coarsest level down, what a cluster may contribute is divided evenly among its children; what a small child
    cannot use goes to its siblings.
    """
    sizes = hierarchy.level_sizes(leaf_sizes)
    quotas = even_shares(sizes[-1], keep)
    for parent, below in zip(reversed(hierarchy.parents), reversed(sizes[:-1]), strict=True):
        shares = np.zeros_like(below)
        for number, quota in enumerate(quotas.tolist()):
            children = np.flatnonzero(parent == number)
            shares[children] = even_shares(below[children], quota)
        quotas = shares
    return quotas


def even_shares(sizes: Int64Array, total: int) -> Int64Array:
    """Divides a total among bins as evenly as their sizes allow: int64 [bins], the sum is min(total, sum of sizes)."""
    order = np.argsort(sizes, kind="stable")
    shares, left = np.zeros_like(sizes), min(total, int(sizes.sum()))
    for position, number in enumerate(order.tolist()):
        # Of bins of the same size, the later ones get what does not divide evenly.
        shares[number] = min(int(sizes[number]), left // (len(order) - position))
        left -= int(shares[number])
    return shares


def _nearest(centroids: Float32Array, vectors: Float32Array) -> Int64Array:
    index = faiss.IndexFlatIP(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids))
    nearest: Int64Array = index.search(np.ascontiguousarray(vectors, np.float32), 1)[1][:, 0]
    return nearest
