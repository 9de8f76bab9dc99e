"""Where things would be in the image, from their outlines alone: for planning, before anything is rendered."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from penguin_models.types import Size
from penguin_tabletop.camera import NEAR_M, Camera
from penguin_tabletop.scene import Thing


class Rect(NamedTuple):
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        """In square pixels."""
        return (self.right - self.left) * (self.bottom - self.top)


@lru_cache(maxsize=512)
def rect_of(thing: Thing, camera: Camera, size: Size) -> Rect:
    """The rectangle around a thing, also where it leaves the image; empty if it is behind the camera."""
    pixels, depth = camera.project(thing.outer, size)
    if depth.min() < NEAR_M:
        return Rect(0, 0, 0, 0)
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    return Rect(float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def overlap(a: Rect, b: Rect) -> float:
    """Common area in square pixels."""
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    return max(0.0, width) * max(0.0, height)


def in_view(thing: Thing, camera: Camera, size: Size) -> bool:
    """Whether all of it is in the image, with a little room; of a robot arm, most of it."""
    rect = rect_of(thing, camera, size)
    if rect.area == 0:
        return False
    if thing.kind == "robot arm":
        return overlap(rect, Rect(0, 0, size.width, size.height)) > 0.75 * rect.area
    room = 0.01 * min(size)
    across = room < rect.left and rect.right < size.width - room
    return across and room < rect.top and rect.bottom < size.height - room


def out_of_view(thing: Thing, camera: Camera, size: Size) -> bool:
    """Whether nothing of it is in the image."""
    rect = rect_of(thing, camera, size)
    return overlap(rect, Rect(0, 0, size.width, size.height)) == 0
