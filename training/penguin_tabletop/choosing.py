"""Which things lie on a table, before they have a place."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from penguin_tabletop.catalogue import CODE_LETTERS, COLOURS, KINDS, PAPER, SIZES, WORDS, Kind, Table
from penguin_tabletop.conditions import rgb_of
from penguin_tabletop.scene import Thing

MOST_THINGS = 6
_NOWHERE = (0.0, 0.0, 0.0)
_UPRIGHT = (0.0, 0.0, 0.0, 1.0)


def any_thing(
    random: np.random.Generator, table: Table, number: int, taken: Collection[str] = (), kind: str = ""
) -> Thing:
    """A thing that stands out on the table and whose name is not taken.

    Args:
        random: chooses.
        table: that it will lie on.
        number: the thing's id.
        taken: names.
        kind: of the thing; any if empty.
    """
    while True:
        chosen = KINDS[kind] if kind else _any_kind(random)
        colour = _any_colour(random, table, chosen)
        thing = _thing(random, chosen, colour, str(random.choice(list(SIZES))), number)
        if thing.label not in taken:
            return thing


def choose_things(random: np.random.Generator, table: Table) -> list[Thing]:
    """What is to lie on a table: mostly different things; sometimes twins, print, a tray, an arm."""
    count = 1 + int(random.binomial(MOST_THINGS - 1, 0.45))
    things = special_things(random, table)
    twins, sizes, colours = random.random(3) < (0.15, 0.1, 0.15)
    while len(things) < count:
        number, names = len(things), [thing.label for thing in things]
        plain = [thing for thing in things if KINDS[thing.kind].weight > 0]
        if plain and twins and random.random() < 0.6:
            things.append(replace(plain[-1], id=number))
        elif plain and sizes and names.count(plain[-1].label) == 1:
            other = next(size for size in SIZES if size != plain[-1].size)
            things.append(_thing(random, KINDS[plain[-1].kind], plain[-1].colour, other, number))
        elif plain and colours and random.random() < 0.6 and len(plain) < 4:
            things.append(any_thing(random, table, number, names, plain[-1].kind))
        else:
            things.append(any_thing(random, table, number, names))
    return labelled(things)


def distinct_things(random: np.random.Generator, table: Table, fewest: int, most: int) -> list[Thing]:
    """Things whose names all differ, for clips."""
    things = special_things(random, table)
    count = int(random.integers(fewest, most + 1))
    while len(things) < count:
        things.append(any_thing(random, table, len(things), [thing.label for thing in things]))
    return things


def special_things(random: np.random.Generator, table: Table) -> list[Thing]:
    """Now and then an arm, a tray, and things with a printed word."""
    kinds = ["robot arm"] * (random.random() < 0.07) + ["tray"] * (random.random() < 0.12)
    for _ in range(int(random.choice([0, 1, 2], p=[0.62, 0.28, 0.10]))):
        kinds.append(str(random.choice(["card", "box"])))
    things: list[Thing] = []
    for kind in kinds:
        things.append(any_thing(random, table, len(things), [thing.label for thing in things], kind))
    return things


def labelled(things: Sequence[Thing]) -> list[Thing]:
    """Names the size where colour and kind alone do not tell things apart, and sizes do."""
    sizes: dict[str, set[str]] = {}
    for thing in things:
        sizes.setdefault(_name(thing.kind, thing.colour), set()).add(thing.size)
    labels = [(_name(thing.kind, thing.colour), thing) for thing in things]
    return [replace(thing, label=f"{thing.size} {name}" if len(sizes[name]) > 1 else name) for name, thing in labels]


def _name(kind: str, colour: str | None) -> str:
    return f"{colour} {kind}" if colour else kind


def _thing(random: np.random.Generator, kind: Kind, colour: str | None, size: str, number: int) -> Thing:
    scale = float(random.choice(SIZES[size])) if kind.coloured and not kind.printed else 1.0
    paint = np.array(COLOURS[colour]) if colour else np.ones(3)
    paint = np.clip(paint * random.uniform(0.9, 1.08) + random.uniform(-0.025, 0.025, 3), 0.02, 1)
    return Thing(
        number,
        _name(kind.name, colour),
        kind.name,
        colour,
        size,
        scale,
        int(random.integers(kind.variants)),
        rgb_of(paint),
        _NOWHERE,
        _UPRIGHT,
        _any_word(random) if kind.printed else "",
    )


def _any_colour(random: np.random.Generator, table: Table, kind: Kind) -> str | None:
    if not kind.coloured:
        return None
    colours = PAPER if kind.printed else tuple(COLOURS)
    return str(random.choice([colour for colour in colours if colour not in table.clashes]))


def _any_word(random: np.random.Generator) -> str:
    if random.random() < 0.7:
        return str(random.choice(WORDS))
    return f"{random.choice(list(CODE_LETTERS))}{random.integers(1, 100)}"


def _any_kind(random: np.random.Generator) -> Kind:
    kinds = [kind for kind in KINDS.values() if kind.weight > 0]
    weights = np.array([kind.weight for kind in kinds])
    return kinds[random.choice(len(kinds), p=weights / weights.sum())]
