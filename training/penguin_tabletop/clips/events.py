"""Events of a clip with their exact times, and the motion that belongs to each: paths of objects and of the camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from penguin_models.grounding import TimeRange
from penguin_tabletop.scene.camera import Camera
from penguin_tabletop.scene.meshes import FloatArray
from penguin_tabletop.scene.scene import Quaternion, Scene, Thing, Vector

EventKind = Literal["appears", "moved", "falls", "leaves", "camera"]
_CLEARANCE_M = 0.02
_STEPS = 24


@dataclass(frozen=True)
class Event:
    """An object appears, is moved, falls or leaves, or the camera moves."""

    kind: EventKind
    start_s: float  # first moment of the motion, in tenths of a second
    end_s: float  # last moment
    thing: int | None  # id of the object, None for the camera
    label: str  # "camera" for the camera
    where: str = ""  # how it moves as the camera sees it ("to the left", "onto the blue cube", "off the table"), or ""

    @property
    def span(self) -> TimeRange:
        """Start and end as a time range."""
        return TimeRange(self.start_s, self.end_s)


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


@dataclass(frozen=True)
class Step:
    """An event with the scenes before and after it."""

    event: Event
    before: Scene
    after: Scene
    thing: Thing | None = None  # the object that moves, None for the camera
    path: Path | None = None

    def at(self, time_s: float) -> Scene:
        """Returns the scene at a moment."""
        if time_s < self.event.start_s:
            return self.before
        if time_s >= self.event.end_s:
            return self.after
        if self.thing is None or self.path is None:
            share = (time_s - self.event.start_s) / (self.event.end_s - self.event.start_s)
            return replace(self.before, camera=camera_between(self.before.camera, self.after.camera, share))
        position, rotation = self.path.at(time_s)
        moving = replace(self.thing, position=position, rotation=rotation, on=None)
        return replace(self.before, things=(*self.before.others(moving), moving))


def camera_between(first: Camera, second: Camera, share: float) -> Camera:
    """Returns a camera on its way from one pose to another, slow at both ends."""
    eased = share * share * (3 - 2 * share)

    def mix(a: float, b: float) -> float:
        return a + eased * (b - a)

    turn = (second.yaw - first.yaw + np.pi) % (2 * np.pi) - np.pi
    x, y, z = (mix(a, b) for a, b in zip(first.target, second.target, strict=True))
    others = {name: mix(getattr(first, name), getattr(second, name)) for name in ("distance", "pitch", "roll", "fov")}
    return Camera((x, y, z), yaw=float(first.yaw + eased * turn), **others)


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
