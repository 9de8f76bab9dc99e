"""Thinks up the next event of a table-top, and makes sure that the camera can see it.

Every event is slow enough to be noticed at one or two frames a second. Names are never given twice in a clip, so that
an event's object can be told from its label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from penguin_models.types import Size
from penguin_tabletop.camera import Camera
from penguin_tabletop.choosing import any_thing
from penguin_tabletop.conditions import HIGHEST_PITCH, LOWEST_PITCH
from penguin_tabletop.events import Event, EventKind, Step
from penguin_tabletop.falls import FIXED, plan_fall
from penguin_tabletop.meshes import FloatArray
from penguin_tabletop.motion import Path, carried
from penguin_tabletop.planning import all_clear, place
from penguin_tabletop.scene import Scene, Thing, Vector
from penguin_tabletop.view import in_view, out_of_view, rect_of

MOST_THINGS, FEWEST_THINGS = 6, 1
_KINDS: dict[EventKind, float] = {"appears": 0.2, "moved": 0.24, "falls": 0.32, "leaves": 0.18, "camera": 0.1}
_DURATION_S = (1.5, 3.5)
_SHIFT = 0.15
"""A moved object must move at least this share of the image's width or height."""
_CLEARLY = 1.6
_TRIES = 30
_REMEMBERED = 40
_FURTHEST_M = 1.5


class Director:
    """Plans events one after another."""

    def __init__(self, random: np.random.Generator, size: Size, with_falls: bool = True):
        """Plans for a camera.

        Args:
            random: decides everything.
            size: of the image; only its proportions matter.
            with_falls: without them no physics is needed.
        """
        self._random, self._size, self._with_falls = random, size, with_falls
        self._makers: dict[EventKind, Callable[[Scene, float, float], Step | None]] = {
            "appears": self._appears,
            "moved": self._moved,
            "falls": self._falls,
            "leaves": self._leaves,
            "camera": self._camera,
        }
        self._names: list[str] = []
        self._next_id = 0

    def next_step(self, scene: Scene, start_s: float) -> Step | None:
        """The next event.

        Args:
            scene: as it is before.
            start_s: when the event starts, in tenths of a second.

        Returns:
            None if nothing fits this scene.
        """
        self._remember(scene)
        kinds = [kind for kind in _KINDS if self._possible(kind, scene)]
        weights = np.array([_KINDS[kind] for kind in kinds])
        for index in self._random.choice(len(kinds), len(kinds), replace=False, p=weights / weights.sum()):
            duration = round(float(self._random.uniform(*_DURATION_S)), 1)
            step = self._makers[kinds[index]](scene, start_s, round(start_s + duration, 1))
            if step is not None:
                return step
        return None

    def _remember(self, scene: Scene) -> None:
        """Names that have been used lately: on an endless table, the oldest may come back."""
        present = [thing.label for thing in scene.things]
        self._names = [name for name in self._names if name not in present][-_REMEMBERED:] + present
        self._next_id = max([self._next_id, *(thing.id + 1 for thing in scene.things)])

    def _possible(self, kind: EventKind, scene: Scene) -> bool:
        if kind == "appears":
            return len(scene.things) < MOST_THINGS
        if kind == "leaves":
            return len(scene.things) > FEWEST_THINGS
        return kind != "falls" or self._with_falls

    def _appears(self, scene: Scene, start_s: float, end_s: float) -> Step | None:
        look = any_thing(self._random, scene.surroundings.table, self._next_id, self._names)
        thing = place(self._random, scene, self._size, look)
        outside = None if thing is None else self._outside(thing, scene.camera)
        if thing is None or outside is None:
            return None
        path = carried(thing, outside, thing.position, scene.things, start_s, end_s)
        seen_s = self._seen(thing, path, scene.camera)
        event = Event("appears", seen_s[0], end_s, thing.id, thing.label, _on(scene, thing, "on"))
        return Step(event, scene, replace(scene, things=(*scene.things, thing)), thing, path)

    def _moved(self, scene: Scene, start_s: float, end_s: float) -> Step | None:
        thing = self._free(scene, upright=True)
        if thing is None:
            return None
        for _ in range(_TRIES):
            there = place(self._random, scene, self._size, thing)
            if there is None:
                return None
            moved = replace(thing, position=there.position, on=there.on)
            after = _with(scene, moved, self._size)
            if after is None or not self._far_enough(thing, moved, scene.camera):
                continue
            others = [other for other in scene.things if other.id != thing.id]
            path = carried(thing, thing.position, moved.position, others, start_s, end_s)
            if all(in_view(replace(thing, position=position), scene.camera, self._size) for position in path.places()):
                where = _on(scene, moved, "onto") or _direction(scene.camera, thing, moved)
                return Step(Event("moved", start_s, end_s, thing.id, thing.label, where), scene, after, thing, path)
        return None

    def _falls(self, scene: Scene, start_s: float, end_s: float) -> Step | None:
        return plan_fall(self._random, scene, self._size, start_s)

    def _leaves(self, scene: Scene, start_s: float, end_s: float) -> Step | None:
        thing = self._free(scene)
        outside = None if thing is None else self._outside(thing, scene.camera)
        if thing is None or outside is None:
            return None
        others = tuple(other for other in scene.things if other.id != thing.id)
        path = carried(thing, thing.position, outside, others, start_s, end_s)
        event = Event("leaves", start_s, self._seen(thing, path, scene.camera)[1], thing.id, thing.label)
        return Step(event, scene, replace(scene, things=others), thing, path)

    def _camera(self, scene: Scene, start_s: float, end_s: float) -> Step | None:
        now = scene.camera
        for _ in range(_TRIES):
            x, y = self._random.uniform(-0.14, 0.14, 2)
            turn = float(self._random.uniform(0.25, 0.7) * self._random.choice([-1, 1]))
            camera = replace(
                now,
                target=(float(x), float(y), now.target[2]),
                distance=float(np.clip(now.distance * self._random.uniform(0.85, 1.2), 0.5, 0.9)),
                yaw=now.yaw + turn,
                pitch=float(np.clip(now.pitch + self._random.uniform(-0.2, 0.2), LOWEST_PITCH, HIGHEST_PITCH)),
            )
            after = replace(scene, camera=camera)
            if all_clear(after, self._size):
                return Step(Event("camera", start_s, end_s, None, "camera"), scene, after)
        return None

    def _free(self, scene: Scene, upright: bool = False) -> Thing | None:
        """A thing that can be taken away: nothing is on it."""
        carrying = {thing.on for thing in scene.things}
        free = [t for t in scene.things if t.id not in carrying and t.kind not in FIXED and not (upright and t.tilted)]
        return free[self._random.integers(len(free))] if free else None

    def _outside(self, thing: Thing, camera: Camera) -> Vector | None:
        """The nearest place beside its place where the camera does not see it, in one of a few directions."""
        best = None
        for angle in np.array([0.0, np.pi]) + self._random.uniform(-0.6, 0.6, 2):
            way = np.array([np.cos(camera.yaw + angle), np.sin(camera.yaw + angle)])
            found = _first_outside(thing, camera, self._size, way)
            if found is not None and (best is None or found[0] < best[0]):
                best = found
        return None if best is None else best[1]

    def _seen(self, thing: Thing, path: Path, camera: Camera) -> tuple[float, float]:
        """The tenths of a second between which the camera sees a thing on its path."""
        tenths = [number / 10 for number in range(round(path.times_s[0] * 10), round(path.times_s[-1] * 10) + 1)]
        outside = [out_of_view(replace(thing, position=path.at(time)[0]), camera, self._size) for time in tenths]
        seen = [number for number, out in enumerate(outside) if not out]
        return tenths[max(seen[0] - 1, 0)], tenths[min(seen[-1] + 1, len(tenths) - 1)]

    def _far_enough(self, thing: Thing, moved: Thing, camera: Camera) -> bool:
        a, b = rect_of(thing, camera, self._size), rect_of(moved, camera, self._size)
        shift = np.abs([a.left + a.right - b.left - b.right, a.top + a.bottom - b.top - b.bottom]) / 2
        return bool((shift / (self._size.width, self._size.height)).max() > _SHIFT)


