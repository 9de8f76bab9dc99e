"""A seed -> a table-top: what lies where, seen from where, in what light. No pixels.

Objects are put where the picture has room for them: in view, apart from each other, hardly hidden.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from penguin_models.types import Size
from penguin_training.tabletop.camera import Camera
from penguin_training.tabletop.catalogue import (
    CODE_LETTERS,
    COLOURS,
    KINDS,
    PAPER,
    RGB,
    SIZES,
    TABLES,
    WORDS,
    Kind,
)
from penguin_training.tabletop.meshes import FloatArray
from penguin_training.tabletop.scene import Light, Scene, Sensor, Surroundings, Thing, turned
from penguin_training.tabletop.view import Rect, in_view, overlap, rect_of

MOST_THINGS = 7
_TRIES = 60
_GAP_M = 0.012
_MOST_HIDDEN = 0.3
"""Largest share of an object's outline that another may cover where it is put."""
_DEFAULT_FACING = (-180.0, 180.0)
_FACING: dict[str, Sequence[tuple[float, float]]] = {
    # Degrees that an object may be turned against the camera, where not every side shows what it is.
    "duck": ((-60, 60), (120, 240)),
    "rabbit": ((30, 150), (210, 330)),
    "teddy": ((-65, 65),),
    "mug": ((40, 320),),
    "card": ((-32, 32),),
    "box": ((-32, 32),),
    "robot arm": ((-60, 60), (120, 240)),
}


@dataclass(frozen=True)
class Look:
    """What an object is, before it has a place."""

    kind: Kind
    colour: str | None
    size: str
    scale: float
    variant: int
    rgb: RGB
    word: str = ""

    @property
    def name(self) -> str:
        """Colour and kind."""
        return f"{self.colour} {self.kind.name}" if self.colour else self.kind.name


def plan_scene(random: np.random.Generator, size: Size) -> Scene:
    """A table-top with objects.

    Args:
        random: decides everything.
        size: of the image; only its proportions matter.
    """
    surroundings = _surroundings(random)
    camera = plan_camera(random)
    scene = Scene((), camera, surroundings, _light(random), _sensor(random))
    looks = _looks(random, surroundings)
    for look, label in zip(looks, _labels(looks), strict=True):
        thing = place(random, scene, size, look, label, len(scene.things))
        if thing is not None:
            scene = replace(scene, things=(*scene.things, thing))
    return relabelled(scene)


def plan_camera(random: np.random.Generator) -> Camera:
    """Somewhere above the table, looking at its middle."""
    x, y = random.uniform(-0.12, 0.12, 2)
    return Camera(
        target=(float(x), float(y), 0.02),
        distance=float(random.uniform(0.52, 0.80)),
        yaw=float(random.uniform(-np.pi, np.pi)),
        pitch=float(np.radians(random.uniform(28, 66))),
        roll=float(np.radians(random.normal(0, 1.5))),
        fov=float(np.radians(random.uniform(38, 48))),
    )


def look_at_random(
    random: np.random.Generator, surroundings: Surroundings, taken: Collection[str] = (), kind: Kind | None = None
) -> Look:
    """An object of some kind and colour that stands out on the table and whose name is not taken."""
    while True:
        chosen = kind or _any_kind(random)
        colours = PAPER if chosen.printed else tuple(COLOURS)
        colour = str(random.choice([c for c in colours if c not in surroundings.table.clashes]))
        look = _look(random, chosen, colour if chosen.coloured else None, str(random.choice(list(SIZES))))
        if look.name not in taken:
            return look


def place(
    random: np.random.Generator,
    scene: Scene,
    size: Size,
    look: Look,
    label: str,
    number: int,
    *,
    alone: bool = False,
    ignore: int | None = None,
) -> Thing | None:
    """Finds a place for an object, on the table or on something.

    Args:
        random: chooses among places.
        scene: what is there.
        size: of the image.
        look, label, number: of the object.
        alone: on the table only.
        ignore: id of a thing that does not count (the object itself, when it is moved).

    Returns:
        The object in its place, None if there is no room.
    """
    others = [thing for thing in scene.things if thing.id != ignore]
    rects = [rect_of(thing, scene.camera, size) for thing in others]
    supports = [] if alone or not look.kind.rides else [t for t in others if _can_carry(t, look, others)]
    for _ in range(_TRIES):
        support = supports[random.integers(len(supports))] if supports and random.random() < 0.45 else None
        thing = _somewhere(random, scene, size, look, label, number, support)
        if thing is None or not in_view(thing, scene.camera, size):
            continue
        if support is None and any(_touch(thing, other) for other in others):
            continue
        rect = rect_of(thing, scene.camera, size)
        if _clear(thing, rect, others, rects, scene.camera):
            return thing
    return None


