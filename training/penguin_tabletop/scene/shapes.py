"""The shape of each kind of object, in metres at scale 1; most meshes come from PyBullet's assets.

An object stands on z = 0 with its middle over the origin; its front (a printed face, a teddy's nose) looks along -y.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from penguin_tabletop.bullet import assets_folder
from penguin_tabletop.scene import meshes
from penguin_tabletop.scene.catalogue import KINDS, RGB
from penguin_tabletop.scene.meshes import FloatArray, Mesh

_ANIMALS = ("duck", "teddy", "rabbit")
_ANIMAL_TRIANGLES, _ODD_SHAPE_TRIANGLES, _ARM_LINK_TRIANGLES = 600, 120, 180
"""Largest number of triangles of a mesh: rendering time grows with it."""
_SURFACES = {"cube": (0.034, 0.07), "brick": (0.032, 0.052), "tray": (0.085, 0.008)}
"""Half width and height of the surface that carries other objects."""
_BLACK, _BEAK = (0.05, 0.05, 0.05), (0.95, 0.45, 0.05)
_ORANGE, _GREY = (0.95, 0.42, 0.06), (0.25, 0.25, 0.27)
_ARM_HEIGHT_M = 0.30
_GREY_ARM_LINKS = (0, 2, 7)


class Part(NamedTuple):
    """A piece of an object in one colour: its own, or the object's if `rgb` is None."""

    mesh: Mesh
    rgb: RGB | None = None


@dataclass(frozen=True, eq=False)
class Shape:
    """The shape of a kind."""

    parts: Sequence[Part]
    crease_degrees: float  # smallest angle between faces that meet at a hard edge
    hull: FloatArray  # [K, 3] points that span the convex hull
    radius: float  # of the circle around the origin that it covers on the table
    height: float
    support_half_width: float = 0.0  # of the surface that carries other objects
    support_height: float = 0.0  # of that surface (for a tray, its inside)
    printed_face: FloatArray | None = None  # [4, 3] corners, clockwise from the top left as seen from the front


@cache
def shape_of(kind: str, variant: int = 0) -> Shape:
    """Returns the shape of a kind at scale 1."""
    crease = 65.0 if kind in _ANIMALS else 40.0
    made = _VARIANT_MAKERS[kind](variant) if kind in _VARIANT_MAKERS else _MAKERS[kind]()
    parts = [Part(made)] if isinstance(made, Mesh) else made
    hull = meshes.hull_points(meshes.joined([part.mesh for part in parts]))
    if kind == "ball":
        hull = meshes.ball(float(hull[:, 2].max()) / 2, 8, 12).vertices
    height, radius = float(hull[:, 2].max()), float(np.hypot(hull[:, 0], hull[:, 1]).max())
    half_width, support_height = _SURFACES.get(kind, (0.0, height))
    return Shape(parts, crease, hull, radius, height, half_width, support_height, _printed_face(kind))


def _bottle() -> list[Part]:
    glass = [(0, 0), (0.031, 0), (0.031, 0.08), (0.027, 0.095), (0.012, 0.115), (0.011, 0.135), (0, 0.135)]
    cap = [(0, 0.134), (0.013, 0.134), (0.013, 0.15), (0, 0.15)]
    return [Part(meshes.lathe(glass)), Part(meshes.lathe(cap, 16), (0.85, 0.85, 0.85))]


def _bowl() -> Mesh:
    outside = [(0, 0), (0.03, 0), (0.05, 0.018), (0.062, 0.045)]
    inside = [(0.058, 0.045), (0.046, 0.021), (0.026, 0.006), (0, 0.006)]
    return meshes.lathe(outside + inside)


def _tray() -> Mesh:
    width, depth, wall, height = 0.22, 0.20, 0.008, 0.03
    sides = [meshes.box(width, wall, height).moved(0, sign * (depth - wall) / 2, 0) for sign in (-1, 1)]
    sides += [meshes.box(wall, depth, height).moved(sign * (width - wall) / 2, 0, 0) for sign in (-1, 1)]
    return meshes.joined([meshes.box(width, depth, wall), *sides])


def _duck() -> list[Part]:
    """In the asset, beak and eyes are colours of a texture; here they are parts, found by their position."""
    mesh = meshes.simplified(meshes.read_obj(assets_folder() / "duck.obj", up="y"), _ANIMAL_TRIANGLES).standing(0.1)
    middles = mesh.vertices[mesh.triangles].mean(axis=1)
    beak = (middles[:, 0] < -0.035) & (middles[:, 2] > 0.055)
    eyes = _dots(0.006, [(-0.027, -0.0175, 0.076), (-0.027, 0.0175, 0.076)])
    body = Mesh(mesh.vertices, mesh.triangles[~beak])
    return [Part(body), Part(Mesh(mesh.vertices, mesh.triangles[beak]), _BEAK), eyes]


def _teddy() -> list[Part]:
    mesh = meshes.read_obj(assets_folder() / "teddy2_VHACD_CHs.obj", up="y")
    eyes_and_nose = _dots(0.0055, [(-0.01, -0.014, 0.092), (0.01, -0.014, 0.092), (0.0, -0.018, 0.080)])
    return [Part(meshes.simplified(mesh, _ANIMAL_TRIANGLES).standing(0.12)), eyes_and_nose]


def _dots(radius: float, places: list[tuple[float, float, float]]) -> Part:
    return Part(meshes.joined([meshes.ball(radius, 5, 8).moved(*place) for place in places]), _BLACK)


