"""What happens in a clip: events with their exact times, and the motion that belongs to each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from penguin_models.grounding import TimeRange
from penguin_tabletop.camera import Camera
from penguin_tabletop.motion import Path
from penguin_tabletop.scene import Scene, Thing

EventKind = Literal["appears", "moved", "falls", "leaves", "camera"]
EVENT_KINDS: tuple[EventKind, ...] = get_args(EventKind)


@dataclass(frozen=True)
class Event:
    """Something that happens.

    Attributes:
        kind: an object appears, is moved, falls or leaves, or the camera moves.
        start_s, end_s: first and last moment of the motion, in tenths of a second.
        thing: id of the object, None for the camera.
        label: of the object, "camera" for the camera.
        where: how it moves as the camera sees it ("to the left", "onto the blue cube", "off the table"), or "".
    """

    kind: EventKind
    start_s: float
    end_s: float
    thing: int | None
    label: str
    where: str = ""

    @property
    def span(self) -> TimeRange:
        """From when to when."""
        return TimeRange(self.start_s, self.end_s)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "kind": self.kind,
            "start_s": self.start_s,
            "end_s": self.end_s,
            "thing": self.thing,
            "label": self.label,
            "where": self.where,
        }


@dataclass(frozen=True)
class Step:
    """An event with what moves in it.

    Attributes:
        event: what happens.
        before: the scene until it starts.
        after: the scene from its end on.
        thing, path: what moves and how, None for the camera.
    """

    event: Event
    before: Scene
    after: Scene
    thing: Thing | None = None
    path: Path | None = None

    def at(self, time_s: float) -> Scene:
        """The scene at a moment."""
        if time_s < self.event.start_s:
            return self.before
        if time_s >= self.event.end_s:
            return self.after
        if self.thing is None or self.path is None:
            share = (time_s - self.event.start_s) / (self.event.end_s - self.event.start_s)
            return replace(self.before, camera=between(self.before.camera, self.after.camera, share))
        position, turn = self.path.at(time_s)
        moving = replace(self.thing, position=position, turn=turn, on=None)
        others = tuple(thing for thing in self.before.things if thing.id != moving.id)
        return replace(self.before, things=(*others, moving))


def between(first: Camera, second: Camera, share: float) -> Camera:
    """A camera on its way from one place to another, slow at both ends."""
    eased = share * share * (3 - 2 * share)

    def mix(a: float, b: float) -> float:
        return a + eased * (b - a)

    turn = (second.yaw - first.yaw + np.pi) % (2 * np.pi) - np.pi
    x, y, z = (mix(a, b) for a, b in zip(first.target, second.target, strict=True))
    return Camera(
        (x, y, z),
        mix(first.distance, second.distance),
        float(first.yaw + eased * turn),
        mix(first.pitch, second.pitch),
        mix(first.roll, second.roll),
        mix(first.fov, second.fov),
    )
