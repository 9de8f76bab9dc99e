"""A table-top at one moment: what lies where, the camera, the light, the sensor. Values only.

World axes: x and y on the table, z up, metres; the table's top is z = 0 around the origin.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from penguin_tabletop.camera import Camera
from penguin_tabletop.catalogue import RGB, Table
from penguin_tabletop.meshes import FloatArray
from penguin_tabletop.shapes import Shape, shape_of

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
"""x, y, z, w."""


def turned(yaw: float) -> Quaternion:
    """A turn around z by `yaw` radians."""
    return 0.0, 0.0, float(np.sin(yaw / 2)), float(np.cos(yaw / 2))


def rotation_of(turn: Quaternion) -> FloatArray:
    """The quaternion as a matrix [3, 3]."""
    x, y, z, w = turn
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@dataclass(frozen=True)
class Thing:
    """An object on the table.

    Attributes:
        id: its number, the same in all frames of a clip.
        label: what it is called: colour and kind, with the size where that is needed to tell it from another.
        kind, colour, size: names from the catalogue; colour is None where the kind has only one look.
        scale: of the kind's shape.
        variant: of the kind's shape.
        rgb: its colour as painted.
        position: of the middle of its foot.
        turn: its orientation.
        word: printed on it, or "".
        on: id of what carries it, None for the table.
    """

    id: int
    label: str
    kind: str
    colour: str | None
    size: str
    scale: float
    variant: int
    rgb: RGB
    position: Vector
    turn: Quaternion
    word: str = ""
    on: int | None = None

    @property
    def shape(self) -> Shape:
        """Its form at scale 1."""
        return shape_of(self.kind, self.variant)

    @property
    def radius(self) -> float:
        """Of the circle that it covers on the table, in metres."""
        return self.shape.radius * self.scale

    def world(self, points: FloatArray) -> FloatArray:
        """Points of its shape [K, 3], in the world."""
        placed: FloatArray = self.scale * points @ rotation_of(self.turn).T + self.position
        return placed

    @property
    def tilted(self) -> bool:
        """Whether it does not stand upright."""
        return self.turn[0] != 0 or self.turn[1] != 0

    @cached_property
    def outer(self) -> FloatArray:
        """Points that span its convex hull in the world, [K, 3]."""
        return self.world(self.shape.outer)


@dataclass(frozen=True)
class Surroundings:
    """The table and what is around it.

    Attributes:
        table: its name and look.
        half_width, half_depth: of its top, in metres along x and y.
        texture: which of the prepared textures, and where on it the origin lies (share of its width).
        tint: factors on the table's colour.
        floor: colour of what is around it.
    """

    table: Table
    half_width: float
    half_depth: float
    texture: tuple[int, float, float]
    tint: RGB
    floor: RGB


@dataclass(frozen=True)
class Light:
    """One lamp, and light from everywhere.

    Attributes:
        direction: to the lamp, a unit vector.
        ambient, diffuse, specular: strength of light from everywhere, from the lamp, and of highlights.
    """

    direction: Vector
    ambient: float
    diffuse: float
    specular: float


@dataclass(frozen=True)
class Sensor:
    """What the camera adds to the picture, and changes of light that are slow enough to be left to it.

    Attributes:
        noise: standard deviation in grey levels.
        gain: exposure.
        tint: white balance, factors on red, green and blue.
        blur: standard deviation in pixels of a 224 pixel image.
        vignette: darkening in the corners.
        side: how much more light there is at the right edge than at the left one.
        number: chooses the noise of this frame.
    """

    noise: float
    gain: float
    tint: RGB
    blur: float
    vignette: float
    side: float
    number: int


@dataclass(frozen=True)
class Scene:
    """A table-top at one moment."""

    things: tuple[Thing, ...]
    camera: Camera
    surroundings: Surroundings
    light: Light
    sensor: Sensor

    def thing(self, number: int) -> Thing:
        """The thing with this id; KeyError if there is none."""
        return self._by_id[number]

    @cached_property
    def _by_id(self) -> dict[int, Thing]:
        return {thing.id: thing for thing in self.things}
