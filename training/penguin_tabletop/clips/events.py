"""Events of a clip with their exact times, and the motion that belongs to each."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from penguin_models.grounding import TimeRange
from penguin_tabletop.clips.motion import Path
from penguin_tabletop.scene.camera import Camera
from penguin_tabletop.scene.scene import Scene, Thing

EventKind = Literal["appears", "moved", "falls", "leaves", "camera"]
EVENT_KINDS: tuple[EventKind, ...] = get_args(EventKind)


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

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return asdict(self)


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
    distance, pitch = mix(first.distance, second.distance), mix(first.pitch, second.pitch)
    roll, fov = mix(first.roll, second.roll), mix(first.fov, second.fov)
    return Camera((x, y, z), distance, float(first.yaw + eased * turn), pitch, roll, fov)
