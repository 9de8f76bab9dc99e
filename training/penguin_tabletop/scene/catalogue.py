"""Everything that can lie on the table: kinds, colours, sizes, tables and printed words; shapes.py has their forms."""

from __future__ import annotations

from dataclasses import dataclass

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Kind:
    """A kind of object."""

    name: str  # as in captions and answers
    plural: str
    weight: float = 1.0  # relative probability of being chosen
    coloured: bool = True  # whether it comes in the colours below; otherwise its label is the name alone
    variants: int = 1  # number of shapes that share the name
    supports: bool = False  # whether something can be put on or into it
    rides: bool = True  # whether it can be put on something else
    topples: bool = False  # whether it stands upright and can be knocked over
    printed: bool = False  # whether it carries a printed word


KINDS = {
    kind.name: kind
    for kind in (
        Kind("cube", "cubes", 1.5, supports=True),
        Kind("ball", "balls", 1.5),
        Kind("cylinder", "cylinders", topples=True),
        Kind("cone", "cones", topples=True),
        Kind("ring", "rings"),
        Kind("bottle", "bottles", rides=False, topples=True),
        Kind("bowl", "bowls", rides=False),
        Kind("mug", "mugs", 1.2, topples=True),
        Kind("duck", "ducks", 1.2),
        Kind("teddy", "teddies", 1.2, topples=True),
        Kind("rabbit", "rabbits"),
        Kind("brick", "bricks", 1.2, supports=True),
        Kind("tray", "trays", 0.5, supports=True, rides=False),
        Kind("odd shape", "odd shapes", 0.6, variants=1000),
        Kind("card", "cards", 0.0, rides=False, printed=True),
        Kind("box", "boxes", 0.0, rides=False, topples=True, printed=True),
        Kind("robot arm", "robot arms", 0.0, coloured=False, variants=12, rides=False),
    )
}

COLOURS: dict[str, RGB] = {
    "red": (0.80, 0.08, 0.08),
    "orange": (0.95, 0.46, 0.05),
    "yellow": (0.95, 0.82, 0.10),
    "green": (0.10, 0.58, 0.18),
    "blue": (0.10, 0.26, 0.80),
    "purple": (0.45, 0.15, 0.62),
    "pink": (0.95, 0.48, 0.68),
    "white": (0.93, 0.93, 0.93),
    "black": (0.09, 0.09, 0.10),
}
PAPER = ("white", "yellow", "pink", "green", "orange")  # colours on which dark print is legible

SIZES: dict[str, tuple[float, ...]] = {"small": (0.78, 0.86), "large": (1.25, 1.38)}
"""Scales of each size. Few and fixed, because PyBullet never frees the collision hull of a scale."""


@dataclass(frozen=True)
class Table:
    """A kind of table; `clashes` are the object colours that would not stand out on it."""

    name: str
    rgb: RGB
    texture: str
    clashes: tuple[str, ...]


TABLES = (
    Table("wooden", (0.62, 0.45, 0.29), "wood", ("orange",)),
    Table("wooden", (0.74, 0.58, 0.40), "wood", ("orange", "yellow")),
    Table("wooden", (0.42, 0.28, 0.18), "wood", ("black",)),
    Table("white", (0.88, 0.88, 0.86), "plain", ("white",)),
    Table("grey", (0.52, 0.53, 0.55), "stone", ()),
    Table("grey", (0.62, 0.62, 0.60), "cloth", ()),
    Table("black", (0.16, 0.16, 0.17), "stone", ("black",)),
    Table("green", (0.33, 0.50, 0.38), "cloth", ("green",)),
    Table("blue", (0.36, 0.46, 0.62), "cloth", ("blue",)),
)

# fmt: off
WORDS = (
    "APPLE", "BAG", "BEANS", "BIRD", "BOLTS", "BREAD", "COLD", "CORN", "CUP", "DOCK", "EMPTY", "EXIT", "FISH",
    "FRAGILE", "FRONT", "FULL", "GLUE", "HAT", "HOME", "HONEY", "HOT", "ICE", "INK", "KEY", "KIT", "LAB", "LEFT",
    "LEMON", "MAP", "MILK", "MOON", "NAILS", "NEW", "NUT", "OIL", "OLD", "OPEN", "PAPER", "PEN", "POT", "PULL",
    "PUSH", "RICE", "RIGHT", "ROBOT", "SAFE", "SALT", "SOAP", "STAR", "STOP", "SUGAR", "SUN", "TAPE", "TEA",
    "TOOLS", "TOP", "TREE", "WATER", "WIRE", "ZONE",
)
# fmt: on
"""Words printed on cards and boxes, besides codes of a letter and a number."""
CODE_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"
