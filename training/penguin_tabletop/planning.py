"""A table-top with everything in its place, where the camera sees it. No pixels.

Things are put where the picture has room for them: in view, apart from each other, hardly hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from penguin_models.types import Size
from penguin_tabletop.camera import Camera
from penguin_tabletop.catalogue import KINDS
from penguin_tabletop.choosing import choose_things, distinct_things, labelled
from penguin_tabletop.conditions import any_camera, any_light, any_sensor, any_surroundings
from penguin_tabletop.scene import Scene, Thing, Vector, turned
from penguin_tabletop.view import Rect, in_view, overlap, rect_of

_TRIES = 60
_GAP_M = 0.012
_MOST_HIDDEN = 0.3
"""Largest share of a thing's rectangle that another may cover."""
_MOST_HIDDEN_BY_TWIN = 0.05
"""The same for one of its colour: where both begin and end would be hard to see."""
_ON_SOMETHING = 0.45
_ANY_SIDE = ((-180.0, 180.0),)
_FACING: dict[str, Sequence[tuple[float, float]]] = {
    # Degrees that a thing may be turned against the camera, where not every side shows what it is.
    "duck": ((-60, 60), (120, 240)),
    "rabbit": ((30, 150), (210, 330)),
    "teddy": ((-65, 65),),
    "mug": ((40, 320),),
    "card": ((-32, 32),),
    "box": ((-32, 32),),
    "robot arm": ((-60, 60), (120, 240)),
}


def plan_scene(random: np.random.Generator, size: Size) -> Scene:
    """A table-top for a picture, with at least one thing.

    Args:
        random: decides everything.
        size: of the image; only its proportions matter.
    """
    while True:
        empty = _empty(random)
        scene = _filled(random, empty, size, choose_things(random, empty.surroundings.table))
        if scene.things:
            return scene


def plan_clip_scene(random: np.random.Generator, size: Size) -> Scene:
    """A table-top for the beginning of a clip: few things, no two of the same name."""
    while True:
        empty = _empty(random)
        scene = _filled(random, empty, size, distinct_things(random, empty.surroundings.table, 2, 5))
        if scene.things:
            return scene


def place(random: np.random.Generator, scene: Scene, size: Size, thing: Thing) -> Thing | None:
    """Finds a place for a thing, on the table or on something; where it is now does not matter.

    Args:
        random: chooses among places.
        scene: what is there.
        size: of the image.
        thing: to put somewhere.

    Returns:
        The thing in its place, None if there is no room.
    """
    others = [other for other in scene.things if other.id != thing.id]
    rects = [rect_of(other, scene.camera, size) for other in others]
    supports = [other for other in others if _can_carry(other, thing, others)]
    spots = iter(_free_spots(random, scene, size, thing.radius, others))
    while True:
        support = None
        if supports and random.random() < _ON_SOMETHING:
            support = supports.pop(int(random.integers(len(supports))))
            position = _on_top(random, support)
        elif (spot := next(spots, None)) is not None:
            position = spot
        else:
            return None
        turn = turned(scene.camera.yaw + _facing(random, thing.kind))
        placed = replace(thing, position=position, turn=turn, on=None if support is None else support.id)
        rect = rect_of(placed, scene.camera, size)
        if in_view(placed, scene.camera, size) and _clear(placed, rect, others, rects, scene.camera):
            return placed


def all_clear(scene: Scene, size: Size) -> bool:
    """Whether everything is in view and hardly hidden."""
    rects = [rect_of(thing, scene.camera, size) for thing in scene.things]
    return all(
        in_view(thing, scene.camera, size) and _clear(thing, rects[i], scene.things[:i], rects[:i], scene.camera)
        for i, thing in enumerate(scene.things)
    )


def _empty(random: np.random.Generator) -> Scene:
    return Scene((), any_camera(random), any_surroundings(random), any_light(random), any_sensor(random))


def _filled(random: np.random.Generator, scene: Scene, size: Size, things: Sequence[Thing]) -> Scene:
    for thing in things:
        placed = place(random, scene, size, thing)
        if placed is not None:
            scene = replace(scene, things=(*scene.things, placed))
    return replace(scene, things=tuple(labelled(scene.things)))


def _free_spots(
    random: np.random.Generator, scene: Scene, size: Size, radius: float, others: Sequence[Thing]
) -> list[Vector]:
    """Places on the table that the picture shows, where a circle of this radius touches nothing."""
    pixels = random.uniform(0.06, 0.94, (_TRIES, 2)) * (size.width, size.height)
    rays = np.linalg.solve(scene.camera.table_homography(size), np.column_stack([pixels, np.ones(_TRIES)]).T)
    spots = (rays[:2] / rays[2]).T
    around, margin = scene.surroundings, radius + 0.01
    free = (np.abs(spots) < (around.half_width - margin, around.half_depth - margin)).all(axis=1) & (rays[2] > 0)
    for other in others:
        free &= np.hypot(*(spots - other.position[:2]).T) > radius + other.radius + _GAP_M
    return [(float(x), float(y), 0.0) for x, y in spots[free]]


def _on_top(random: np.random.Generator, support: Thing) -> Vector:
    """A place on a support: in its middle, on a tray anywhere."""
    x, y, z = support.position
    room = 0.6 * support.shape.top * support.scale if support.kind == "tray" else 0.0
    dx, dy = random.uniform(-room, room, 2)
    return float(x + dx), float(y + dy), float(z + support.shape.floor * support.scale + 0.0005)


def _facing(random: np.random.Generator, kind: str) -> float:
    ranges = _FACING.get(kind, _ANY_SIDE)
    low, high = ranges[int(random.integers(len(ranges)))]
    return float(np.radians(random.uniform(low, high)))


def _can_carry(support: Thing, thing: Thing, others: Sequence[Thing]) -> bool:
    """Whether a thing fits on a support: small things on large ones; two on a tray, one on everything else."""
    kind = KINDS[thing.kind]
    if not kind.rides or kind.supports or thing.size != "small" or thing.colour == support.colour:
        return False
    if not KINDS[support.kind].supports or support.on is not None or support.tilted:
        return False
    carried = sum(other.on == support.id for other in others)
    return carried < 2 if support.kind == "tray" else carried == 0 and support.size == "large"


def _clear(thing: Thing, rect: Rect, others: Sequence[Thing], rects: Sequence[Rect], camera: Camera) -> bool:
    """Whether neither the thing nor any other is hidden too much; what carries a thing may be."""
    near = camera.on_ground(np.array(thing.position))[1]
    for other, other_rect in zip(others, rects, strict=True):
        if thing.on == other.id or other.on == thing.id:
            continue
        behind = camera.on_ground(np.array(other.position))[1] > near
        hidden = other_rect if behind else rect
        most = _MOST_HIDDEN if thing.colour != other.colour else _MOST_HIDDEN_BY_TWIN
        if overlap(rect, other_rect) > most * hidden.area:
            return False
    return True
