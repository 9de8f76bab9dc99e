"""Draws the table, the room around it, and the shadows on it.

A plane needs no renderer: its texture is one perspective warp, many times faster than shading every pixel.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from penguin_models.types import BoolArray, Float32Array, Size, UInt8Array
from penguin_tabletop.render.sprites import Window
from penguin_tabletop.scene.camera import NEAR_M, Camera
from penguin_tabletop.scene.meshes import FloatArray
from penguin_tabletop.scene.scene import Light, Scene, Thing

Int32Array = npt.NDArray[np.int32]
_TEXTURE_PX, _TEXTURE_M = 512, 1.0
_TEXTURES_PER_KIND = 4
_SLAB_M = 0.04
_SUBPIXEL_BITS = 4


def draw_backdrop(scene: Scene, size: Size) -> Float32Array:
    """Returns the picture without objects, [H, W, 3] in 0 to 255."""
    around, light = scene.surroundings, scene.light
    top = _project_polygon(_table_corners(scene, 0.0), scene.camera, size)
    if top is None:
        return _draw_floor(scene, size)
    colour = 255 * np.array(around.table.rgb) * around.tint
    lit = light.ambient + light.diffuse * light.direction[2]
    mask = np.zeros(size, np.uint8)
    cv2.fillConvexPoly(mask, top, 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    bright = _draw_grain(scene, size).astype(np.float32)
    bright *= (1 - _shadows(scene, size)) * np.float32(lit / 128)
    surface: Float32Array = cv2.merge([bright * np.float32(c) for c in colour])
    if mask.min() == 255:
        return surface
    picture = _draw_floor(scene, size)
    upper, lower = _table_corners(scene, 0.0), _table_corners(scene, -_SLAB_M)
    for i in range(4):
        side = _project_polygon(np.stack([upper[i], upper[i - 1], lower[i - 1], lower[i]]), scene.camera, size)
        if side is not None:
            cv2.fillConvexPoly(picture, side, (colour * 0.55 * lit).tolist(), cv2.LINE_AA, _SUBPIXEL_BITS)
    share = mask.astype(np.float32) * np.float32(1 / 255)
    blended: Float32Array = cv2.blendLinear(surface, picture, share, 1 - share)
    return blended


def under_the_table(depth: Float32Array, window: Window, scene: Scene, size: Size) -> BoolArray:
    """Returns which pixels [h, w] of a window the table's top hides, for objects at these depths [h, w]."""
    camera, around = scene.camera, scene.surroundings
    focal = camera.focal_px(size)
    x = (np.arange(window.left, window.right) + 0.5 - size.width / 2) / focal
    y = (np.arange(window.top, window.bottom) + 0.5 - size.height / 2) / focal
    rays = np.stack([*np.meshgrid(x, y), np.ones(depth.shape)], axis=-1) @ camera.axes
    down = np.minimum(rays[..., 2], -1e-9)
    crossing = camera.eye[:2] - rays[..., :2] * (camera.eye[2] / down)[..., None]
    hidden: BoolArray = (
        (camera.eye[2] + rays[..., 2] * depth < 0)
        & (np.abs(crossing[..., 0]) < around.half_width)
        & (np.abs(crossing[..., 1]) < around.half_depth)
    )
    return hidden