def relabelled(scene: Scene) -> Scene:
    """Names the size where colour and kind alone do not tell objects apart, and sizes do."""
    labels = _labels([_look_of(thing) for thing in scene.things])
    things = tuple(replace(thing, label=label) for thing, label in zip(scene.things, labels, strict=True))
    return replace(scene, things=things)


def _look_of(thing: Thing) -> Look:
    return Look(KINDS[thing.kind], thing.colour, thing.size, thing.scale, thing.variant, thing.rgb, thing.word)


def _labels(looks: Sequence[Look]) -> list[str]:
    sizes: dict[str, set[str]] = {}
    for look in looks:
        sizes.setdefault(look.name, set()).add(look.size)
    return [f"{look.size} {look.name}" if len(sizes[look.name]) > 1 else look.name for look in looks]


def _looks(random: np.random.Generator, surroundings: Surroundings) -> list[Look]:
    """What is to lie on the table: mostly different things, sometimes twins, print, a tray, an arm."""
    count = 1 + int(random.binomial(MOST_THINGS - 1, 0.5))
    looks: list[Look] = []
    if random.random() < 0.07:
        looks.append(look_at_random(random, surroundings, kind=KINDS["robot arm"]))
    if random.random() < 0.12:
        looks.append(look_at_random(random, surroundings, kind=KINDS["tray"]))
    for _ in range(int(random.choice([0, 1, 2], p=[0.62, 0.28, 0.10]))):
        printed = KINDS[str(random.choice(["card", "box"]))]
        looks.append(look_at_random(random, surroundings, [look.name for look in looks], printed))
    twins, sizes, colours = random.random(3) < (0.18, 0.15, 0.15)
    while len(looks) < count:
        plain = [look for look in looks if look.kind.coloured and not look.kind.printed]
        if plain and twins and random.random() < 0.6:
            looks.append(plain[-1])
        elif plain and sizes and sum(look.name == plain[-1].name for look in looks) == 1:
            looks.append(_look(random, plain[-1].kind, plain[-1].colour, _other_size(plain[-1].size)))
        elif plain and colours and random.random() < 0.6:
            colour = str(random.choice([c for c in COLOURS if c not in surroundings.table.clashes]))
            look = _look(random, plain[-1].kind, colour, str(random.choice(list(SIZES))))
            looks += [look] if look.name not in {other.name for other in looks} else []
        else:
            looks.append(look_at_random(random, surroundings, [look.name for look in looks]))
    return looks


def _look(random: np.random.Generator, kind: Kind, colour: str | None, size: str) -> Look:
    variant = int(random.integers(kind.variants))
    scales = SIZES[size]
    # A body is kept for each shape and scale: one scale each for the thousand odd shapes.
    scale = scales[0] if kind.variants > 1 else float(random.choice(scales))
    if kind.printed or not kind.coloured:
        scale = 1.0
    rgb = np.array(COLOURS[colour] if colour else (1.0, 1.0, 1.0))
    rgb = np.clip(rgb * random.uniform(0.9, 1.08) + random.uniform(-0.025, 0.025, 3), 0.02, 1)
    word = _word(random) if kind.printed else ""
    return Look(kind, colour, size, scale, variant, (float(rgb[0]), float(rgb[1]), float(rgb[2])), word)


def _word(random: np.random.Generator) -> str:
    if random.random() < 0.7:
        return str(random.choice(WORDS))
    return f"{random.choice(list(CODE_LETTERS))}{random.integers(1, 100)}"


def _other_size(size: str) -> str:
    return next(other for other in SIZES if other != size)


def _any_kind(random: np.random.Generator) -> Kind:
    kinds = [kind for kind in KINDS.values() if kind.weight > 0]
    weights = np.array([kind.weight for kind in kinds])
    return kinds[random.choice(len(kinds), p=weights / weights.sum())]


