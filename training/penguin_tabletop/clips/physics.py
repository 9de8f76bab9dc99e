"""Simulates objects that are let go, with PyBullet, until they rest or have left the table.

There is one simulation per process, emptied before each fall, so that a fall depends on its arguments alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from penguin_tabletop.bullet import BulletClient
from penguin_tabletop.clips.motion import Path
from penguin_tabletop.scene.meshes import FloatArray
from penguin_tabletop.scene.scene import Quaternion, Scene, Surroundings, Thing, Vector
from penguin_tabletop.scene.shapes import shape_of

_STEP_S = 1 / 240
_STEPS_PER_POSE = 4
_TIME_LIMIT_S = 4.0
_REST_S = 0.15
_LOST_M = -0.9
"""An object this far below the table is gone."""
_STILL_M_S, _STILL_RAD_S = 0.01, 0.15


@dataclass(frozen=True, eq=False)
class Fall:
    """The path of an object from the moment it is let go, and whether it fell off the table."""

    path: Path
    gone: bool


class Physics:
    """A simulated table."""

    def __init__(self) -> None:
        self._bullet = BulletClient()

    def fall(self, thing: Thing, velocity: FloatArray, spin: FloatArray, scene: Scene, start_s: float) -> Fall | None:
        """Simulates a fall; returns None if the object does not come to rest in time.

        Args:
            thing: The object in the pose in which it is let go.
            velocity: Velocity of its middle in metres per second, [3].
            spin: Angular velocity in radians per second, [3].
            scene: The table and the other objects, which do not move.
            start_s: Time at which the object is let go.
        """
        self._reset(scene.surroundings)
        for other in scene.others(thing):
            self._add(other, mass=0.0)
        body = self._add(thing, mass=0.1)
        self._bullet.resetBaseVelocity(body, velocity.tolist(), spin.tolist())
        poses, times, still = [self._pose(body, thing)], [start_s], 0
        for step in range(1, round(_TIME_LIMIT_S / _STEP_S) + 1):
            self._bullet.stepSimulation()
            if step % _STEPS_PER_POSE:
                continue
            poses.append(self._pose(body, thing))
            times.append(start_s + step * _STEP_S)
            gone = poses[-1][0][2] < _LOST_M
            still = still + 1 if self._is_still(body) else 0
            if gone or still * _STEPS_PER_POSE * _STEP_S >= _REST_S:
                positions, rotations = zip(*poses, strict=True)
                return Fall(Path(np.array(times), np.array(positions), np.array(rotations)), gone)
        return None

    def _reset(self, around: Surroundings) -> None:
        bullet = self._bullet
        bullet.resetSimulation()
        bullet.setPhysicsEngineParameter(deterministicOverlappingPairs=1)
        bullet.setTimeStep(_STEP_S)
        bullet.setGravity(0, 0, -9.81)
        half = (around.half_width, around.half_depth, 0.02)
        shape = bullet.createCollisionShape(bullet.GEOM_BOX, halfExtents=half)
        body = bullet.createMultiBody(0, shape, -1, (0, 0, -0.02))
        bullet.changeDynamics(body, -1, lateralFriction=0.6, restitution=0.2)

    def _add(self, thing: Thing, mass: float) -> int:
        """Adds a body whose origin is the middle of its hull, because Bullet rotates bodies around their origin."""
        middle = _hull_middle(thing)
        if thing.kind == "ball":
            shape = self._bullet.createCollisionShape(self._bullet.GEOM_SPHERE, radius=middle[2])
        else:
            vertices = _collision_hull(thing.kind, thing.variant, thing.scale)
            shape = self._bullet.createCollisionShape(self._bullet.GEOM_MESH, vertices=vertices)
        position = thing.to_world((middle / thing.scale)[None])[0].tolist()
        body: int = self._bullet.createMultiBody(mass, shape, -1, position, thing.rotation)
        friction = {"lateralFriction": 0.6, "rollingFriction": 0.002, "spinningFriction": 0.002}
        self._bullet.changeDynamics(body, -1, restitution=0.2, angularDamping=0.3, **friction)
        return body

    def _pose(self, body: int, thing: Thing) -> tuple[Vector, Quaternion]:
        """Returns the position of the object's foot, and its rotation."""
        place, rotation = self._bullet.getBasePositionAndOrientation(body)
        matrix = np.array(self._bullet.getMatrixFromQuaternion(rotation)).reshape(3, 3)
        x, y, z = np.array(place) - matrix @ _hull_middle(thing)
        return (float(x), float(y), float(z)), rotation

    def _is_still(self, body: int) -> bool:
        speed, spin = self._bullet.getBaseVelocity(body)
        return bool(np.linalg.norm(speed) < _STILL_M_S and np.linalg.norm(spin) < _STILL_RAD_S)


@lru_cache(maxsize=1)
def physics() -> Physics:
    """Returns the simulation of this process."""
    return Physics()


@cache
def _collision_hull(kind: str, variant: int, scale: float) -> list[list[float]]:
    """Returns the hull around its middle. Cached, because PyBullet never frees a list of vertices passed to it."""
    points = shape_of(kind, variant).hull * scale
    hull: list[list[float]] = (points - (points.min(axis=0) + points.max(axis=0)) / 2).tolist()
    return hull


def _hull_middle(thing: Thing) -> FloatArray:
    """Returns the middle of the upright object's hull relative to its foot, in metres."""
    points = thing.shape.hull * thing.scale
    middle: FloatArray = (points.min(axis=0) + points.max(axis=0)) / 2
    return middle
