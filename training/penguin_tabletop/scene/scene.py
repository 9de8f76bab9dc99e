"""A table-top at one moment: objects, camera, light and sensor, as plain values.

World axes: x and y on the table, z up, metres; the table's top is z = 0 around the origin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from penguin_tabletop.scene.camera import Camera
from penguin_tabletop.scene.catalogue import RGB, Table
from penguin_tabletop.scene.meshes import FloatArray
from penguin_tabletop.scene.shapes import Shape, shape_of

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
"""x, y, z, w."""


def yaw_rotation(yaw: float) -> Quaternion:
    """Returns the rotation around z by `yaw` radians."""
    return 0.0, 0.0, float(np.sin(yaw / 2)), float(np.cos(yaw / 2))


def rotation_matrix(rotation: Quaternion) -> FloatArray:
    """Returns the quaternion as a matrix [3, 3]."""
    x, y, z, w = rotation
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
        id: Number of the object, the same in all frames of a clip.
        label: Its name: colour and kind, with the size if that is needed to tell it from another.
        kind, colour, size: Names from the catalogue; colour is None if the kind has only one look.
        scale: Scale of the kind's shape.
        variant: Variant of the kind's shape.
        rgb: The colour it is rendered in.
        position: Middle of its foot.
        rotation: Its orientation.
        word: Printed word, or "".
        on: Id of the object that carries it, None for the table.
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
    rotation: Quaternion
    word: str = ""
    on: int | None = None

    @property
    def shape(self) -> Shape:
        """Its shape at scale 1."""
        return shape_of(self.kind, self.variant)

    @property
    def radius(self) -> float:
        """Radius in metres of the circle that it covers on the table."""
        return self.shape.radius * self.scale

    @property
    def tilted(self) -> bool:
        """Whether it does not stand upright."""
        return self.rotation[0] != 0 or self.rotation[1] != 0

    @cached_property
    def hull(self) -> FloatArray:
        """Points that span its convex hull in the world, [K, 3]."""
        return self.to_world(self.shape.hull)

    def to_world(self, points: FloatArray) -> FloatArray:
        """Returns points [K, 3] of its shape in world coordinates."""
        placed: FloatArray = self.scale * points @ rotation_matrix(self.rotation).T + self.position
        return placed


@dataclass(frozen=True)
class Surroundings:
    """The table and the room around it.

    Attributes:
        table: Name and look of the table.
        half_width, half_depth: Half extents of its top in metres along x and y.
        texture: Number of the texture, and where on it the origin lies as shares of its width and height.
        tint: Factors on the table's colour.
        floor: Colour of the room.
    """

    table: Table
    half_width: float
    half_depth: float
    texture: tuple[int, float, float]
    tint: RGB
    floor: RGB


@dataclass(frozen=True)
class Light:
    """A lamp and ambient light.

    Attributes:
        direction: Unit vector towards the lamp.
        ambient, diffuse, specular: Strengths of ambient light, of the lamp, and of highlights.
    """

    direction: Vector
    ambient: float
    diffuse: float
    specular: float


@dataclass(frozen=True)
class Sensor:
    """What the camera adds to the picture, and changes of light that are slow enough to be modelled here.

    Attributes:
        noise: Standard deviation in grey levels.
        gain: Exposure.
        tint: White balance, factors on red, green and blue.
        blur: Standard deviation in pixels of an image 224 pixels high.
        vignette: Darkening in the corners.
        side: How much brighter the right edge is than the left one.
        number: Selects the noise of this frame.
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
        """Returns the object with this id; raises KeyError if there is none."""
        return self._by_id[number]

    def others(self, thing: Thing) -> tuple[Thing, ...]:
        """Returns all objects but one."""
        return tuple(other for other in self.things if other.id != thing.id)

    def without(self, thing: Thing) -> Scene:
        """Returns the scene without an object."""
        return replace(self, things=self.others(thing))

    def updated(self, thing: Thing) -> Scene:
        """Returns the scene with a new state of one of its objects."""
        return replace(self, things=tuple(thing if other.id == thing.id else other for other in self.things))

    @cached_property
    def _by_id(self) -> dict[int, Thing]:
        return {thing.id: thing for thing in self.things}
