"""Where objects appear in the image, computed from their hulls alone: for planning before anything is rendered."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from penguin_models.types import Size
from penguin_tabletop.scene.camera import NEAR_M, Camera
from penguin_tabletop.scene.scene import Thing


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
