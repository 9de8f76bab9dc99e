"""Things that fall: slowly pushed over an edge or tipped over, then left to Bullet until they rest.

Knows no events and no pictures. One simulation per process, emptied before each fall: a fall depends on its arguments
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from penguin_tabletop.bullet import bullet
from penguin_tabletop.meshes import FloatArray
from penguin_tabletop.motion import Path
from penguin_tabletop.scene import Quaternion, Surroundings, Thing, Vector
from penguin_tabletop.shapes import shape_of

_STEP_S = 1 / 240
_STEPS_KEPT = 4
"""Of this many steps, one pose is kept."""
_LONGEST_S = 4.0
_REST_S = 0.15
_LOST_M = -0.9
"""A thing this far below the table is gone."""
_STILL_M_S, _STILL_RAD_S = 0.01, 0.15


@dataclass(frozen=True, eq=False)
class Fall:
    """How a thing fell: its path from the moment it is let go, and whether it fell off the table."""

    path: Path
    gone: bool


class Physics:
    """A simulated table."""

    def __init__(self) -> None:
        self._bullet: Any = bullet()
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
        """Lets a thing go.

        Args:
            thing: where it is.
            velocity: metres per second, of its middle.
            spin: radians per second.
            others: things that do not move.
            around: for the table's edges.
            start_s: when.

        Returns:
            None if it does not come to rest in time.
        """
        client = self._client
        self._clear(around)
        for other in others:
            self._add(other, mass=0.0)
        body = self._add(thing, mass=0.1)
        self._bullet.resetBaseVelocity(body, velocity, spin, physicsClientId=client)
        poses, times, still = [self._pose(body, thing)], [start_s], 0
        for step in range(1, round(_LONGEST_S / _STEP_S) + 1):
            self._bullet.stepSimulation(physicsClientId=client)
            if step % _STEPS_KEPT:
                continue
            poses.append(self._pose(body, thing))
            times.append(start_s + step * _STEP_S)
            gone = poses[-1][0][2] < _LOST_M
            still = still + 1 if self._is_still(body) else 0
            if gone or still * _STEPS_KEPT * _STEP_S >= _REST_S:
                positions, turns = np.array([p for p, _ in poses]), np.array([t for _, t in poses])
                return Fall(Path(np.array(times), positions, turns), gone)
        return None

    def _clear(self, around: Surroundings) -> None:
        """Nothing but the table."""
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
        """A body whose origin is the middle of its hull: Bullet turns bodies around their origin."""
        middle = _middle(thing)
        if thing.kind == "ball":
            form: dict[str, Any] = {"shapeType": self._bullet.GEOM_SPHERE, "radius": middle[2]}
        else:
            vertices = _hull(thing.kind, thing.variant, thing.scale)
            form = {"shapeType": self._bullet.GEOM_MESH, "vertices": vertices}
        shape = self._bullet.createCollisionShape(**form, physicsClientId=self._client)
        place = thing.world((middle / thing.scale)[None])[0]
        body: int = self._bullet.createMultiBody(
            mass, shape, -1, place.tolist(), thing.turn, physicsClientId=self._client
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
        """Position of the thing's foot, and its turn."""
        place, turn = self._bullet.getBasePositionAndOrientation(body, physicsClientId=self._client)
        rotation = np.array(self._bullet.getMatrixFromQuaternion(turn)).reshape(3, 3)
        x, y, z = np.array(place) - rotation @ _middle(thing)
        return (float(x), float(y), float(z)), turn

    def _is_still(self, body: int) -> bool:
        speed, spin = self._bullet.getBaseVelocity(body, physicsClientId=self._client)
        return bool(np.linalg.norm(speed) < _STILL_M_S and np.linalg.norm(spin) < _STILL_RAD_S)


@lru_cache(maxsize=1)
def physics() -> Physics:
    """The process's simulation."""
    return Physics()


@cache
def _hull(kind: str, variant: int, scale: float) -> list[list[float]]:
    """Hull around its middle. Kept: PyBullet never lets go of a list of vertices that it was given."""
    points = shape_of(kind, variant).outer * scale
    hull: list[list[float]] = (points - (points.min(axis=0) + points.max(axis=0)) / 2).tolist()
    return hull


def _middle(thing: Thing) -> FloatArray:
    """Middle of the thing's hull from its foot, before it is turned, in metres."""
    points = thing.shape.outer * thing.scale
    middle: FloatArray = (points.min(axis=0) + points.max(axis=0)) / 2
    return middle