def _draw_floor(scene: Scene, size: Size) -> Float32Array:
    """Draws a blurred room: the floor's colour, lighter and darker in places."""
    random = np.random.default_rng(scene.surroundings.texture[0])
    patches = random.uniform(0.75, 1.15, (3, 3, 1)) * (255 * np.array(scene.surroundings.floor))
    floor: Float32Array = cv2.resize(patches.astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
    return floor


def _draw_grain(scene: Scene, size: Size) -> UInt8Array:
    """Draws the table's texture as the camera sees it, uint8 [H, W], 128 on average."""
    number, x, y = scene.surroundings.texture
    texture = _texture(scene.surroundings.table.texture, number % _TEXTURES_PER_KIND)
    scale = _TEXTURE_M / _TEXTURE_PX
    offset = _TEXTURE_PX * np.array([x, y])
    # From texture pixels to the table, which is tiled with copies, and on to the image.
    to_table = np.array([[scale, 0, -offset[0] * scale], [0, scale, -offset[1] * scale], [0, 0, 1]])
    matrix = scene.camera.table_homography(size) @ to_table
    warped: UInt8Array = cv2.warpPerspective(
        texture, matrix, (size.width, size.height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
    )
    return warped


@cache
def _texture(kind: str, number: int) -> UInt8Array:
    """Returns a tile of grain, uint8 [_TEXTURE_PX, _TEXTURE_PX], 128 on average."""
    random = np.random.default_rng([*kind.encode(), number])
    n = _TEXTURE_PX
    if kind == "wood":
        grain = 10 * _tiling_noise(random, 4, 64) + 5 * _tiling_noise(random, 2, 170) + 3 * _tiling_noise(random, 8, 8)
        boards = np.floor(np.arange(n) / (n / 6)).astype(int)
        grain += random.normal(0, 7, 6)[boards][None, :]
        grain[:, np.arange(n) % (n // 6) < 2] -= 28
    elif kind == "stone":
        grain = 7 * _tiling_noise(random, 6, 6) + 5 * _tiling_noise(random, 90, 90)
    elif kind == "cloth":
        threads = np.sign(np.sin(np.arange(n) * np.pi / 4))
        grain = 5 * np.add.outer(threads, threads) + 3 * _tiling_noise(random, 12, 12)
    else:
        grain = 3 * _tiling_noise(random, 5, 5)
    return np.clip(128 + grain, 0, 255).astype(np.uint8)


def _tiling_noise(random: np.random.Generator, rows: int, columns: int) -> FloatArray:
    """Returns smooth noise that tiles, interpolated from a grid of this many values."""
    small = np.pad(random.normal(0, 1, (rows, columns)), 2, mode="wrap").astype(np.float32)
    n = _TEXTURE_PX
    scale_y, scale_x = n / rows, n / columns
    large = cv2.resize(small, None, fx=scale_x, fy=scale_y, interpolation=cv2.INTER_CUBIC)
    top, left = round(2 * scale_y), round(2 * scale_x)
    tile: FloatArray = large[top : top + n, left : left + n].astype(np.float64)
    return tile


def _shadows(scene: Scene, size: Size) -> Float32Array:
    """Returns how much darker shadows make the table, [H, W] in 0 to 1."""
    mask = np.zeros(size, np.uint8)
    for thing in scene.things:
        outline = _shadow_outline(thing, scene.camera, scene.light, size)
        if outline is not None:
            cv2.fillConvexPoly(mask, outline, 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    side = 2 * round(size.height / 90) + 1
    soft = cv2.blur(cv2.blur(mask, (side, side)), (side, side))
    light = scene.light
    strength = 0.85 * light.diffuse * light.direction[2] / (light.ambient + light.diffuse * light.direction[2])
    dark: Float32Array = soft.astype(np.float32) * np.float32(strength / 255)
    return dark


def _shadow_outline(thing: Thing, camera: Camera, light: Light, size: Size) -> Int32Array | None:
    points = thing.hull
    if points[:, 2].min() < -0.005:
        return None
    x, y, z = light.direction
    shadow = points - points[:, 2:] * np.array([x / z, y / z, 1.0])
    pixels, depth = camera.project(shadow, size)
    if depth.min() < NEAR_M:
        return None
    return _fixed_point(cv2.convexHull(pixels.astype(np.float32))[:, 0])


def _table_corners(scene: Scene, z: float) -> FloatArray:
    around = scene.surroundings
    flat = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (around.half_width, around.half_depth)
    return np.column_stack([flat, np.full(4, z)])


def _project_polygon(corners: FloatArray, camera: Camera, size: Size) -> Int32Array | None:
    """Returns a convex polygon as fixed-point pixels, clipped at the camera; None if all of it is behind."""
    depth = (corners - camera.eye) @ camera.axes[2]
    clipped = []
    for i in range(len(corners)):
        (a, b), (da, db) = (corners[i - 1], corners[i]), (depth[i - 1], depth[i])
        if (da > NEAR_M) != (db > NEAR_M):
            clipped.append(a + (b - a) * ((NEAR_M - da) / (db - da)))
        if db > NEAR_M:
            clipped.append(b)
    if len(clipped) < 3:
        return None
    return _fixed_point(camera.project(np.array(clipped), size)[0])


def _fixed_point(pixels: FloatArray) -> Int32Array:
    """Returns pixels in OpenCV's fixed point, whose coordinates name pixel centres where ours name corners."""
    limited = np.clip(pixels - 0.5, -8000, 8000)
    return np.round(limited * (1 << _SUBPIXEL_BITS)).astype(np.int32)
