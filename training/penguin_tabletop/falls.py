"""Plans how an object falls: tipped over, pushed off what it stands on, or pushed off the table.

First it is tilted or pushed slowly, then physics has it; the event is both.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from penguin_models.types import Size
from penguin_tabletop.catalogue import KINDS
from penguin_tabletop.events import Event, Step
from penguin_tabletop.meshes import FloatArray
from penguin_tabletop.motion import Path
from penguin_tabletop.physics import Fall, physics
from penguin_tabletop.planning import all_clear
from penguin_tabletop.scene import Scene, Thing, Vector, rotation_of
from penguin_tabletop.view import in_view

FIXED = ("robot arm", "tray")
"""Kinds that stay where they are."""
_TIP_S = (1.0, 1.8)
_PUSH_M_S = (0.05, 0.09)
_TIP_DEGREES = 24.0
_LYING = 0.5
"""A thing lies when its axis has turned so far that its cosine is below this."""
_EDGE_M = 0.22
"""A thing this near to the table's edge can be pushed off it."""
_STEPS = 20
_TRIES = 3


def plan_fall(random: np.random.Generator, scene: Scene, size: Size, start_s: float) -> Step | None:
    """An object that falls, None if none can."""
    carrying = {thing.on for thing in scene.things}
    for index in random.permutation(len(scene.things)):
        thing = scene.things[index]
        if thing.id in carrying or thing.kind in FIXED or thing.tilted:
            continue
        step = None
        for _ in range(_TRIES):
            step = step or _any_fall(random, scene, size, thing, start_s)
        if step is not None:
            return step
    return None


def _any_fall(random: np.random.Generator, scene: Scene, size: Size, thing: Thing, start_s: float) -> Step | None:
    """The fall that suits where a thing is."""
    if thing.on is not None:
        on_tray = scene.thing(thing.on).kind == "tray"
        return None if on_tray else _pushed_off_support(random, scene, size, thing, start_s)
    if _distance_to_edge(scene, thing)[0] < _EDGE_M and random.random() < 0.5:
        return _pushed_off_table(random, scene, size, thing, start_s)
    return _tipped_over(random, scene, size, thing, start_s) if KINDS[thing.kind].topples else None


def _tipped_over(random: np.random.Generator, scene: Scene, size: Size, thing: Thing, start_s: float) -> Step | None:
    """Tilted around the edge of its foot until it topples."""
    angle = float(random.uniform(-np.pi, np.pi))
    axis = np.array([-np.sin(angle), np.cos(angle), 0.0])
    way = np.array([np.cos(angle), np.sin(angle), 0.0])
    points = thing.outer - thing.position
    foot = points[points[:, 2] < 0.004]
    pivot = way * float((foot @ way).max())
    tilts = np.linspace(0, np.radians(_TIP_DEGREES), _STEPS + 1)
    times = start_s + np.linspace(0, float(random.uniform(*_TIP_S)), _STEPS + 1)
    turns = np.array([_after(_around(axis, tilt), np.array(thing.turn)) for tilt in tilts])
    positions = np.array([thing.position + pivot - _matrix(_around(axis, tilt)) @ pivot for tilt in tilts])
    tilt = Path(times, positions, turns)
    height = thing.shape.height * thing.scale
    velocity = (float(way[0] * height), float(way[1] * height), 0.0)
    spin = (float(axis[0] * 2), float(axis[1] * 2), 0.0)
    step = _finish(scene, size, thing, tilt, velocity, spin, "over")
    if step is None or step.thing is None:
        return None
    end = step.after.thing(thing.id)
    return step if rotation_of(end.turn)[2, 2] < _LYING else None


def _pushed_off_support(
    random: np.random.Generator, scene: Scene, size: Size, thing: Thing, start_s: float
) -> Step | None:
    """Pushed over the edge of what carries it."""
    assert thing.on is not None
    support = scene.thing(thing.on)
    angle = float(random.uniform(-np.pi, np.pi))
    way = np.array([np.cos(angle), np.sin(angle), 0.0])
    top = support.outer[support.outer[:, 2] > support.outer[:, 2].max() - 0.012]
    distance = float(((top - thing.position) @ way).max()) + 0.012
    push = _push(thing, way, distance, start_s, float(random.uniform(*_PUSH_M_S)))
    velocity = (float(way[0] * 0.25), float(way[1] * 0.25), 0.0)
    return _finish(scene, size, thing, push, velocity, (0.0, 0.0, 0.0), f"off the {support.label}")


