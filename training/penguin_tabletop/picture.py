"""A scene as a camera's image: backdrop, rendered objects, printed words, sensor; and whose pixel each one is."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from penguin_models.errors import TabletopError
from penguin_models.grounding import Box
from penguin_models.types import Float32Array, Size, UInt8Array
from penguin_tabletop.backdrop import draw_backdrop, under_the_table
from penguin_tabletop.camera import Camera
from penguin_tabletop.printing import print_word
from penguin_tabletop.renderer import Renderer, Sprite
from penguin_tabletop.scene import Light, Scene, Sensor, Thing

SUPERSAMPLE = 2
"""Objects are rendered this many times finer than the image, along both sides."""
NOTHING = -1
"""In masks: no object, but the table or what is around it."""
SMALLEST_PX, LARGEST_PX = 56, 1080
_NOISE_VALUES = 1 << 20
_SPRITES = 32
_UNDER_M = -0.005

Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Seen:
    """What a picture shows of a thing.

    Attributes:
        box: around the pixels that show it, None if none does.
        share: of the thing, how much is shown: not hidden by others and not cut off by the image's edge.
    """

    box: Box | None
    share: float


@dataclass(frozen=True, eq=False)
class Picture:
    """A rendered scene.

    Attributes:
        rgb: uint8 [H, W, 3].
        ids: int32 [SUPERSAMPLE*H, SUPERSAMPLE*W], the thing that each part of a pixel shows, or NOTHING.
        seen: for each thing that is in the image, by id.
    """

    rgb: UInt8Array
    ids: Int32Array
    seen: dict[int, Seen]

    @property
    def size(self) -> Size:
        """Of the image in pixels."""
        return Size(self.rgb.shape[0], self.rgb.shape[1])


def check_size(size: Size) -> None:
    """Raises TabletopError where an image of this size makes no sense."""
    if not all(SMALLEST_PX <= side <= LARGEST_PX for side in size):
        raise TabletopError(
            f"image size {size.width}x{size.height} must be between {SMALLEST_PX} and {LARGEST_PX} pixels a side"
        )


class Photographer:
    """Takes pictures of scenes; what has not moved since the last ones is not rendered again."""

    def __init__(self, size: Size):
        """Starts a renderer.

        Args:
            size: of the images, in pixels.

        Raises:
            TabletopError: a size that makes no sense, or PyBullet is not installed.
        """
        check_size(size)
        self.size = size
        self._fine = Size(size.height * SUPERSAMPLE, size.width * SUPERSAMPLE)
        self._renderer = Renderer()
        self._sprites: OrderedDict[tuple[Thing, Camera, Light], Sprite | None] = OrderedDict()

    def close(self) -> None:
        """Frees the renderer."""
        self._renderer.close()

    def take(self, scene: Scene) -> Picture:
        """Takes a picture."""
        picture = draw_backdrop(scene, self.size)
        colours = np.zeros((*self._fine, 3), np.uint8)
        ids = np.full(self._fine, NOTHING, np.int32)
        depth = np.full(self._fine, np.inf, np.float32)
        sprites = [(thing, sprite) for thing in scene.things if (sprite := self._sprite(thing, scene)) is not None]
        for thing, sprite in sprites:
            area = sprite.window.area
            nearer = sprite.inside & (sprite.depth < depth[area])
            if thing.position[2] < _UNDER_M:
                nearer &= ~under_the_table(sprite.depth, sprite.window, scene, self._fine)
            np.copyto(depth[area], sprite.depth, where=nearer)
            np.copyto(ids[area], thing.id, where=nearer)
            np.copyto(colours[area], sprite.rgb, where=nearer[..., None])
        _lay_over(picture, colours, ids)
        seen = {thing.id: _seen(thing, sprite, ids) for thing, sprite in sprites}
        return Picture(_sense(picture, scene.sensor), ids, seen)

    def _sprite(self, thing: Thing, scene: Scene) -> Sprite | None:
        key = (thing, scene.camera, scene.light)
        if key in self._sprites:
            self._sprites.move_to_end(key)
            return self._sprites[key]
        sprite = self._renderer.render(thing, scene.camera, scene.light, self._fine)
        if sprite is not None and thing.word:
            print_word(sprite, thing, scene.camera, self._fine)
        self._sprites[key] = sprite
        if len(self._sprites) > _SPRITES:
            self._sprites.popitem(last=False)
        return sprite


def _seen(thing: Thing, sprite: Sprite, ids: Int32Array) -> Seen:
    shown = (ids[sprite.window.area] == thing.id).astype(np.uint8)
    pixels = cv2.countNonZero(shown)
    if not pixels:
        return Seen(None, 0.0)
    x, y, width, height = cv2.boundingRect(shown)
    x, y = x + sprite.window.left, y + sprite.window.top
    box = Box.from_pixels(x, y, x + width, y + height, Size(*ids.shape))
    return Seen(box, sprite.in_image * pixels / cv2.countNonZero(sprite.inside.astype(np.uint8)))


def _lay_over(picture: Float32Array, colours: UInt8Array, ids: Int32Array) -> None:
    """Puts rendered objects over the picture, in place; edges are as soft as the finer pixels make them."""
    height, width = picture.shape[:2]
    covered = (ids != NOTHING).astype(np.uint8) * np.uint8(255)
    coarse = cv2.resize(colours, (width, height), interpolation=cv2.INTER_AREA)
    shares = cv2.resize(covered, (width, height), interpolation=cv2.INTER_AREA)
    picture *= (255 - shares.astype(np.float32))[..., None] * np.float32(1 / 255)
    picture += coarse


def _sense(picture: Float32Array, sensor: Sensor) -> UInt8Array:
    """What the sensor makes of the light that reaches it (which is used up)."""
    height, width = picture.shape[:2]
    if sensor.blur > 0:
        picture = cv2.GaussianBlur(picture, (0, 0), sensor.blur * height / 224)
    factor = np.float32(sensor.gain) - np.float32(sensor.gain * sensor.vignette) * _from_middle(height, width)
    if sensor.side:
        factor += np.linspace(-sensor.side / 2, sensor.side / 2, width, dtype=np.float32)[None, :, None]
    picture *= factor
    picture *= np.array(sensor.tint, np.float32)
    start = sensor.number * 7919 % _NOISE_VALUES
    noise = np.resize(_noise()[start : start + picture.size], picture.shape)
    exposed: UInt8Array = cv2.add(cv2.scaleAdd(noise, sensor.noise, picture), (0, 0, 0, 0), dtype=cv2.CV_8U)
    return exposed


@lru_cache(maxsize=4)
def _from_middle(height: int, width: int) -> Float32Array:
    """Squared distance from the middle of the image, 1 in its corners, [H, W, 1]."""
    y, x = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    squares: Float32Array = (0.5 * np.add.outer(y * y, x * x))[..., None].astype(np.float32)
    return squares


@lru_cache(maxsize=1)
def _noise() -> Float32Array:
    """Normal noise that every frame takes a piece of: making it anew would take longer than the rest of the sensor."""
    noise = np.random.default_rng(0).standard_normal(_NOISE_VALUES, np.float32)
    return np.tile(noise, 2)
