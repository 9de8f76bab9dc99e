"""Random scenes without objects, and random objects that have no place yet."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from penguin_tabletop.scene.camera import Camera
from penguin_tabletop.scene.catalogue import CODE_LETTERS, COLOURS, KINDS, PAPER, RGB, SIZES, TABLES, WORDS, Kind, Table
from penguin_tabletop.scene.meshes import FloatArray
from penguin_tabletop.scene.scene import Light, Scene, Sensor, Surroundings, Thing
from penguin_tabletop.seeds import Random, choose_weighted

LOWEST_PITCH, HIGHEST_PITCH = np.radians(28), np.radians(62)
MOST_THINGS = 6
_WEIGHTS = {kind: kind.weight for kind in KINDS.values() if kind.weight > 0}
_NOWHERE = (0.0, 0.0, 0.0)
_UPRIGHT = (0.0, 0.0, 0.0, 1.0)


def empty_scene(random: Random) -> Scene:
    """Returns a table without objects, in some light, seen by some camera."""
    camera, surroundings = _random_camera(random), _random_surroundings(random)
    return Scene((), camera, surroundings, _random_light(random), _random_sensor(random))


def _random_camera(random: Random) -> Camera:
    x, y = random.uniform(-0.12, 0.12, 2)
    return Camera(
        target=(float(x), float(y), 0.02),
        distance=random.uniform(0.52, 0.80),
        yaw=random.uniform(-np.pi, np.pi),
        pitch=random.uniform(LOWEST_PITCH, HIGHEST_PITCH),
        roll=float(np.radians(random.normal(0, 1.5))),
        fov=float(np.radians(random.uniform(38, 48))),
    )


def _random_surroundings(random: Random) -> Surroundings:
    grey, shade = random.uniform(0.2, 0.75), random.uniform(-0.04, 0.04, 3)
    return Surroundings(
        TABLES[random.integers(len(TABLES))],
        half_width=random.uniform(0.45, 0.8),
        half_depth=random.uniform(0.38, 0.6),
        texture=(int(random.integers(1 << 16)), random.random(), random.random()),
        tint=_rgb(random.uniform(0.92, 1.08) * random.uniform(0.97, 1.03, 3)),
        floor=_rgb(grey + shade),
    )


def _random_light(random: Random) -> Light:
    around, up = random.uniform(-np.pi, np.pi), np.radians(random.uniform(38, 80))
    ambient = random.uniform(0.5, 0.68)
    return Light(
        direction=(float(np.cos(up) * np.cos(around)), float(np.cos(up) * np.sin(around)), float(np.sin(up))),
        ambient=ambient,
        diffuse=random.uniform(0.95, 1.1) - ambient,
        specular=random.uniform(0.0, 0.25),
    )


def _random_sensor(random: Random) -> Sensor:
    return Sensor(
        noise=random.uniform(0.5, 6),
        gain=random.uniform(0.85, 1.15),
        tint=_rgb(random.normal(1, 0.025, 3)),
        blur=float(random.choice([0.0, random.uniform(0.3, 0.7)])),
        vignette=float(random.choice([0.0, random.uniform(0.05, 0.25)])),
        side=0.0,
        number=int(random.integers(1 << 20)),
    )


def random_thing(random: Random, table: Table, number: int, taken: Collection[str] = (), kind: str = "") -> Thing:
    """Returns an object that stands out on the table, has no label in `taken`, and is of this kind if one is given."""
    while True:
        chosen = KINDS[kind] if kind else choose_weighted(random, _WEIGHTS)[0]
        colour = _random_colour(random, table, chosen)
        thing = _thing(random, chosen, colour, str(random.choice(list(SIZES))), number)
        if thing.label not in taken:
            return thing


def random_things(random: Random, table: Table) -> list[Thing]:
    """Returns the objects of a picture: mostly different ones; sometimes twins, print, a tray, a robot arm."""
    count = 1 + int(random.binomial(MOST_THINGS - 1, 0.45))
    things = _special_things(random, table)
    twins, sizes, colours = random.random(3) < (0.15, 0.1, 0.15)
    while len(things) < count:
        number, labels = len(things), [thing.label for thing in things]
        plain = [thing for thing in things if KINDS[thing.kind].weight > 0]
        if plain and twins and random.random() < 0.6:
            things.append(replace(plain[-1], id=number))
        elif plain and sizes and labels.count(plain[-1].label) == 1:
            other_size = next(size for size in SIZES if size != plain[-1].size)
            things.append(_thing(random, KINDS[plain[-1].kind], plain[-1].colour, other_size, number))
        else:
            same_kind = plain and colours and random.random() < 0.6 and len(plain) < 4
            things.append(random_thing(random, table, number, labels, plain[-1].kind if same_kind else ""))
    return things


def distinct_things(random: Random, table: Table, fewest: int, most: int) -> list[Thing]:
    """Returns objects whose labels all differ, for clips."""
    things = _special_things(random, table)
    count = int(random.integers(fewest, most + 1))
    while len(things) < count:
        things.append(random_thing(random, table, len(things), [thing.label for thing in things]))
    return things


def with_size_labels(things: Sequence[Thing]) -> list[Thing]:
    """Adds the size to labels if colour and kind alone do not tell objects apart and sizes do."""
    names = [_name(thing.kind, thing.colour) for thing in things]
    sizes: dict[str, set[str]] = {}
    for name, thing in zip(names, things, strict=True):
        sizes.setdefault(name, set()).add(thing.size)
    return [
        replace(thing, label=f"{thing.size} {name}" if len(sizes[name]) > 1 else name)
        for name, thing in zip(names, things, strict=True)
    ]


def _special_things(random: Random, table: Table) -> list[Thing]:
    """Returns now and then a robot arm, a tray, and objects with a printed word."""
    kinds = ["robot arm"] * (random.random() < 0.07) + ["tray"] * (random.random() < 0.12)
    for _ in range(int(random.choice([0, 1, 2], p=[0.62, 0.28, 0.10]))):
        kinds.append(str(random.choice(["card", "box"])))
    things: list[Thing] = []
    for kind in kinds:
        things.append(random_thing(random, table, len(things), [thing.label for thing in things], kind))
    return things


def _name(kind: str, colour: str | None) -> str:
    return f"{colour} {kind}" if colour else kind


def _thing(random: Random, kind: Kind, colour: str | None, size: str, number: int) -> Thing:
    scale = float(random.choice(SIZES[size])) if kind.coloured and not kind.printed else 1.0
    paint = np.array(COLOURS[colour]) if colour else np.ones(3)
    paint = np.clip(paint * random.uniform(0.9, 1.08) + random.uniform(-0.025, 0.025, 3), 0.02, 1)
    variant = int(random.integers(kind.variants))
    word = _random_word(random) if kind.printed else ""
    label = _name(kind.name, colour)
    return Thing(number, label, kind.name, colour, size, scale, variant, _rgb(paint), _NOWHERE, _UPRIGHT, word)


def _random_colour(random: Random, table: Table, kind: Kind) -> str | None:
    if not kind.coloured:
        return None
    colours = PAPER if kind.printed else tuple(COLOURS)
    return str(random.choice([colour for colour in colours if colour not in table.clashes]))


def _random_word(random: Random) -> str:
    if random.random() < 0.7:
        return str(random.choice(WORDS))
    return f"{random.choice(list(CODE_LETTERS))}{random.integers(1, 100)}"


def _rgb(values: FloatArray) -> RGB:
    red, green, blue = values.tolist()
    return red, green, blue
