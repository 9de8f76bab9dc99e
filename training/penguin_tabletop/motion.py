"""How a thing gets from one place to another: paths through time. No events, no physics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penguin_tabletop.meshes import FloatArray
from penguin_tabletop.scene import Quaternion, Thing, Vector

_CLEARANCE_M = 0.02
_STEPS = 24


@dataclass(frozen=True, eq=False)
class Path:
    """Poses over time.

    Attributes:
        times_s: [K], rising.
        positions: [K, 3] in metres.
        turns: quaternions, [K, 4].
    """

    times_s: FloatArray
    positions: FloatArray
    turns: FloatArray

    def at(self, time_s: float) -> tuple[Vector, Quaternion]:
        """The pose at a time; before and after the path, its ends."""
        after = int(np.clip(np.searchsorted(self.times_s, time_s), 1, len(self.times_s) - 1))
        start, end = self.times_s[after - 1], self.times_s[after]
        share = float(np.clip((time_s - start) / (end - start), 0, 1))
        x, y, z = self.positions[after - 1] + share * (self.positions[after] - self.positions[after - 1])
        first, second = self.turns[after - 1], self.turns[after]
        # The shorter way round; the steps are small enough for a straight line between quaternions.
        mixed = first + share * ((second if first @ second >= 0 else -second) - first)
        a, b, c, d = mixed / np.linalg.norm(mixed)
        return (float(x), float(y), float(z)), (float(a), float(b), float(c), float(d))

    def places(self) -> list[Vector]:
        """The positions it was made from."""
        return [(float(x), float(y), float(z)) for x, y, z in self.positions]

    def then(self, other: Path) -> Path:
        """This path, and from its end on the other one."""
        return Path(
            np.concatenate([self.times_s, other.times_s[1:]]),
            np.vstack([self.positions, other.positions[1:]]),
            np.vstack([self.turns, other.turns[1:]]),
        )


def carried(thing: Thing, start: Vector, end: Vector, others: Sequence[Thing], start_s: float, end_s: float) -> Path:
    """A thing that slides, or is lifted over what is in its way, from one place to another; slow at both ends."""
    a, b = np.array(start), np.array(end)
    top = max((_height(other) for other in others if _in_the_way(thing, a, b, other)), default=0.0)
    lift = max(0.0, top + _CLEARANCE_M - min(a[2], b[2])) if top > 0 else 0.0
    share = np.linspace(0, 1, _STEPS + 1)
    eased = share * share * (3 - 2 * share)
    positions = a + eased[:, None] * (b - a)
    # Up in the first fifth of the way, down in the last: over everything in between.
    positions[:, 2] += lift * np.clip(np.minimum(eased, 1 - eased) * 5, 0, 1)
    turns = np.tile(np.array(thing.turn), (_STEPS + 1, 1))
    return Path(start_s + share * (end_s - start_s), positions, turns)


def _height(thing: Thing) -> float:
    return float(thing.outer[:, 2].max())


def _in_the_way(thing: Thing, start: FloatArray, end: FloatArray, other: Thing) -> bool:
    """Whether the straight way passes over the other thing's circle on the table."""
    way, place = (end - start)[:2], np.array(other.position[:2])
    length = float(way @ way)
    share = float(np.clip((place - start[:2]) @ way / length, 0, 1)) if length else 0.0
    apart = np.linalg.norm(start[:2] + share * way - place)
    return bool(apart < thing.radius + other.radius)
