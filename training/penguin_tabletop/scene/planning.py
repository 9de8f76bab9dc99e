"""Plans table-tops: random objects, put where the picture has room for them, in view, apart, and hardly hidden."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from penguin_models.types import Size
from penguin_tabletop.scene.camera import Camera
from penguin_tabletop.scene.catalogue import KINDS, Table
from penguin_tabletop.scene.random_parts import distinct_things, empty_scene, random_things, with_size_labels
from penguin_tabletop.scene.scene import Scene, Thing, Vector, in_view, overlap, rect_of, yaw_rotation
from penguin_tabletop.seeds import Random

_TRIES = 60
_GAP_M = 0.012
_MAX_HIDDEN, _MAX_HIDDEN_BY_SAME_COLOUR = 0.3, 0.05
"""Largest share of an object's rectangle that another may cover; less if both would blend into one another."""
_ON_SUPPORT_PROBABILITY = 0.45
_ANY_SIDE = ((-180.0, 180.0),)
_FACING: dict[str, Sequence[tuple[float, float]]] = {
    # Rotation relative to the camera in degrees, for kinds that cannot be recognised from every side.
    "duck": ((-60, 60), (120, 240)),
    "rabbit": ((30, 150), (210, 330)),
    "teddy": ((-65, 65),),
    "mug": ((40, 320),),
    "card": ((-32, 32),),
    "box": ((-32, 32),),
    "robot arm": ((-60, 60), (120, 240)),
}


def plan_scene(random: Random, size: Size) -> Scene:
    """Plans the table-top of a picture, with at least one object; only the aspect ratio of `size` matters."""
    return _plan(random, size, random_things)


def plan_clip_scene(random: Random, size: Size) -> Scene:
    """Plans the table-top at the beginning of a clip: few objects, no two with the same label."""
    return _plan(random, size, lambda random, table: distinct_things(random, table, 2, 5))


def place(random: Random, scene: Scene, size: Size, thing: Thing) -> Thing | None:
    """Returns an object in a new place on the table or on another object, None if there is no room."""
    others = scene.others(thing)
    supports = [other for other in others if _can_carry(other, thing, others)]
    spots = iter(_free_spots(random, scene, size, thing.radius, others))
    while True:
        support = None
        if supports and random.random() < _ON_SUPPORT_PROBABILITY:
            support = supports.pop(int(random.integers(len(supports))))
            position = _on_top(random, support)
        elif (spot := next(spots, None)) is not None:
            position = spot
        else:
            return None
        rotation = yaw_rotation(scene.camera.yaw + _random_facing(random, thing.kind))
        placed = replace(thing, position=position, rotation=rotation, on=None if support is None else support.id)
        if _well_visible(placed, others, scene.camera, size):
            return placed


def all_visible(scene: Scene, size: Size) -> bool:
    """Returns whether every object is in view and hardly hidden."""
    return all(_well_visible(thing, scene.things[:i], scene.camera, size) for i, thing in enumerate(scene.things))


def _plan(random: Random, size: Size, choose: Callable[[Random, Table], list[Thing]]) -> Scene:
    while True:
        scene = empty_scene(random)
        for thing in choose(random, scene.surroundings.table):
            placed = place(random, scene, size, thing)
            if placed is not None:
                scene = replace(scene, things=(*scene.things, placed))
        if scene.things:
            return replace(scene, things=tuple(with_size_labels(scene.things)))


def _free_spots(random: Random, scene: Scene, size: Size, radius: float, others: Sequence[Thing]) -> list[Vector]:
    """Returns places on the visible part of the table where a circle of this radius touches nothing."""
    pixels = random.uniform(0.06, 0.94, (_TRIES, 2)) * (size.width, size.height)
    rays = np.linalg.solve(scene.camera.table_homography(size), np.column_stack([pixels, np.ones(_TRIES)]).T)
    spots = (rays[:2] / rays[2]).T
    around, margin = scene.surroundings, radius + 0.01
    free = (np.abs(spots) < (around.half_width - margin, around.half_depth - margin)).all(axis=1) & (rays[2] > 0)
    for other in others:
        free &= np.hypot(*(spots - other.position[:2]).T) > radius + other.radius + _GAP_M
    return [(float(x), float(y), 0.0) for x, y in spots[free]]


def _on_top(random: Random, support: Thing) -> Vector:
    """Returns a place on a support: anywhere on a tray, otherwise in the middle."""
    x, y, z = support.position
    room = 0.6 * support.shape.support_half_width * support.scale if support.kind == "tray" else 0.0
    dx, dy = random.uniform(-room, room, 2)
    return float(x + dx), float(y + dy), float(z + support.shape.support_height * support.scale + 0.0005)


def _random_facing(random: Random, kind: str) -> float:
    ranges = _FACING.get(kind, _ANY_SIDE)
    low, high = ranges[int(random.integers(len(ranges)))]
    return float(np.radians(random.uniform(low, high)))


def _can_carry(support: Thing, thing: Thing, others: Sequence[Thing]) -> bool:
    """Returns whether an object fits on a support: small ones on large ones; two on a tray, one on anything else."""
    kind = KINDS[thing.kind]
    if not kind.rides or kind.supports or thing.size != "small" or thing.colour == support.colour:
        return False
    if not KINDS[support.kind].supports or support.on is not None or support.tilted:
        return False
    carried = sum(other.on == support.id for other in others)
    return carried < 2 if support.kind == "tray" else carried == 0 and support.size == "large"


def _well_visible(thing: Thing, others: Sequence[Thing], camera: Camera, size: Size) -> bool:
    """Returns whether an object is in view, and neither it nor another is hidden too much; its support may be."""
    if not in_view(thing, camera, size):
        return False
    rect, ahead = rect_of(thing, camera, size), camera.on_ground(np.array(thing.position))[1]
    for other in others:
        if thing.on == other.id or other.on == thing.id:
            continue
        other_rect = rect_of(other, camera, size)
        hidden = other_rect if camera.on_ground(np.array(other.position))[1] > ahead else rect
        limit = _MAX_HIDDEN if thing.colour != other.colour else _MAX_HIDDEN_BY_SAME_COLOUR
        if overlap(rect, other_rect) > limit * hidden.area:
            return False
    return True