def _pushed_off_table(
    random: np.random.Generator, scene: Scene, size: Size, thing: Thing, start_s: float
) -> Step | None:
    """Pushed over the edge of the table, where the camera sees it; it is gone then."""
    distance, way = _distance_to_edge(scene, thing)
    push = _push(thing, way, distance + 0.006, start_s, 1.6 * float(random.uniform(*_PUSH_M_S)))
    edge, _ = push.at(float(push.times_s[-1]))
    if not in_view(replace(thing, position=edge), scene.camera, size):
        return None
    if any(_in_the_way(thing, way * distance, other) for other in scene.things if other.id != thing.id):
        return None
    velocity = (float(way[0] * 0.3), float(way[1] * 0.3), 0.0)
    return _finish(scene, None, thing, push, velocity, (0.0, 0.0, 0.0), "off the table")


def _push(thing: Thing, way: FloatArray, distance: float, start_s: float, speed: float) -> Path:
    share = np.linspace(0, 1, _STEPS + 1)
    times = start_s + share * max(distance / speed, 0.8)
    positions = np.array(thing.position) + share[:, None] * distance * way
    return Path(times, positions, np.tile(np.array(thing.turn), (_STEPS + 1, 1)))


def _finish(
    scene: Scene, size: Size | None, thing: Thing, start: Path, velocity: Vector, spin: Vector, where: str
) -> Step | None:
    """Lets go at the end of a path; the size is that of the image that must show the end, None if it is to be gone."""
    let_go_s = float(start.times_s[-1])
    position, turn = start.at(let_go_s)
    others = [other for other in scene.things if other.id != thing.id]
    released = replace(thing, position=position, turn=turn, on=None)
    fall = physics().fall(released, velocity, spin, others, scene.surroundings, let_go_s)
    if fall is None or fall.gone != (size is None):
        return None
    after = _after_fall(scene, thing, fall)
    if size is not None and not (in_view(after.thing(thing.id), scene.camera, size) and all_clear(after, size)):
        return None
    end_s = float(np.ceil(fall.path.times_s[-1] * 10) / 10)
    event = Event("falls", float(start.times_s[0]), round(end_s, 1), thing.id, thing.label, where)
    return Step(event, scene, after, thing, start.then(fall.path))


def _after_fall(scene: Scene, thing: Thing, fall: Fall) -> Scene:
    if fall.gone:
        return replace(scene, things=tuple(other for other in scene.things if other.id != thing.id))
    position, turn = fall.path.at(float(fall.path.times_s[-1]))
    lying = replace(thing, position=position, turn=turn, on=None)
    return replace(scene, things=tuple(lying if other.id == thing.id else other for other in scene.things))


def _distance_to_edge(scene: Scene, thing: Thing) -> tuple[float, FloatArray]:
    """How far it is to the nearest edge of the table, and the way there."""
    x, y, _ = thing.position
    around = scene.surroundings
    ways = [
        (around.half_width - x, (1.0, 0.0)),
        (around.half_width + x, (-1.0, 0.0)),
        (around.half_depth - y, (0.0, 1.0)),
        (around.half_depth + y, (0.0, -1.0)),
    ]
    distance, (dx, dy) = min(ways)
    return distance, np.array([dx, dy, 0.0])


def _in_the_way(thing: Thing, way: FloatArray, other: Thing) -> bool:
    place = np.array(other.position) - thing.position
    share = float(np.clip(place @ way / (way @ way), 0, 1))
    return bool(np.linalg.norm((share * way - place)[:2]) < thing.radius + other.radius)


def _around(axis: FloatArray, angle: float) -> FloatArray:
    """Quaternion of a turn around a unit vector."""
    return np.array([*(axis * np.sin(angle / 2)), np.cos(angle / 2)])


def _matrix(turn: FloatArray) -> FloatArray:
    x, y, z, w = turn.tolist()
    return rotation_of((x, y, z, w))


def _after(second: FloatArray, first: FloatArray) -> FloatArray:
    """Quaternion of one turn after another."""
    (a, b, c, d), (x, y, z, w) = second, first
    return np.array(
        [
            d * x + a * w + b * z - c * y,
            d * y - a * z + b * w + c * x,
            d * z + a * y - b * x + c * w,
            d * w - a * x - b * y - c * z,
        ]
    )
