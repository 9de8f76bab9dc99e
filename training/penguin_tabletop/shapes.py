"""What each kind of object looks like: meshes, most of them from PyBullet's own assets, in metres at scale 1.

An object stands on z = 0 with its middle over the origin; its front (a printed face, a teddy's nose) looks along -y.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from penguin_tabletop import arm, meshes
from penguin_tabletop.bullet import assets
from penguin_tabletop.catalogue import KINDS, RGB
from penguin_tabletop.meshes import FloatArray, Mesh

_TRIANGLES = 600
"""Most triangles of an animal: the renderer's time grows with them."""
_BLACK, _BEAK = (0.05, 0.05, 0.05), (0.95, 0.45, 0.05)


@dataclass(frozen=True, eq=False)
class Part:
    """A piece of an object in one colour: its own, or (None) the object's."""

    mesh: Mesh
    rgb: RGB | None
    crease_degrees: float


@dataclass(frozen=True, eq=False)
class Shape:
    """The form of a kind.

    Attributes:
        parts: what is drawn.
        outer: points that span its convex hull, [K, 3].
        radius: of the circle around the origin that it covers on the table.
        height: of its highest point.
        top: half width of what can be put on it.
        floor: height of what it carries (for a tray, its inside).
        printed: corners of the printed face from the front, top left, top right, bottom right, bottom left, [4, 3].
    """

    parts: tuple[Part, ...]
    outer: FloatArray
    radius: float
    height: float
    top: float = 0.0
    floor: float = 0.0
    printed: FloatArray | None = None


@cache
def shape_of(kind: str, variant: int = 0) -> Shape:
    """The shape of a kind at scale 1; computed once."""
    maker = _MAKERS.get(kind)
    crease = 65.0 if kind in _ANIMALS else 40.0
    parts = tuple(Part(mesh, rgb, crease) for mesh, rgb in (maker() if maker else _VARIED[kind](variant)))
    outer = meshes.outer_points(meshes.joined([part.mesh for part in parts]))
    if kind == "ball":
        outer = meshes.ball(float(outer[:, 2].max()) / 2, 8, 12).vertices
    height, radius = float(outer[:, 2].max()), float(np.hypot(outer[:, 0], outer[:, 1]).max())
    top, floor = _SURFACES.get(kind, (0.0, height))
    return Shape(parts, outer, radius, height, top, floor, _PRINTED[kind]() if KINDS[kind].printed else None)


_ANIMALS = ("duck", "teddy", "rabbit")
_Parts = list[tuple[Mesh, RGB | None]]
_SURFACES = {"cube": (0.034, 0.07), "brick": (0.032, 0.052), "tray": (0.085, 0.008)}


def _cylinder() -> _Parts:
    return [(meshes.lathe([(0, 0), (0.034, 0), (0.034, 0.085), (0, 0.085)]), None)]


def _cone() -> _Parts:
    return [(meshes.lathe([(0, 0), (0.046, 0), (0, 0.105)]), None)]


def _bottle() -> _Parts:
    glass = [(0, 0), (0.031, 0), (0.031, 0.08), (0.027, 0.095), (0.012, 0.115), (0.011, 0.135), (0, 0.135)]
    cap = [(0, 0.134), (0.013, 0.134), (0.013, 0.15), (0, 0.15)]
    return [(meshes.lathe(glass), None), (meshes.lathe(cap, 16), (0.85, 0.85, 0.85))]


def _bowl() -> _Parts:
    outside = [(0, 0), (0.03, 0), (0.05, 0.018), (0.062, 0.045)]
    inside = [(0.058, 0.045), (0.046, 0.021), (0.026, 0.006), (0, 0.006)]
    return [(meshes.lathe(outside + inside), None)]


def _mug() -> _Parts:
    return [(meshes.read_obj(assets() / "objects" / "mug.obj").standing(0.085), None)]


def _tray() -> _Parts:
    width, depth, wall, height = 0.22, 0.20, 0.008, 0.03
    sides = [meshes.box(width, wall, height).moved(0, sign * (depth - wall) / 2, 0) for sign in (-1, 1)] + [
        meshes.box(wall, depth, height).moved(sign * (width - wall) / 2, 0, 0) for sign in (-1, 1)
    ]
    return [(meshes.joined([meshes.box(width, depth, wall), *sides]), None)]


