"""Paths of moving objects: poses over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penguin_tabletop.scene.meshes import FloatArray
from penguin_tabletop.scene.scene import Quaternion, Thing, Vector

_CLEARANCE_M = 0.02
_STEPS = 24


@dataclass(frozen=True, eq=False)
class Path:
    """Poses over time."""

    times_s: FloatArray  # [K], rising
    positions: FloatArray  # [K, 3] in metres
    rotations: FloatArray  # [K, 4] quaternions

    def at(self, time_s: float) -> tuple[Vector, Quaternion]:
        """Returns the pose at a time; outside the path, that of its nearer end."""
        after = int(np.clip(np.searchsorted(self.times_s, time_s), 1, len(self.times_s) - 1))
        start, end = self.times_s[after - 1], self.times_s[after]
        share = float(np.clip((time_s - start) / (end - start), 0, 1))
        x, y, z = self.positions[after - 1] + share * (self.positions[after] - self.positions[after - 1])
        first, second = self.rotations[after - 1], self.rotations[after]
        # The shorter way round; the steps are small enough to interpolate quaternions linearly.
        mixed = first + share * ((second if first @ second >= 0 else -second) - first)
        a, b, c, d = mixed / np.linalg.norm(mixed)
        return (float(x), float(y), float(z)), (float(a), float(b), float(c), float(d))

    def end(self) -> tuple[Vector, Quaternion]:
        """Returns the last pose."""
        return self.at(float(self.times_s[-1]))

    def then(self, other: Path) -> Path:
        """Returns this path continued by another one that starts where it ends."""
        return Path(
            np.concatenate([self.times_s, other.times_s[1:]]),
            np.vstack([self.positions, other.positions[1:]]),
            np.vstack([self.rotations, other.rotations[1:]]),
        )


def carry(thing: Thing, start: Vector, end: Vector, others: Sequence[Thing], start_s: float, end_s: float) -> Path:
    """Returns the path of an object that slides, or is lifted over what is in its way; slow at both ends."""
    a, b = np.array(start), np.array(end)
    top = max((float(other.hull[:, 2].max()) for other in others if is_in_the_way(thing, a, b, other)), default=0.0)
    lift = max(0.0, top + _CLEARANCE_M - min(a[2], b[2])) if top > 0 else 0.0
    share = np.linspace(0, 1, _STEPS + 1)
    eased = share * share * (3 - 2 * share)
    positions = a + eased[:, None] * (b - a)
    # Up in the first fifth of the way, down in the last: over everything in between.
    positions[:, 2] += lift * np.clip(np.minimum(eased, 1 - eased) * 5, 0, 1)
    return Path(start_s + share * (end_s - start_s), positions, np.tile(np.array(thing.rotation), (_STEPS + 1, 1)))


def is_in_the_way(thing: Thing, start: FloatArray, end: FloatArray, other: Thing) -> bool:
    """Returns whether the straight way of an object passes over another one's circle on the table."""
    way, place = (end - start)[:2], np.array(other.position[:2])
    length = float(way @ way)
    share = float(np.clip((place - start[:2]) @ way / length, 0, 1)) if length else 0.0
    apart = np.linalg.norm(start[:2] + share * way - place)
    return bool(apart < thing.radius + other.radius)
