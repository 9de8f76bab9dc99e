"""Simulates objects that are let go, with PyBullet, until they rest or have left the table.

There is one simulation per process, emptied before each fall, so that a fall depends on its arguments alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from penguin_tabletop.bullet import load_pybullet
from penguin_tabletop.clips.motion import Path
from penguin_tabletop.scene.meshes import FloatArray
from penguin_tabletop.scene.scene import Quaternion, Surroundings, Thing, Vector
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
        self._bullet: Any = load_pybullet()
        self._client = self._bullet.connect(self._bullet.DIRECT)

    def fall(
        self,
        thing: Thing,
        velocity: Vector,
        spin: Vector,
        others: Sequence[Thing],
        around: Surroundings,
        start_s: float,
    ) -> Fall | None:
        """Simulates a fall.

        Args:
            thing: The object in the pose in which it is let go.
            velocity: Velocity of its middle in metres per second.
            spin: Angular velocity in radians per second.
            others: Objects that do not move.
            around: The table.
            start_s: Time at which the object is let go.

        Returns:
            None if it does not come to rest in time.
        """
        self._reset(around)
        for other in others:
            self._add(other, mass=0.0)
        body = self._add(thing, mass=0.1)
        self._bullet.resetBaseVelocity(body, velocity, spin, physicsClientId=self._client)
        poses, times, still = [self._pose(body, thing)], [start_s], 0
        for step in range(1, round(_TIME_LIMIT_S / _STEP_S) + 1):
            self._bullet.stepSimulation(physicsClientId=self._client)
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
        bullet, client = self._bullet, self._client
        bullet.resetSimulation(physicsClientId=client)
        bullet.setPhysicsEngineParameter(deterministicOverlappingPairs=1, physicsClientId=client)
        bullet.setTimeStep(_STEP_S, physicsClientId=client)
        bullet.setGravity(0, 0, -9.81, physicsClientId=client)
        half = (around.half_width, around.half_depth, 0.02)
        shape = bullet.createCollisionShape(bullet.GEOM_BOX, halfExtents=half, physicsClientId=client)
        body = bullet.createMultiBody(0, shape, -1, (0, 0, -0.02), physicsClientId=client)
        bullet.changeDynamics(body, -1, lateralFriction=0.6, restitution=0.2, physicsClientId=client)

    def _add(self, thing: Thing, mass: float) -> int:
        """Adds a body whose origin is the middle of its hull, because Bullet rotates bodies around their origin."""
        middle = _hull_middle(thing)
        if thing.kind == "ball":
            form: dict[str, Any] = {"shapeType": self._bullet.GEOM_SPHERE, "radius": middle[2]}
        else:
            vertices = _collision_hull(thing.kind, thing.variant, thing.scale)
            form = {"shapeType": self._bullet.GEOM_MESH, "vertices": vertices}
        shape = self._bullet.createCollisionShape(**form, physicsClientId=self._client)
        position = thing.to_world((middle / thing.scale)[None])[0].tolist()
        body: int = self._bullet.createMultiBody(
            mass, shape, -1, position, thing.rotation, physicsClientId=self._client
        )
        self._bullet.changeDynamics(
            body,
            -1,
            lateralFriction=0.6,
            rollingFriction=0.002,
            spinningFriction=0.002,
            restitution=0.2,
            angularDamping=0.3,
            physicsClientId=self._client,
        )
        return body

    def _pose(self, body: int, thing: Thing) -> tuple[Vector, Quaternion]:
        """Returns the position of the object's foot, and its rotation."""
        place, rotation = self._bullet.getBasePositionAndOrientation(body, physicsClientId=self._client)
        matrix = np.array(self._bullet.getMatrixFromQuaternion(rotation)).reshape(3, 3)
        x, y, z = np.array(place) - matrix @ _hull_middle(thing)
        return (float(x), float(y), float(z)), rotation

    def _is_still(self, body: int) -> bool:
        speed, spin = self._bullet.getBaseVelocity(body, physicsClientId=self._client)
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