def _surroundings(random: np.random.Generator) -> Surroundings:
    table = TABLES[random.integers(len(TABLES))]
    tint = random.uniform(0.92, 1.08) * random.uniform(0.97, 1.03, 3)
    grey, shade = random.uniform(0.2, 0.75), random.uniform(-0.04, 0.04, 3)
    return Surroundings(
        table,
        half_width=float(random.uniform(0.45, 0.8)),
        half_depth=float(random.uniform(0.38, 0.6)),
        texture=(int(random.integers(1 << 16)), float(random.random()), float(random.random())),
        tint=(float(tint[0]), float(tint[1]), float(tint[2])),
        floor=(float(grey + shade[0]), float(grey + shade[1]), float(grey + shade[2])),
    )


def _light(random: np.random.Generator) -> Light:
    around, up = random.uniform(-np.pi, np.pi), np.radians(random.uniform(38, 80))
    ambient = random.uniform(0.5, 0.68)
    return Light(
        direction=(float(np.cos(up) * np.cos(around)), float(np.cos(up) * np.sin(around)), float(np.sin(up))),
        ambient=float(ambient),
        diffuse=float(random.uniform(0.95, 1.1) - ambient),
        specular=float(random.uniform(0.0, 0.25)),
    )


def _sensor(random: np.random.Generator) -> Sensor:
    tint = random.normal(1, 0.025, 3)
    return Sensor(
        noise=float(random.uniform(0.5, 6)),
        gain=float(random.uniform(0.85, 1.15)),
        tint=(float(tint[0]), float(tint[1]), float(tint[2])),
        blur=float(random.choice([0.0, random.uniform(0.3, 0.7)])),
        vignette=float(random.choice([0.0, random.uniform(0.05, 0.25)])),
        number=int(random.integers(1 << 20)),
    )


def _somewhere(
    random: np.random.Generator,
    scene: Scene,
    size: Size,
    look: Look,
    label: str,
    number: int,
    support: Thing | None,
) -> Thing | None:
    """The object at a random place: on the table where the picture shows it, or on its support."""
    if support is None:
        point = scene.camera.on_table(*(random.uniform(0.06, 0.94, 2) * (size.width, size.height)), size)
        if point is None:
            return None
        height = 0.0
    else:
        point, height = _on_top(random, support, look)
    thing = Thing(
        number,
        label,
        look.kind.name,
        look.colour,
        look.size,
        look.scale,
        look.variant,
        look.rgb,
        (float(point[0]), float(point[1]), float(height)),
        turned(scene.camera.yaw + _facing(random, look.kind.name)),
        look.word,
        None if support is None else support.id,
    )
    around = scene.surroundings
    margin = thing.radius + 0.01
    if abs(point[0]) > around.half_width - margin or abs(point[1]) > around.half_depth - margin:
        return None
    return thing


def _on_top(random: np.random.Generator, support: Thing, look: Look) -> tuple[FloatArray, float]:
    room = support.shape.top * support.scale if support.kind == "tray" else 0.006
    middle = np.array(support.position)
    if support.kind == "tray":
        middle[:2] += random.uniform(-0.6, 0.6, 2) * room
    return middle, support.position[2] + support.shape.floor * support.scale + 0.0005


def _facing(random: np.random.Generator, kind: str) -> float:
    ranges = _FACING.get(kind, (_DEFAULT_FACING,))
    low, high = ranges[random.integers(len(ranges))]
    return float(np.radians(random.uniform(low, high)))


def _can_carry(support: Thing, look: Look, others: Sequence[Thing]) -> bool:
    """Whether an object fits on a support; trays carry two things, everything else one."""
    if not KINDS[support.kind].supports or support.on is not None or look.kind.supports:
        return False
    carried = sum(thing.on == support.id for thing in others)
    if support.kind == "tray":
        return carried < 2 and look.size == "small"
    return carried == 0 and support.size == "large" and look.size == "small"


def _touch(thing: Thing, other: Thing) -> bool:
    apart = np.hypot(thing.position[0] - other.position[0], thing.position[1] - other.position[1])
    return bool(apart < thing.radius + other.radius + _GAP_M)


def _clear(thing: Thing, rect: Rect, others: Sequence[Thing], rects: Sequence[Rect], camera: Camera) -> bool:
    """Whether neither the object nor any other would be hidden too much."""
    near = camera.on_ground(np.array(thing.position))[1]
    for other, other_rect in zip(others, rects, strict=True):
        if thing.on == other.id:
            continue
        behind = camera.on_ground(np.array(other.position))[1] > near
        hidden = other_rect if behind else rect
        if overlap(rect, other_rect) > _MOST_HIDDEN * hidden.area:
            return False
    return True
