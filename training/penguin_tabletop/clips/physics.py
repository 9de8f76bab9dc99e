"""Simulates objects that are let go, with PyBullet, until they rest or have left the table.

There is one simulation per process, emptied before each fall, so that a fall depends on its arguments alone.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from penguin_tabletop.bullet import BulletClient
from penguin_tabletop.clips.events import Path
from penguin_tabletop.scene.meshes import FloatArray
from penguin_tabletop.scene.scene import Quaternion, Scene, Surroundings, Thing, Vector
from penguin_tabletop.scene.shapes import shape_of

_STEP_S = 1 / 240
_STEPS_PER_POSE = 4
_TIME_LIMIT_S = 4.0
_REST_S = 0.15
LOST_M = -0.9  # an object this far below the table is gone
_STILL_M_S, _STILL_RAD_S = 0.01, 0.15

_bullet = cache(BulletClient)


def fall_of(thing: Thing, velocity: FloatArray, spin: FloatArray, scene: Scene, start_s: float) -> Path | None:
    """Returns the path of an object that is let go, until it rests or is LOST_M below the table.

    Returns None if that takes too long. The object is let go at `start_s` in the pose of `thing`; its middle has
    the velocity [3] in metres and the spin [3] in radians per second. The other objects of the scene do not move.
    """
    _reset(scene.surroundings)
    for other in scene.others(thing):
        _add(other, mass=0.0)
    body = _add(thing, mass=0.1)
    _bullet().resetBaseVelocity(body, velocity.tolist(), spin.tolist())
    poses, times, still = [_pose(body, thing)], [start_s], 0
    for step in range(1, round(_TIME_LIMIT_S / _STEP_S) + 1):
        _bullet().stepSimulation()
        if step % _STEPS_PER_POSE:
            continue
        poses.append(_pose(body, thing))
        times.append(start_s + step * _STEP_S)
        still = still + 1 if _is_still(body) else 0
        if poses[-1][0][2] < LOST_M or still * _STEPS_PER_POSE * _STEP_S >= _REST_S:
            positions, rotations = zip(*poses, strict=True)
            return Path(np.array(times), np.array(positions), np.array(rotations))
    return None


def _reset(around: Surroundings) -> None:
    bullet = _bullet()
    bullet.resetSimulation()
    bullet.setPhysicsEngineParameter(deterministicOverlappingPairs=1)
    bullet.setTimeStep(_STEP_S)
    bullet.setGravity(0, 0, -9.81)
    half = (around.half_width, around.half_depth, 0.02)
    shape = bullet.createCollisionShape(bullet.GEOM_BOX, halfExtents=half)
    body = bullet.createMultiBody(0, shape, -1, (0, 0, -0.02))
    bullet.changeDynamics(body, -1, lateralFriction=0.6, restitution=0.2)


def _add(thing: Thing, mass: float) -> int:
    """Adds a body whose origin is the middle of its hull, because Bullet rotates bodies around their origin."""
    bullet, middle = _bullet(), _hull_middle(thing)
    if thing.kind == "ball":
        shape = bullet.createCollisionShape(bullet.GEOM_SPHERE, radius=middle[2])
    else:
        vertices = _collision_hull(thing.kind, thing.variant, thing.scale)
        shape = bullet.createCollisionShape(bullet.GEOM_MESH, vertices=vertices)
    position = thing.to_world((middle / thing.scale)[None])[0].tolist()
    body: int = bullet.createMultiBody(mass, shape, -1, position, thing.rotation)
    friction = {"lateralFriction": 0.6, "rollingFriction": 0.002, "spinningFriction": 0.002}
    bullet.changeDynamics(body, -1, restitution=0.2, angularDamping=0.3, **friction)
    return body


def _pose(body: int, thing: Thing) -> tuple[Vector, Quaternion]:
    """Returns the position of the object's foot, and its rotation."""
    place, rotation = _bullet().getBasePositionAndOrientation(body)
    matrix = np.array(_bullet().getMatrixFromQuaternion(rotation)).reshape(3, 3)
    x, y, z = np.array(place) - matrix @ _hull_middle(thing)
    return (float(x), float(y), float(z)), rotation


def _is_still(body: int) -> bool:
    speed, spin = _bullet().getBaseVelocity(body)
    return bool(np.linalg.norm(speed) < _STILL_M_S and np.linalg.norm(spin) < _STILL_RAD_S)


@cache
def _collision_hull(kind: str, variant: int, scale: float) -> list[list[float]]:
    """Returns the hull around its middle. Cached, because PyBullet never frees a list of vertices passed to it."""
    points = shape_of(kind, variant).hull * scale
    hull: list[list[float]] = (points - _middle(points)).tolist()
    return hull


def _hull_middle(thing: Thing) -> FloatArray:
    """Returns the middle of the upright object's hull relative to its foot, in metres."""
    return _middle(thing.shape.hull * thing.scale)


def _middle(points: FloatArray) -> FloatArray:
    middle: FloatArray = (points.min(axis=0) + points.max(axis=0)) / 2
    return middle
