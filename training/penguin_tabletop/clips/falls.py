"""Plans how an object falls: tipped over, pushed off its support, or pushed off the table.

The object is first tilted or pushed slowly, then the physics simulation takes over; the event covers both.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from penguin_models.types import Size
from penguin_tabletop.clips.events import Event, Path, Step, is_in_the_way
from penguin_tabletop.clips.physics import LOST_M, fall_of
from penguin_tabletop.scene.catalogue import KINDS
from penguin_tabletop.scene.meshes import FloatArray
from penguin_tabletop.scene.planning import all_visible
from penguin_tabletop.scene.scene import Scene, Thing, in_view, rotation_matrix
from penguin_tabletop.seeds import Random

FIXED_KINDS = ("robot arm", "tray")
_TIP_S = (1.0, 1.8)
_PUSH_M_S = (0.05, 0.09)
_TIP_DEGREES = 24.0
_LYING_COSINE = 0.5  # an object lies once the cosine of its axis with the vertical is below this
_EDGE_M = 0.22  # an object this close to the table's edge can be pushed off it
_STEPS = 20
_TRIES = 3
_STILL = np.zeros(3)


def plan_fall(random: Random, scene: Scene, size: Size, start_s: float) -> Step | None:
    """Plans the fall of an object; returns None if none can fall."""
    carrying = {thing.on for thing in scene.things}
    for index in random.permutation(len(scene.things)):
        thing = scene.things[index]
        if thing.id in carrying or thing.kind in FIXED_KINDS or thing.tilted:
            continue
        for _ in range(_TRIES):
            step = _plan_fall_of(random, scene, size, thing, start_s)
            if step is not None:
                return step
    return None


def _plan_fall_of(random: Random, scene: Scene, size: Size, thing: Thing, start_s: float) -> Step | None:
    if thing.on is not None:
        support = scene.thing(thing.on)
        return None if support.kind == "tray" else _push_off_support(random, scene, size, thing, support, start_s)
    if _distance_to_edge(scene, thing)[0] < _EDGE_M and random.random() < 0.5:
        return _push_off_table(random, scene, size, thing, start_s)
    return _tip_over(random, scene, size, thing, start_s) if KINDS[thing.kind].topples else None


def _tip_over(random: Random, scene: Scene, size: Size, thing: Thing, start_s: float) -> Step | None:
    """Tilts an object around the edge of its foot until it topples."""
    way = _random_way(random)
    axis = np.array([-way[1], way[0], 0.0])
    points = thing.hull - thing.position
    foot = points[points[:, 2] < 0.004]
    pivot = way * float((foot @ way).max())
    times = start_s + np.linspace(0, random.uniform(*_TIP_S), _STEPS + 1)
    turns = [_axis_rotation(axis, angle) for angle in np.linspace(0, np.radians(_TIP_DEGREES), _STEPS + 1)]
    rotations = np.array([_product(turn, np.array(thing.rotation)) for turn in turns])
    positions = np.array([thing.position + pivot - rotation_matrix(turn) @ pivot for turn in turns])
    height = thing.shape.height * thing.scale
    step = _let_go(scene, size, thing, Path(times, positions, rotations), way * height, axis * 2, "over")
    if step is None or rotation_matrix(step.after.thing(thing.id).rotation)[2, 2] >= _LYING_COSINE:
        return None
    return step


def _push_off_support(
    random: Random, scene: Scene, size: Size, thing: Thing, support: Thing, start_s: float
) -> Step | None:
    way = _random_way(random)
    top = support.hull[support.hull[:, 2] > support.hull[:, 2].max() - 0.012]
    distance = float(((top - thing.position) @ way).max()) + 0.012
    push = _push(thing, way, distance, start_s, random.uniform(*_PUSH_M_S))
    return _let_go(scene, size, thing, push, way * 0.25, _STILL, f"off the {support.label}")


def _push_off_table(random: Random, scene: Scene, size: Size, thing: Thing, start_s: float) -> Step | None:
    """Pushes an object over the edge of the table, where the camera sees it; it is gone afterwards."""
    distance, way = _distance_to_edge(scene, thing)
    push = _push(thing, way, distance + 0.006, start_s, 1.6 * random.uniform(*_PUSH_M_S))
    if not in_view(replace(thing, position=push.end()[0]), scene.camera, size):
        return None
    start = np.array(thing.position)
    if any(is_in_the_way(thing, start, start + way * distance, other) for other in scene.others(thing)):
        return None
    return _let_go(scene, None, thing, push, way * 0.3, _STILL, "off the table")


def _push(thing: Thing, way: FloatArray, distance: float, start_s: float, speed: float) -> Path:
    share = np.linspace(0, 1, _STEPS + 1)
    times = start_s + share * max(distance / speed, 0.8)
    positions = np.array(thing.position) + share[:, None] * distance * way
    return Path(times, positions, np.tile(np.array(thing.rotation), (_STEPS + 1, 1)))


def _let_go(
    scene: Scene, size: Size | None, thing: Thing, start: Path, velocity: FloatArray, spin: FloatArray, where: str
) -> Step | None:
    """Lets go of an object at the end of a path; it must come to rest in view, or leave the table if the size is None.

    Returns None if it does not.
    """
    position, rotation = start.end()
    released = replace(thing, position=position, rotation=rotation, on=None)
    fall = fall_of(released, velocity, spin, scene, float(start.times_s[-1]))
    if fall is None or (fall.positions[-1, 2] < LOST_M) != (size is None):
        return None
    position, rotation = fall.end()
    landed = replace(thing, position=position, rotation=rotation, on=None)
    after = scene.without(thing) if size is None else scene.updated(landed)
    if size is not None and not (in_view(landed, scene.camera, size) and all_visible(after, size)):
        return None
    end_s = float(np.ceil(fall.times_s[-1] * 10) / 10)
    event = Event("falls", float(start.times_s[0]), round(end_s, 1), thing.id, thing.label, where)
    return Step(event, scene, after, thing, start.then(fall))


def _distance_to_edge(scene: Scene, thing: Thing) -> tuple[float, FloatArray]:
    """Returns the distance to the nearest edge of the table, and the direction of that edge."""
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


def _random_way(random: Random) -> FloatArray:
    angle = random.uniform(-np.pi, np.pi)
    return np.array([np.cos(angle), np.sin(angle), 0.0])


def _axis_rotation(axis: FloatArray, angle: float) -> FloatArray:
    """Returns the quaternion of a rotation around a unit vector."""
    return np.array([*(axis * np.sin(angle / 2)), np.cos(angle / 2)])


def _product(second: FloatArray, first: FloatArray) -> FloatArray:
    """Returns the quaternion of one rotation after another."""
    (a, b, c, d), (x, y, z, w) = second, first
    return np.array(
        [
            d * x + a * w + b * z - c * y,
            d * y - a * z + b * w + c * x,
            d * z + a * y - b * x + c * w,
            d * w - a * x - b * y - c * z,
        ]
    )
