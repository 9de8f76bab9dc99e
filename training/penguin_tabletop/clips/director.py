"""Plans the next event of a table-top so that the camera can see it.

Every event is slow enough to be noticed at one or two frames a second. No label is used twice in a clip, so that the
label alone identifies the object of an event.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from penguin_models.types import Size
from penguin_tabletop.clips.events import Event, EventKind, Path, Step, carry
from penguin_tabletop.clips.falls import FIXED_KINDS, plan_fall
from penguin_tabletop.scene.camera import Camera
from penguin_tabletop.scene.planning import all_visible, place
from penguin_tabletop.scene.random_parts import HIGHEST_PITCH, LOWEST_PITCH, MOST_THINGS, random_thing
from penguin_tabletop.scene.scene import Scene, Thing, Vector, in_view, out_of_view, rect_of
from penguin_tabletop.seeds import Random, choose_weighted

_WEIGHTS: dict[EventKind, float] = {"appears": 0.2, "moved": 0.24, "falls": 0.32, "leaves": 0.18, "camera": 0.1}
_DURATION_S = (1.5, 3.5)
_MIN_SHIFT = 0.15  # smallest shift of a moved object, as a share of the image's width or height
_DIRECTION_RATIO = 1.6  # how many times one direction must outweigh the other to be named
_TRIES = 30
_REMEMBERED_LABELS = 40
_FURTHEST_M = 1.5


class Director:
    """Plans events one after another."""

    def __init__(self, random: Random, size: Size, with_falls: bool = True):
        self._random, self._size, self._with_falls = random, size, with_falls
        self._planners: dict[EventKind, Callable[[Scene, float, float], Step | None]] = {
            "appears": self._appears,
            "moved": self._moved,
            "falls": lambda scene, start_s, end_s: plan_fall(random, scene, size, start_s),
            "leaves": self._leaves,
            "camera": self._camera,
        }
        self._labels: list[str] = []
        self._next_id = 0

    def next_step(self, scene: Scene, start_s: float) -> Step | None:
        """Plans an event that starts at a time in tenths of a second; returns None if none fits the scene."""
        self._remember(scene)
        possible = {
            "appears": len(scene.things) < MOST_THINGS,
            "leaves": len(scene.things) > 1,
            "falls": self._with_falls,
        }
        weights = {kind: weight for kind, weight in _WEIGHTS.items() if possible.get(kind, True)}
        for kind in choose_weighted(self._random, weights, len(weights), repeat=False):
            duration_s = round(self._random.uniform(*_DURATION_S), 1)
            step = self._planners[kind](scene, start_s, round(start_s + duration_s, 1))
            if step is not None:
                return step
        return None

    def _remember(self, scene: Scene) -> None:
        """Notes the labels in use; on an endless table the oldest may be used again."""
        present = [thing.label for thing in scene.things]
        old = [label for label in self._labels if label not in present]
        self._labels = old[-_REMEMBERED_LABELS:] + present
        self._next_id = max([self._next_id, *(thing.id + 1 for thing in scene.things)])

    def _appears(self, scene: Scene, start_s: float, end_s: float) -> Step | None:
        unplaced = random_thing(self._random, scene.surroundings.table, self._next_id, self._labels)
        thing = place(self._random, scene, self._size, unplaced)
        outside = None if thing is None else self._place_outside(thing, scene.camera)
        if thing is None or outside is None:
            return None
        path = carry(thing, outside, thing.position, scene.things, start_s, end_s)
        visible_from_s = self._visible_span(thing, path, scene.camera)[0]
        event = Event("appears", visible_from_s, end_s, thing.id, thing.label, _on_words(scene, thing, "on"))
        return Step(event, scene, replace(scene, things=(*scene.things, thing)), thing, path)

    def _moved(self, scene: Scene, start_s: float, end_s: float) -> Step | None:
        thing = self._random_free_thing(scene, upright=True)
        if thing is None:
            return None
        for _ in range(_TRIES):
            target = place(self._random, scene, self._size, thing)
            if target is None:
                return None
            moved = replace(thing, position=target.position, on=target.on)
            after = scene.updated(moved)
            if not all_visible(after, self._size) or not self._is_far_enough(thing, moved, scene.camera):
                continue
            path = carry(thing, thing.position, moved.position, scene.others(thing), start_s, end_s)
            positions = [(float(x), float(y), float(z)) for x, y, z in path.positions]
            if all(in_view(replace(thing, position=position), scene.camera, self._size) for position in positions):
                where = _on_words(scene, moved, "onto") or _direction_words(scene.camera, thing, moved)
                return Step(Event("moved", start_s, end_s, thing.id, thing.label, where), scene, after, thing, path)
        return None

    def _leaves(self, scene: Scene, start_s: float, end_s: float) -> Step | None:
        thing = self._random_free_thing(scene)
        outside = None if thing is None else self._place_outside(thing, scene.camera)
        if thing is None or outside is None:
            return None
        path = carry(thing, thing.position, outside, scene.others(thing), start_s, end_s)
        visible_until_s = self._visible_span(thing, path, scene.camera)[1]
        event = Event("leaves", start_s, visible_until_s, thing.id, thing.label)
        return Step(event, scene, scene.without(thing), thing, path)

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
            if all_visible(after, self._size):
                return Step(Event("camera", start_s, end_s, None, "camera"), scene, after)
        return None

    def _random_free_thing(self, scene: Scene, upright: bool = False) -> Thing | None:
        """Returns an object that can be taken away: nothing is on it."""
        carrying = {thing.on for thing in scene.things}
        movable = [thing for thing in scene.things if thing.id not in carrying and thing.kind not in FIXED_KINDS]
        free = [thing for thing in movable if not (upright and thing.tilted)]
        return free[self._random.integers(len(free))] if free else None

    def _place_outside(self, thing: Thing, camera: Camera) -> Vector | None:
        """Returns the nearest place to the left or right, roughly, at which the camera does not see the object."""
        x, y, z = thing.position
        angles = camera.yaw + (np.array([0.0, np.pi]) + self._random.uniform(-0.6, 0.6, 2))
        for distance in np.arange(0.04, _FURTHEST_M, 0.02):
            for angle in angles:
                position = float(x + distance * np.cos(angle)), float(y + distance * np.sin(angle)), z
                if out_of_view(replace(thing, position=position), camera, self._size):
                    return position
        return None

    def _visible_span(self, thing: Thing, path: Path, camera: Camera) -> tuple[float, float]:
        """Returns the tenths of a second between which the camera sees an object on its path."""
        tenths = [number / 10 for number in range(round(path.times_s[0] * 10), round(path.times_s[-1] * 10) + 1)]
        outside = [out_of_view(replace(thing, position=path.at(time)[0]), camera, self._size) for time in tenths]
        visible = [number for number, out in enumerate(outside) if not out]
        return tenths[max(visible[0] - 1, 0)], tenths[min(visible[-1] + 1, len(tenths) - 1)]

    def _is_far_enough(self, thing: Thing, moved: Thing, camera: Camera) -> bool:
        a, b = rect_of(thing, camera, self._size), rect_of(moved, camera, self._size)
        shift = np.abs([a.left + a.right - b.left - b.right, a.top + a.bottom - b.top - b.bottom]) / 2
        return bool((shift / (self._size.width, self._size.height)).max() > _MIN_SHIFT)


def _on_words(scene: Scene, thing: Thing, preposition: str) -> str:
    """Returns what an object is put on in words, "" for the table."""
    return "" if thing.on is None else f"{preposition} the {scene.thing(thing.on).label}"


def _direction_words(camera: Camera, before: Thing, after: Thing) -> str:
    """Returns where an object moves as the camera sees it, "" if that is not clear."""
    start, end = camera.on_ground(np.array(before.position)), camera.on_ground(np.array(after.position))
    right, ahead = end[0] - start[0], end[1] - start[1]
    if abs(right) >= _DIRECTION_RATIO * abs(ahead):
        return "to the right" if right > 0 else "to the left"
    if abs(ahead) >= _DIRECTION_RATIO * abs(right):
        return "to the back" if ahead > 0 else "to the front"
    return ""