def _duck() -> _Parts:
    """The asset's beak and eyes are colours of a texture; here they are parts, told by their place."""
    mesh = meshes.simplified(meshes.read_obj(assets() / "duck.obj", up="y"), _TRIANGLES).standing(0.1)
    middles = mesh.vertices[mesh.triangles].mean(axis=1)
    beak = (middles[:, 0] < -0.035) & (middles[:, 2] > 0.055)
    eyes = _dots(0.006, [(-0.027, -0.0175, 0.076), (-0.027, 0.0175, 0.076)])
    return [
        (Mesh(mesh.vertices, mesh.triangles[~beak]), None),
        (Mesh(mesh.vertices, mesh.triangles[beak]), _BEAK),
        eyes,
    ]


def _teddy() -> _Parts:
    mesh = meshes.simplified(meshes.read_obj(assets() / "teddy2_VHACD_CHs.obj", up="y"), _TRIANGLES).standing(0.12)
    return [(mesh, None), _dots(0.0055, [(-0.01, -0.014, 0.092), (0.01, -0.014, 0.092), (0.0, -0.018, 0.080)])]


def _dots(radius: float, places: list[tuple[float, float, float]]) -> tuple[Mesh, RGB]:
    """Eyes, a nose: small black balls."""
    return meshes.joined([meshes.ball(radius, 5, 8).moved(*place) for place in places]), _BLACK


def _rabbit() -> _Parts:
    return [(meshes.read_obj(assets() / "bunny.obj", up="y").standing(0.11), None)]


def _brick() -> _Parts:
    studs = [
        meshes.lathe([(0.011, 0), (0.011, 0.009), (0, 0.009)], 14).moved(x, y, 0.05)
        for x in (-0.034, 0, 0.034)
        for y in (-0.017, 0.017)
    ]
    return [(meshes.joined([meshes.box(0.105, 0.068, 0.05), *studs]), None)]


def _odd_shape(variant: int) -> _Parts:
    """One of the asset's thousand random shapes, lying on its broadest side."""
    mesh = meshes.read_obj(assets() / "random_urdfs" / f"{variant:03d}" / f"{variant:03d}.obj")
    mesh = meshes.simplified(mesh, 120)
    extents = np.ptp(mesh.vertices, axis=0)
    order = np.argsort(extents)[::-1]
    turned = mesh.vertices[:, order]
    if np.linalg.det(np.eye(3)[:, order]) < 0:
        turned = turned * (1, -1, 1)
    size = 0.1 / float(extents.max())
    return [(Mesh(turned, mesh.triangles).standing(float(extents.min()) * size), None)]


def _card() -> _Parts:
    return [(_leaning(meshes.box(0.14, 0.006, 0.085)), None)]


def _box() -> _Parts:
    return [(meshes.box(0.12, 0.05, 0.14), None)]


def _leaning(mesh: Mesh) -> Mesh:
    """A card leans back on a small foot."""
    tilt = np.radians(18)
    rotation = np.array([[1, 0, 0], [0, np.cos(tilt), np.sin(tilt)], [0, -np.sin(tilt), np.cos(tilt)]])
    return mesh.turned(rotation)


def _face(width: float, low: float, high: float, y: float) -> FloatArray:
    x = width / 2
    return np.array([(-x, y, high), (x, y, high), (x, y, low), (-x, y, low)])


def _card_face() -> FloatArray:
    return _leaning(Mesh(_face(0.132, 0.006, 0.079, -0.003), np.zeros((0, 3), int))).vertices


def _box_face() -> FloatArray:
    return _face(0.114, 0.05, 0.13, -0.025)


_MAKERS: dict[str, Callable[[], _Parts]] = {
    "cube": lambda: [(meshes.box(0.07, 0.07, 0.07), None)],
    "ball": lambda: [(meshes.ball(0.04), None)],
    "cylinder": _cylinder,
    "cone": _cone,
    "ring": lambda: [(meshes.ring(0.045, 0.016), None)],
    "bottle": _bottle,
    "bowl": _bowl,
    "mug": _mug,
    "duck": _duck,
    "teddy": _teddy,
    "rabbit": _rabbit,
    "brick": _brick,
    "tray": _tray,
    "card": _card,
    "box": _box,
}
_VARIED: dict[str, Callable[[int], _Parts]] = {
    "odd shape": _odd_shape,
    "robot arm": lambda variant: arm.parts(assets(), variant),
}
_PRINTED: dict[str, Callable[[], FloatArray]] = {"card": _card_face, "box": _box_face}
