"""A robot arm that stands on the table: the asset's KUKA arm, posed by its own joints and made a single object."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from functools import lru_cache
from pathlib import Path

import numpy as np

from penguin_tabletop import meshes
from penguin_tabletop.catalogue import RGB
from penguin_tabletop.meshes import FloatArray, Mesh

_HEIGHT_M = 0.30
_LINKS = 8
_TRIANGLES_OF_LINK = 180
_ORANGE, _GREY = (0.95, 0.42, 0.06), (0.25, 0.25, 0.27)


def parts(assets: Path, variant: int) -> list[tuple[Mesh, RGB | None]]:
    """The arm in one of its poses: the orange links and the grey ones."""
    folder = assets / "kuka_iiwa"
    frames = _link_frames(folder / "model.urdf", _joint_angles(variant))
    links = [
        mesh.turned(frame[:3, :3]).moved(*frame[:3, 3])
        for mesh, frame in zip(_link_meshes(folder), frames, strict=True)
    ]
    reach = float(max(link.vertices[:, 2].max() for link in links))
    scale = _HEIGHT_M / max(reach, 1.0)
    links = [link.scaled(scale, scale, scale) for link in links]
    grey = (0, 2, 7)
    return [
        (meshes.joined([link for number, link in enumerate(links) if number not in grey]), _ORANGE),
        (meshes.joined([links[number] for number in grey]), _GREY),
    ]


@lru_cache(maxsize=1)
def _link_meshes(folder: Path) -> list[Mesh]:
    """The links as they are before any joint turns; shared by all poses."""
    files = [folder / "meshes" / f"link_{number}.obj" for number in range(_LINKS)]
    return [meshes.simplified(meshes.read_obj(file), _TRIANGLES_OF_LINK) for file in files]


def _joint_angles(variant: int) -> FloatArray:
    random = np.random.default_rng(variant)
    low = np.array([-0.4, 0.1, -0.3, -1.9, -0.4, -0.3, 0.0])
    high = np.array([0.4, 0.9, 0.3, -1.1, 0.4, 0.9, 1.0])
    return random.uniform(low, high)


def _link_frames(urdf: Path, angles: FloatArray) -> list[FloatArray]:
    """Frame [4, 4] of every link of the chain; all its joints turn around their z axes."""
    frames = [np.eye(4)]
    for joint, angle in zip(ElementTree.parse(urdf).getroot().iter("joint"), angles, strict=True):
        origin = joint.find("origin")
        assert origin is not None
        roll, pitch, yaw = (float(value) for value in origin.attrib["rpy"].split())
        step = np.eye(4)
        step[:3, :3] = _about(2, yaw) @ _about(1, pitch) @ _about(0, roll) @ _about(2, float(angle))
        step[:3, 3] = [float(value) for value in origin.attrib["xyz"].split()]
        frames.append(frames[-1] @ step)
    return frames


def _about(axis: int, angle: float) -> FloatArray:
    """Rotation about a coordinate axis, [3, 3]."""
    cosine, sine = np.cos(angle), np.sin(angle)
    rotation = np.eye(3)
    a, b = (axis + 1) % 3, (axis + 2) % 3
    rotation[[a, b], [a, b]] = cosine
    rotation[b, a], rotation[a, b] = sine, -sine
    return rotation
