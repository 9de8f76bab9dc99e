"""Printed words on objects: drawn flat, then warped into the picture."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from penguin_models.types import Float32Array, Size
from penguin_tabletop.render.sprites import Sprite
from penguin_tabletop.scene.camera import Camera
from penguin_tabletop.scene.meshes import FloatArray
from penguin_tabletop.scene.scene import Thing

_HEIGHT_PX = 96
_UPRIGHT = 0.75  # cosine of the largest angle between a line of print and the horizontal
_LETTER_PX = Size(11, 7)  # smallest legible letter, in pixels of the image
_INKS = ((0.05, 0.05, 0.08), (0.10, 0.10, 0.45), (0.45, 0.05, 0.08))


def print_word(sprite: Sprite, thing: Thing, camera: Camera, size: Size) -> None:
    """Prints the word of an object into its sprite, in place; `size` is that of the whole image."""
    corners = _face_corners(thing, camera, size)
    face = thing.shape.printed_face
    if corners is None or face is None:
        return
    corners = corners - (sprite.window.left, sprite.window.top)
    left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
    right, bottom = np.minimum(np.ceil(corners.max(axis=0)).astype(int) + 1, sprite.inside.shape[::-1])
    if left >= right or top >= bottom:
        return
    aspect = float(np.linalg.norm(face[1] - face[0]) / np.linalg.norm(face[3] - face[0]))
    ink = _draw_word(thing.word, round(_HEIGHT_PX * aspect), thing.id)
    h, w = ink.shape[:2]
    source = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float32)
    matrix = cv2.getPerspectiveTransform(source, (corners - (left, top)).astype(np.float32))
    warped = cv2.warpPerspective(ink, matrix, (right - left, bottom - top), flags=cv2.INTER_AREA, borderValue=(1, 1, 1))
    area = (slice(top, bottom), slice(left, right))
    sprite.rgb[area] = (sprite.rgb[area] * warped).astype(np.uint8)


def is_legible(thing: Thing, camera: Camera, size: Size) -> bool:
    """Returns whether a word can be read: it faces the camera, stands upright, and its letters are large enough."""
    corners = _face_corners(thing, camera, size)
    if corners is None:
        return False
    across, down = corners[1] - corners[0], corners[3] - corners[0]
    length, height = float(np.linalg.norm(across)), float(np.linalg.norm(down))
    area = abs(float(across[0] * down[1] - across[1] * down[0]))
    upright = across[0] > _UPRIGHT * length and down[1] > _UPRIGHT * height
    large = height >= _LETTER_PX.height and length / max(len(thing.word), 2) >= _LETTER_PX.width
    return bool(upright and large and area > 0.5 * length * height)


def _face_corners(thing: Thing, camera: Camera, size: Size) -> FloatArray | None:
    """Returns the corners of the printed face in the image, [4, 2] pixels; None if it faces away."""
    assert thing.shape.printed_face is not None
    corners = thing.to_world(thing.shape.printed_face)
    normal = np.cross(corners[3] - corners[0], corners[1] - corners[0])
    if normal @ (camera.eye - corners[0]) <= 0:
        return None
    pixels, depth = camera.project(corners, size)
    return pixels if depth.min() > 0 else None


@lru_cache(maxsize=256)
def _draw_word(word: str, width: int, style: int) -> Float32Array:
    """Returns factors on the paper's colour, [h, w, 3] in 0 to 1."""
    image = Image.new("L", (width, _HEIGHT_PX), 0)
    draw = ImageDraw.Draw(image)
    draw.text((width / 2, _HEIGHT_PX / 2), word, 255, _font(word, width), anchor="mm", stroke_width=1)
    covered = np.asarray(image, np.float32)[..., None] / 255
    ink: Float32Array = (1 - covered * (1 - np.array(_INKS[style % len(_INKS)]))).astype(np.float32)
    return ink


def _font(word: str, width: int) -> ImageFont.FreeTypeFont:
    """Returns Pillow's own font at the largest size at which the word fits."""
    size = _HEIGHT_PX * 0.85
    font = ImageFont.load_default(size)
    length = font.getlength(word)
    if length > 0.88 * width:
        font = ImageFont.load_default(size * 0.88 * width / length)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