def _brick() -> Mesh:
    studs = [
        meshes.lathe([(0.011, 0), (0.011, 0.009), (0, 0.009)], 14).moved(x, y, 0.05)
        for x in (-0.034, 0, 0.034)
        for y in (-0.017, 0.017)
    ]
    return meshes.joined([meshes.box(0.105, 0.068, 0.05), *studs])


def _odd_shape(variant: int) -> Mesh:
    """Returns one of the thousand random shapes among the assets, lying on its broadest side."""
    mesh = meshes.read_obj(assets_folder() / "random_urdfs" / f"{variant:03d}" / f"{variant:03d}.obj")
    mesh = meshes.simplified(mesh, _ODD_SHAPE_TRIANGLES)
    extents = np.ptp(mesh.vertices, axis=0)
    order = np.argsort(extents)[::-1]
    vertices = mesh.vertices[:, order]
    if np.linalg.det(np.eye(3)[:, order]) < 0:
        vertices = vertices * (1, -1, 1)
    size = 0.1 / float(extents.max())
    return Mesh(vertices, mesh.triangles).standing(float(extents.min()) * size)


def _robot_arm(variant: int) -> list[Part]:
    """Returns the KUKA arm among the assets, posed by its own joints and joined into a single object."""
    folder = assets_folder() / "kuka_iiwa"
    random = np.random.default_rng(variant)
    angles = random.uniform([-0.4, 0.1, -0.3, -1.9, -0.4, -0.3, 0.0], [0.4, 0.9, 0.3, -1.1, 0.4, 0.9, 1.0])
    links = [
        mesh.rotated(frame[:3, :3]).moved(*frame[:3, 3])
        for mesh, frame in zip(_arm_link_meshes(folder), _arm_link_frames(folder / "model.urdf", angles), strict=True)
    ]
    reach = float(max(link.vertices[:, 2].max() for link in links))
    links = [Mesh(link.vertices * (_ARM_HEIGHT_M / max(reach, 1.0)), link.triangles) for link in links]
    orange = [link for number, link in enumerate(links) if number not in _GREY_ARM_LINKS]
    grey = [links[number] for number in _GREY_ARM_LINKS]
    return [Part(meshes.joined(orange), _ORANGE), Part(meshes.joined(grey), _GREY)]


@cache
def _arm_link_meshes(folder: Path) -> list[Mesh]:
    files = [folder / "meshes" / f"link_{number}.obj" for number in range(8)]
    return [meshes.simplified(meshes.read_obj(file), _ARM_LINK_TRIANGLES) for file in files]


def _arm_link_frames(urdf: Path, angles: FloatArray) -> list[FloatArray]:
    """Returns the frame [4, 4] of every link of the chain, whose joints all rotate around their z axes."""
    frames = [np.eye(4)]
    for joint, angle in zip(ElementTree.parse(urdf).getroot().iter("joint"), angles, strict=True):
        origin = joint.find("origin")
        assert origin is not None
        roll, pitch, yaw = (float(value) for value in origin.attrib["rpy"].split())
        step = np.eye(4)
        step[:3, :3] = _axis_rotation(2, yaw) @ _axis_rotation(1, pitch) @ _axis_rotation(0, roll)
        step[:3, :3] = step[:3, :3] @ _axis_rotation(2, float(angle))
        step[:3, 3] = [float(value) for value in origin.attrib["xyz"].split()]
        frames.append(frames[-1] @ step)
    return frames


def _axis_rotation(axis: int, angle: float) -> FloatArray:
    """Returns the rotation [3, 3] about a coordinate axis."""
    cosine, sine = np.cos(angle), np.sin(angle)
    rotation = np.eye(3)
    a, b = (axis + 1) % 3, (axis + 2) % 3
    rotation[[a, b], [a, b]] = cosine
    rotation[b, a], rotation[a, b] = sine, -sine
    return rotation


def _leaning(mesh: Mesh) -> Mesh:
    """Returns the mesh tilted back, as a card on a small foot leans."""
    return mesh.rotated(_axis_rotation(0, -np.radians(18)))


def _printed_face(kind: str) -> FloatArray | None:
    if not KINDS[kind].printed:
        return None
    x, low, high, y = (0.066, 0.006, 0.079, -0.003) if kind == "card" else (0.057, 0.05, 0.13, -0.025)
    face = np.array([(-x, y, high), (x, y, high), (x, y, low), (-x, y, low)])
    return _leaning(Mesh(face, np.zeros((0, 3), int))).vertices if kind == "card" else face


_MAKERS: dict[str, Callable[[], Mesh | list[Part]]] = {
    "cube": lambda: meshes.box(0.07, 0.07, 0.07),
    "ball": lambda: meshes.ball(0.04),
    "cylinder": lambda: meshes.lathe([(0, 0), (0.034, 0), (0.034, 0.085), (0, 0.085)]),
    "cone": lambda: meshes.lathe([(0, 0), (0.046, 0), (0, 0.105)]),
    "ring": lambda: meshes.ring(0.045, 0.016),
    "bottle": _bottle,
    "bowl": _bowl,
    "mug": lambda: meshes.read_obj(assets_folder() / "objects" / "mug.obj").standing(0.085),
    "duck": _duck,
    "teddy": _teddy,
    "rabbit": lambda: meshes.read_obj(assets_folder() / "bunny.obj", up="y").standing(0.11),
    "brick": _brick,
    "tray": _tray,
    "card": lambda: _leaning(meshes.box(0.14, 0.006, 0.085)),
    "box": lambda: meshes.box(0.12, 0.05, 0.14),
}
_VARIANT_MAKERS: dict[str, Callable[[int], Mesh | list[Part]]] = {"odd shape": _odd_shape, "robot arm": _robot_arm}