def _first_outside(thing: Thing, camera: Camera, size: Size, way: FloatArray) -> tuple[float, Vector] | None:
    x, y, z = thing.position
    for distance in np.arange(0.04, _FURTHEST_M, 0.02):
        position = (float(x + distance * way[0]), float(y + distance * way[1]), z)
        if out_of_view(replace(thing, position=position), camera, size):
            return float(distance), position
    return None


def _with(scene: Scene, moved: Thing, size: Size) -> Scene | None:
    """The scene with a thing in its new place, None if not everything can be seen then."""
    things = tuple(moved if thing.id == moved.id else thing for thing in scene.things)
    after = replace(scene, things=things)
    return after if all_clear(after, size) else None


def _on(scene: Scene, thing: Thing, word: str) -> str:
    """What a thing is put on, in words; "" for the table."""
    return "" if thing.on is None else f"{word} the {scene.thing(thing.on).label}"


def _direction(camera: Camera, before: Thing, after: Thing) -> str:
    """Where something moves as the camera sees it, "" if that is not clear."""
    start, end = camera.on_ground(np.array(before.position)), camera.on_ground(np.array(after.position))
    right, ahead = end[0] - start[0], end[1] - start[1]
    if abs(right) >= _CLEARLY * abs(ahead):
        return "to the right" if right > 0 else "to the left"
    if abs(ahead) >= _CLEARLY * abs(right):
        return "to the back" if ahead > 0 else "to the front"
    return ""
