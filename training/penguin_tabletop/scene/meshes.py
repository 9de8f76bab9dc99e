"""Triangle meshes: solids of revolution, boxes, OBJ files, simplification, and normals with hard edges.

V vertices, T triangles; metres; z is up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh: vertices [V, 3], triangles [T, 3] (indices, counter-clockwise from outside)."""

    vertices: FloatArray
    triangles: IntArray

    def rotated(self, rotation: FloatArray) -> Mesh:
        """Returns the mesh rotated by a matrix [3, 3]."""
        return Mesh(self.vertices @ rotation.T, self.triangles)

    def moved(self, x: float, y: float, z: float) -> Mesh:
        """Returns the mesh translated by a vector."""
        return Mesh(self.vertices + np.array([x, y, z]), self.triangles)

    def standing(self, height: float) -> Mesh:
        """Returns the mesh scaled to a height, centred over the origin, with its lowest point at z = 0."""
        low, high = self.vertices.min(axis=0), self.vertices.max(axis=0)
        base = np.array([(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]])
        return Mesh((self.vertices - base) * (height / (high[2] - low[2])), self.triangles)


def joined(meshes: Sequence[Mesh]) -> Mesh:
    """Returns several meshes as one."""
    offsets = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    triangles = [mesh.triangles + offset for mesh, offset in zip(meshes, offsets, strict=True)]
    return Mesh(np.vstack([mesh.vertices for mesh in meshes]), np.vstack(triangles))


def box(width: float, depth: float, height: float) -> Mesh:
    """Returns a box that stands on z = 0."""
    corners = np.array([(x, y, z) for z in (0, 1) for y in (-0.5, 0.5) for x in (-0.5, 0.5)])
    quads = [(0, 2, 3, 1), (4, 5, 7, 6), (0, 1, 5, 4), (1, 3, 7, 5), (3, 2, 6, 7), (2, 0, 4, 6)]
    triangles = [t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))]
    return Mesh(corners * (width, depth, height), np.array(triangles))


def lathe(profile: Sequence[tuple[float, float]], segments: int = 24) -> Mesh:
    """Returns a solid of revolution around z; `profile` is (radius, z) with the outside on its right."""
    angles = 2 * np.pi * np.arange(segments) / segments
    rings = np.array([[(r * np.cos(a), r * np.sin(a), z) for a in angles] for r, z in profile]).reshape(-1, 3)
    triangles = []
    for ring in range(len(profile) - 1):
        for s in range(segments):
            a, b = ring * segments + s, ring * segments + (s + 1) % segments
            triangles += [(a, b, b + segments), (a, b + segments, a + segments)]
    return _welded(Mesh(rings, np.array(triangles)), 1e-6)


def ball(radius: float, stacks: int = 12, segments: int = 20) -> Mesh:
    """Returns a sphere that rests on z = 0."""
    angles = np.linspace(-np.pi / 2, np.pi / 2, stacks + 1)
    return lathe([(radius * float(np.cos(a)), radius + radius * float(np.sin(a))) for a in angles], segments)


def ring(radius: float, thickness: float, segments: int = 24, around: int = 10) -> Mesh:
    """Returns a torus that lies on z = 0; `radius` is that of its centre line, `thickness` that of the tube."""
    angles = 2 * np.pi * np.arange(around + 1) / around
    return lathe([(radius + thickness * np.sin(a), thickness - thickness * np.cos(a)) for a in angles], segments)


def read_obj(path: Path, up: str = "z") -> Mesh:
    """Reads the vertices and faces of a Wavefront file; `up` is the axis that points up in the file."""
    vertices, triangles = [], []
    for line in path.read_text().splitlines():
        words = line.split()
        if words[:1] == ["v"]:
            vertices.append([float(word) for word in words[1:4]])
        elif words[:1] == ["f"]:
            corners = [int(word.split("/")[0]) - 1 for word in words[1:]]
            triangles += [(corners[0], b, c) for b, c in pairwise(corners[1:])]
    points = np.array(vertices)
    if up == "y":
        points = points[:, [0, 2, 1]] * (1, -1, 1)
    return Mesh(points, np.array(triangles))


def simplified(mesh: Mesh, triangles: int) -> Mesh:
    """Returns a mesh of at most this many triangles, by joining vertices on ever coarser grids."""
    extent = float(np.ptp(mesh.vertices, axis=0).max())
    cell, result = extent / 60, mesh
    while len(result.triangles) > triangles:
        result = _welded(mesh, cell)
        cell *= 1.35
    return result


def with_hard_edges(mesh: Mesh, degrees: float = 40.0) -> tuple[Mesh, FloatArray]:
    """Returns the mesh with vertices split where faces meet at a larger angle than `degrees`, and unit normals [V, 3].

    The normal of a vertex is the mean of the normals of the faces that share it.
    """
    a, b, c = (mesh.vertices[mesh.triangles[:, corner]] for corner in range(3))
    faces = np.cross(b - a, c - a).astype(np.float64)  # [T, 3], twice as long as the triangle's area
    units = _unit(faces)
    meeting: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for face, corners in enumerate(mesh.triangles.tolist()):
        for corner, vertex in enumerate(corners):
            meeting[vertex].append((face, corner))
    normals = np.zeros((len(mesh.triangles), 3, 3))
    for places in meeting.values():
        numbers = [face for face, _ in places]
        soft = units[numbers] @ units[numbers].T >= np.cos(np.radians(degrees))
        for (face, corner), normal in zip(places, soft @ faces[numbers], strict=True):
            normals[face, corner] = normal
    flat = _unit(normals.reshape(-1, 3))
    vertices, triangles = np.unique(
        np.column_stack([mesh.triangles.reshape(-1), np.round(flat, 4)]), axis=0, return_inverse=True
    )
    return Mesh(mesh.vertices[vertices[:, 0].astype(np.int64)], triangles.reshape(-1, 3)), vertices[:, 1:]


def hull_points(mesh: Mesh, directions: int = 80) -> FloatArray:
    """Returns the outermost vertices in directions spread over the sphere: nearly the convex hull, [K, 3]."""
    turns = np.arange(directions) + 0.5
    z = 1 - 2 * turns / directions
    angle = np.pi * (1 + 5**0.5) * turns
    flat = np.sqrt(1 - z * z)
    spread = np.stack([flat * np.cos(angle), flat * np.sin(angle), z], axis=1)
    points: FloatArray = mesh.vertices[np.unique((spread @ mesh.vertices.T).argmax(axis=1))]
    return points


def _welded(mesh: Mesh, cell: float) -> Mesh:
    """Joins the vertices of each grid cell to their mean and drops triangles that collapse or repeat."""
    _, cells = np.unique(np.floor(mesh.vertices / cell + 0.5).astype(np.int64), axis=0, return_inverse=True)
    cells = cells.reshape(-1)
    counts = np.bincount(cells)
    means = np.stack([np.bincount(cells, mesh.vertices[:, axis]) / counts for axis in range(3)], axis=1)
    triangles = cells[mesh.triangles]
    a, b, c = triangles.T
    triangles = triangles[(a != b) & (b != c) & (c != a)]
    _, first = np.unique(np.sort(triangles, axis=1), axis=0, return_index=True)
    return Mesh(means, triangles[np.sort(first)])


def _unit(vectors: FloatArray) -> FloatArray:
    unit: FloatArray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit
