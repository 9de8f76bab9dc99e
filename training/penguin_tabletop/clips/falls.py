"""Plans how an object falls: tipped over, pushed off its support, or pushed off the table.

The object is first tilted or pushed slowly, then PyBullet simulates its fall; the event covers both. There is one
simulation per process, emptied before each fall, so that a fall depends on its arguments alone.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from penguin_models.types import Size
from penguin_tabletop.bullet import BulletClient
from penguin_tabletop.clips.events import Event, Path, Step, is_in_the_way
from penguin_tabletop.scene.catalogue import KINDS
from penguin_tabletop.scene.meshes import FloatArray
from penguin_tabletop.scene.planning import all_visible
from penguin_tabletop.scene.scene import Quaternion, Scene, Surroundings, Thing, Vector, in_view, rotation_matrix
from penguin_tabletop.scene.shapes import shape_of
from penguin_tabletop.seeds import Random

FIXED_KINDS = ("robot arm", "tray")
_TIP_S = (1.0, 1.8)
_PUSH_M_S = (0.05, 0.09)
_TIP_DEGREES = 24.0
_LYING_COSINE = 0.5  # an object lies once the cosine of its axis with the vertical is below this
_EDGE_M = 0.22  # an object this close to the table's edge can be pushed off it
_POSES = 20
_TRIES = 3
_STILL = np.zeros(3)
_STEP_S = 1 / 240
_STEPS_PER_POSE = 4
_TIME_LIMIT_S = 4.0
_REST_S = 0.15
LOST_M = -0.9  # an object this far below the table is gone
_STILL_M_S, _STILL_RAD_S = 0.01, 0.15
_bullet = cache(BulletClient)


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
    times = start_s + np.linspace(0, random.uniform(*_TIP_S), _POSES + 1)
    turns = [_axis_rotation(axis, angle) for angle in np.linspace(0, np.radians(_TIP_DEGREES), _POSES + 1)]
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
    share = np.linspace(0, 1, _POSES + 1)
    times = start_s + share * max(distance / speed, 0.8)
    positions = np.array(thing.position) + share[:, None] * distance * way
    return Path(times, positions, np.tile(np.array(thing.rotation), (_POSES + 1, 1)))


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


def fall_of(thing: Thing, velocity: FloatArray, spin: FloatArray, scene: Scene, start_s: float) -> Path | None:
    """Returns the path of an object that is let go, until it rests or is LOST_M below the table.

    Returns None if that takes too long. The object is let go at `start_s` in the pose of `thing`; its middle has
    the velocity [3] in metres and the spin [3] in radians per second. The other objects of the scene do not move.
    """
    _reset(scene.surroundings)
    for other in scene.others(thing):
        _add(other, mass=0.0)
    body = _add(thing, mass=0.1)
    _bullet().resetBaseVelocity(body, velocity.tolist(), spin.tolist())
    poses, times, still = [_pose(body, thing)], [start_s], 0
    for step in range(1, round(_TIME_LIMIT_S / _STEP_S) + 1):
        _bullet().stepSimulation()
        if step % _STEPS_PER_POSE:
            continue
        poses.append(_pose(body, thing))
        times.append(start_s + step * _STEP_S)
        still = still + 1 if _is_still(body) else 0
        if poses[-1][0][2] < LOST_M or still * _STEPS_PER_POSE * _STEP_S >= _REST_S:
            positions, rotations = zip(*poses, strict=True)
            return Path(np.array(times), np.array(positions), np.array(rotations))
    return None


def _reset(around: Surroundings) -> None:
    bullet = _bullet()
    bullet.resetSimulation()
    bullet.setPhysicsEngineParameter(deterministicOverlappingPairs=1)
    bullet.setTimeStep(_STEP_S)
    bullet.setGravity(0, 0, -9.81)
    half = (around.half_width, around.half_depth, 0.02)
    shape = bullet.createCollisionShape(bullet.GEOM_BOX, halfExtents=half)
    body = bullet.createMultiBody(0, shape, -1, (0, 0, -0.02))
    bullet.changeDynamics(body, -1, lateralFriction=0.6, restitution=0.2)


def _add(thing: Thing, mass: float) -> int:
    """Adds a body whose origin is the middle of its hull, because Bullet rotates bodies around their origin."""
    bullet, middle = _bullet(), _hull_middle(thing)
    if thing.kind == "ball":
        shape = bullet.createCollisionShape(bullet.GEOM_SPHERE, radius=middle[2])
    else:
        vertices = _collision_hull(thing.kind, thing.variant, thing.scale)
        shape = bullet.createCollisionShape(bullet.GEOM_MESH, vertices=vertices)
    position = thing.to_world((middle / thing.scale)[None])[0].tolist()
    body: int = bullet.createMultiBody(mass, shape, -1, position, thing.rotation)
    friction = {"lateralFriction": 0.6, "rollingFriction": 0.002, "spinningFriction": 0.002}
    bullet.changeDynamics(body, -1, restitution=0.2, angularDamping=0.3, **friction)
    return body


def _pose(body: int, thing: Thing) -> tuple[Vector, Quaternion]:
    """Returns the position of the object's foot, and its rotation."""
    place, rotation = _bullet().getBasePositionAndOrientation(body)
    matrix = np.array(_bullet().getMatrixFromQuaternion(rotation)).reshape(3, 3)
    x, y, z = np.array(place) - matrix @ _hull_middle(thing)
    return (float(x), float(y), float(z)), rotation


def _is_still(body: int) -> bool:
    speed, spin = _bullet().getBaseVelocity(body)
    return bool(np.linalg.norm(speed) < _STILL_M_S and np.linalg.norm(spin) < _STILL_RAD_S)


@cache
def _collision_hull(kind: str, variant: int, scale: float) -> list[list[float]]:
    """Returns the hull around its middle. Cached, because PyBullet never frees a list of vertices passed to it."""
    points = shape_of(kind, variant).hull * scale
    hull: list[list[float]] = (points - _middle(points)).tolist()
    return hull


def _hull_middle(thing: Thing) -> FloatArray:
    """Returns the middle of the upright object's hull relative to its foot, in metres."""
    return _middle(thing.shape.hull * thing.scale)


def _middle(points: FloatArray) -> FloatArray:
    middle: FloatArray = (points.min(axis=0) + points.max(axis=0)) / 2
    return middle
