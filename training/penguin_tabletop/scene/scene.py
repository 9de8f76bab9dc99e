"""A table-top at one moment: objects, camera, light and sensor, as plain values; and where objects are in the image.

World axes: x and y on the table, z up, metres; the table's top is z = 0 around the origin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from penguin_models.types import Size
from penguin_tabletop.scene.camera import NEAR_M, Camera
from penguin_tabletop.scene.catalogue import RGB, Table
from penguin_tabletop.scene.meshes import FloatArray
from penguin_tabletop.scene.shapes import Shape, shape_of

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]  # x, y, z, w


def yaw_rotation(yaw: float) -> Quaternion:
    """Returns the rotation around z by `yaw` radians."""
    return 0.0, 0.0, float(np.sin(yaw / 2)), float(np.cos(yaw / 2))


def rotation_matrix(rotation: Quaternion | FloatArray) -> FloatArray:
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
    """An object on the table."""

    id: int  # the same in all frames of a clip
    label: str  # colour and kind, with the size if that is needed to tell it from another
    kind: str  # name from the catalogue, as colour and size
    colour: str | None  # None if the kind has only one look
    size: str
    scale: float
    variant: int
    rgb: RGB  # rendered colour, a shade of `colour`
    position: Vector  # of the middle of its foot
    rotation: Quaternion
    word: str = ""  # printed word
    on: int | None = None  # id of the object that carries it, None for the table

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
    """The table and the room around it."""

    table: Table
    half_width: float  # of its top in metres, along x
    half_depth: float  # along y
    texture: tuple[int, float, float]  # its number, and where on it the origin lies, as shares
    tint: RGB  # factors on the table's colour
    floor: RGB  # colour of the floor


@dataclass(frozen=True)
class Light:
    """A lamp and ambient light."""

    direction: Vector  # unit vector towards the lamp
    ambient: float  # strength of light from everywhere
    diffuse: float  # strength of the lamp
    specular: float  # strength of highlights


@dataclass(frozen=True)
class Sensor:
    """What the camera adds to the picture, and changes of light that are slow enough to be modelled here."""

    noise: float  # standard deviation in grey levels
    gain: float  # exposure
    tint: RGB  # white balance, factors on red, green and blue
    blur: float  # standard deviation in pixels of an image 224 pixels high
    vignette: float  # darkening in the corners
    side: float  # how much brighter the right edge is than the left one
    number: int  # selects the noise of this frame


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
        return {thing.id: thing for thing in self.things}[number]

    def others(self, thing: Thing) -> tuple[Thing, ...]:
        """Returns all objects but one."""
        return tuple(other for other in self.things if other.id != thing.id)

    def without(self, thing: Thing) -> Scene:
        """Returns the scene without an object."""
        return replace(self, things=self.others(thing))

    def updated(self, thing: Thing) -> Scene:
        """Returns the scene with a new state of one of its objects."""
        return replace(self, things=tuple(thing if other.id == thing.id else other for other in self.things))


class Rect(NamedTuple):
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return (self.right - self.left) * (self.bottom - self.top)


@lru_cache(maxsize=512)
def rect_of(thing: Thing, camera: Camera, size: Size) -> Rect:
    """Returns the rectangle around an object, even outside the image; empty if it is behind the camera."""
    pixels, depth = camera.project(thing.hull, size)
    if depth.min() < NEAR_M:
        return Rect(0, 0, 0, 0)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    return Rect(float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def overlap(a: Rect, b: Rect) -> float:
    """Returns the common area in square pixels."""
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    return max(0.0, width) * max(0.0, height)


def area_in_image(thing: Thing, camera: Camera, size: Size) -> float:
    """Returns the area of the rectangle around an object that lies in the image."""
    return overlap(rect_of(thing, camera, size), Rect(0, 0, size.width, size.height))


def in_view(thing: Thing, camera: Camera, size: Size) -> bool:
    """Returns whether the whole object is in the image with a small margin; of a robot arm, most of it."""
    rect = rect_of(thing, camera, size)
    if rect.area == 0:
        return False
    if thing.kind == "robot arm":
        return area_in_image(thing, camera, size) > 0.75 * rect.area
    margin = 0.01 * min(size)
    across = margin < rect.left and rect.right < size.width - margin
    return across and margin < rect.top and rect.bottom < size.height - margin


def out_of_view(thing: Thing, camera: Camera, size: Size) -> bool:
    """Returns whether nothing of the object is in the image."""
    return area_in_image(thing, camera, size) == 0
