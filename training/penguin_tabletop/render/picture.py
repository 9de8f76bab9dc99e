"""Renders a scene as a camera's image: table, objects, printed words, sensor; and which object each pixel shows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import cv2
import numpy as np

from penguin_models.errors import TabletopError
from penguin_models.grounding import Box
from penguin_models.types import Float32Array, Size, UInt8Array
from penguin_tabletop.render.backdrop import Int32Array, draw_backdrop, under_the_table
from penguin_tabletop.render.printing import print_word
from penguin_tabletop.render.sprites import Sprite, SpriteRenderer
from penguin_tabletop.scene.camera import Camera
from penguin_tabletop.scene.scene import Light, Scene, Sensor, Thing

SUPERSAMPLE = 2  # objects are rendered this many times finer than the image, along both sides
NOTHING = -1  # id in masks where no object is, but the table or the room
SMALLEST_PX, LARGEST_PX = 56, 1080
_NOISE_VALUES = 1 << 20
_MAX_SPRITES = 32
_UNDER_M = -0.005


class Visibility(NamedTuple):
    """What a picture shows of an object."""

    box: Box  # box around its visible pixels
    share: float  # share of the object that is visible: neither hidden by others nor cut off by the image's edge


@dataclass(frozen=True, eq=False)
class RenderedPicture:
    """A rendered scene."""

    rgb: UInt8Array  # uint8 [H, W, 3]
    # int32 [SUPERSAMPLE*H, SUPERSAMPLE*W], id of the object that each part of a pixel shows, or NOTHING
    ids: Int32Array
    # float32 [SUPERSAMPLE*H, SUPERSAMPLE*W], metres along the viewing axis of the object that each part shows, or inf
    depth: Float32Array
    visibility: dict[int, Visibility]  # of each object that can be seen, by id

    @property
    def size(self) -> Size:
        """Size of the image in pixels."""
        return Size(self.rgb.shape[0], self.rgb.shape[1])


def check_size(size: Size) -> None:
    """Raises TabletopError if images of this size cannot be rendered."""
    if not all(SMALLEST_PX <= side <= LARGEST_PX for side in size):
        raise TabletopError(
            f"image size {size.width}x{size.height} must be between {SMALLEST_PX} and {LARGEST_PX} pixels a side"
        )


class SceneRenderer:
    """Renders scenes at one size; objects that have not changed since the last pictures are not rendered again."""

    def __init__(self, size: Size):
        """Starts PyBullet's renderer; raises TabletopError if the size is out of range or PyBullet is not installed."""
        check_size(size)
        self.size = size
        self._fine_size = Size(size.height * SUPERSAMPLE, size.width * SUPERSAMPLE)
        # A function without a reference to self, so that the renderer is freed together with this object.
        self._sprite = lru_cache(_MAX_SPRITES)(partial(_printed_sprite, SpriteRenderer(), self._fine_size))

    def render(self, scene: Scene) -> RenderedPicture:
        """Renders a scene."""
        picture = draw_backdrop(scene, self.size)
        colours = np.zeros((*self._fine_size, 3), np.uint8)
        ids = np.full(self._fine_size, NOTHING, np.int32)
        depth = np.full(self._fine_size, np.inf, np.float32)
        rendered = ((thing, self._sprite(thing, scene.camera, scene.light)) for thing in scene.things)
        sprites = [(thing, sprite) for thing, sprite in rendered if sprite is not None]
        for thing, sprite in sprites:
            area = sprite.window.slices
            nearer = sprite.inside & (sprite.depth < depth[area])
            if thing.position[2] < _UNDER_M:
                nearer &= ~under_the_table(sprite.depth, sprite.window, scene, self._fine_size)
            np.copyto(depth[area], sprite.depth, where=nearer)
            np.copyto(ids[area], thing.id, where=nearer)
            np.copyto(colours[area], sprite.rgb, where=nearer[..., None])
        _overlay(picture, colours, ids)
        visibility = {thing.id: seen for thing, sprite in sprites if (seen := _visibility(thing, sprite, ids))}
        return RenderedPicture(_expose(picture, scene.sensor), ids, depth, visibility)


def _printed_sprite(renderer: SpriteRenderer, size: Size, thing: Thing, camera: Camera, light: Light) -> Sprite | None:
    sprite = renderer.render(thing, camera, light, size)
    if sprite is not None and thing.word:
        print_word(sprite, thing, camera, size)
    return sprite


def _visibility(thing: Thing, sprite: Sprite, ids: Int32Array) -> Visibility | None:
    visible = (ids[sprite.window.slices] == thing.id).astype(np.uint8)
    pixels = cv2.countNonZero(visible)
    if not pixels:
        return None
    x, y, width, height = cv2.boundingRect(visible)
    x, y = x + sprite.window.left, y + sprite.window.top
    box = Box.from_pixels(x, y, x + width, y + height, Size(*ids.shape))
    return Visibility(box, sprite.in_image * pixels / cv2.countNonZero(sprite.inside.astype(np.uint8)))


def _overlay(picture: Float32Array, colours: UInt8Array, ids: Int32Array) -> None:
    """Blends the rendered objects into the picture, in place; the finer pixels make soft edges."""
    height, width = picture.shape[:2]
    covered = (ids != NOTHING).astype(np.uint8) * np.uint8(255)
    coarse = cv2.resize(colours, (width, height), interpolation=cv2.INTER_AREA)
    shares = cv2.resize(covered, (width, height), interpolation=cv2.INTER_AREA)
    picture *= (255 - shares.astype(np.float32))[..., None] * np.float32(1 / 255)
    picture += coarse


def _expose(picture: Float32Array, sensor: Sensor) -> UInt8Array:
    """Applies the sensor to the light that reaches it; overwrites `picture`."""
    height, width = picture.shape[:2]
    if sensor.blur > 0:
        picture = cv2.GaussianBlur(picture, (0, 0), sensor.blur * height / 224)
    factor = np.float32(sensor.gain) - np.float32(sensor.gain * sensor.vignette) * _distance_from_middle(height, width)
    if sensor.side:
        factor += np.linspace(-sensor.side / 2, sensor.side / 2, width, dtype=np.float32)[None, :, None]
    picture *= factor
    picture *= np.array(sensor.tint, np.float32)
    start = sensor.number * 7919 % _NOISE_VALUES
    noise = np.resize(_noise()[start : start + picture.size], picture.shape)
    exposed: UInt8Array = cv2.add(cv2.scaleAdd(noise, sensor.noise, picture), (0, 0, 0, 0), dtype=cv2.CV_8U)
    return exposed


@lru_cache(maxsize=4)
def _distance_from_middle(height: int, width: int) -> Float32Array:
    """Returns the squared distance from the middle of the image, 1 in its corners, [H, W, 1]."""
    y, x = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    squares: Float32Array = (0.5 * np.add.outer(y * y, x * x))[..., None].astype(np.float32)
    return squares


@lru_cache(maxsize=1)
def _noise() -> Float32Array:
    """Returns normal noise that every frame takes a piece of: new noise would cost more than the rest of the sensor."""
    noise = np.random.default_rng(0).standard_normal(_NOISE_VALUES, np.float32)
    return np.tile(noise, 2)
