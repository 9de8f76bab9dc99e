"""Renders single objects with PyBullet's software renderer.

Each object is rendered alone, in the window of the image that it fills, and keeps its depth: what does not move is not
rendered again, and occlusion is resolved when the sprites are composed.

PyBullet never frees a visual shape (about 1.6 KB per triangle), so each is created once, at scale 1, and the camera is
moved instead of the object. Bodies are created from it and removed; they leave no memory behind that grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from penguin_models.types import BoolArray, Float32Array, Size, UInt8Array
from penguin_tabletop.bullet import BulletClient
from penguin_tabletop.scene.camera import Camera
from penguin_tabletop.scene.catalogue import RGB
from penguin_tabletop.scene.meshes import FloatArray, Mesh, with_hard_edges
from penguin_tabletop.scene.scene import Light, Rect, Thing, rect_of, rotation_matrix
from penguin_tabletop.scene.shapes import Shape

_MARGIN_M = 0.01  # distance between the object and the near and far planes, at scale 1
_MAX_AREA = 0.022  # objects that cover a larger share of the image are rendered coarser, which bounds the time
_EMPTY = 0.9999  # value in the depth buffer without an object, up to rounding; the margin keeps objects well below it


@dataclass(frozen=True)
class Window:
    """A part of the image in pixels; right and bottom are exclusive."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> Size:
        """Height and width."""
        return Size(self.bottom - self.top, self.right - self.left)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True, eq=False)
class Sprite:
    """A rendered object in a window of the image."""

    rgb: UInt8Array  # [h, w, 3]
    inside: BoolArray  # [h, w], True on the object
    depth: Float32Array  # [h, w], metres along the viewing axis; valid on the object
    window: Window
    in_image: float  # share of the rectangle around the object that is in the image


class SpriteRenderer:
    """Renders objects; one per process. The result does not depend on what was rendered before."""

    def __init__(self) -> None:
        self._bullet = BulletClient()
        self._visuals: dict[Shape, list[int]] = {}

    def render(self, thing: Thing, camera: Camera, light: Light, size: Size) -> Sprite | None:
        """Renders an object; returns None if it is not in the image, whose size is `size`."""
        rect = rect_of(thing, camera, size)
        window = _window_of(rect, size)
        if window is None:
            return None
        # The object stays at the origin at scale 1; the camera moves around it.
        rotation = rotation_matrix(thing.rotation)
        axes, eye = camera.axes @ rotation, rotation.T @ (camera.eye - thing.position) / thing.scale
        depths = (thing.shape.hull - eye) @ axes[2]
        near, far = max(float(depths.min()) - _MARGIN_M, _MARGIN_M), float(depths.max()) + _MARGIN_M
        bodies = [
            self._body(visual, part.rgb or thing.rgb)
            for visual, part in zip(self._visuals_of(thing), thing.shape.parts, strict=True)
        ]
        rgba, buffer = self._camera_image(
            window,
            _MAX_AREA * size.area,
            # OpenGL takes matrices column by column.
            viewMatrix=_view_matrix(axes, eye).T.ravel().tolist(),
            projectionMatrix=_projection_matrix(camera.focal_px(size), size, window, near, far).T.ravel().tolist(),
            lightDirection=(rotation.T @ light.direction).tolist(),
            lightAmbientCoeff=light.ambient,
            lightDiffuseCoeff=light.diffuse,
            lightSpecularCoeff=light.specular,
        )
        for body in bodies:
            self._bullet.removeBody(body)
        depth = thing.scale * near * far / (far - (far - near) * buffer)
        in_image = min(1.0, window.size.area / rect.area)
        return _enlarged(Sprite(rgba[..., :3], buffer < _EMPTY, depth, window, in_image))

    def _camera_image(self, window: Window, max_pixels: float, **settings: Any) -> tuple[UInt8Array, Float32Array]:
        height, width = window.size
        coarser = max(1.0, (height * width / max_pixels) ** 0.5)
        height, width = max(1, round(height / coarser)), max(1, round(width / coarser))
        _, _, rgba, buffer, _ = self._bullet.getCameraImage(
            width,
            height,
            shadow=0,
            renderer=self._bullet.ER_TINY_RENDERER,
            flags=self._bullet.ER_NO_SEGMENTATION_MASK,
            **settings,
        )
        pixels: UInt8Array = np.asarray(rgba, np.uint8).reshape(height, width, 4)
        return pixels, np.asarray(buffer, np.float32).reshape(height, width)

    def _body(self, visual: int, rgb: RGB) -> int:
        body: int = self._bullet.createMultiBody(0, -1, visual)
        self._bullet.changeVisualShape(body, -1, rgbaColor=(*rgb, 1))
        return body

    def _visuals_of(self, thing: Thing) -> list[int]:
        shape = thing.shape
        if shape not in self._visuals:
            self._visuals[shape] = [self._create_visual(part.mesh, shape.crease_degrees) for part in shape.parts]
        return self._visuals[shape]

    def _create_visual(self, mesh: Mesh, crease_degrees: float) -> int:
        mesh, normals = with_hard_edges(mesh, crease_degrees)
        visual: int = self._bullet.createVisualShape(
            self._bullet.GEOM_MESH,
            vertices=mesh.vertices.tolist(),
            indices=mesh.triangles.ravel().tolist(),
            normals=normals.tolist(),
            uvs=np.zeros((len(normals), 2)).tolist(),
        )
        return visual


def _enlarged(sprite: Sprite) -> Sprite:
    """Returns a sprite that was rendered coarser than its window at the window's size."""
    height, width = sprite.window.size
    if sprite.inside.shape == (height, width):
        return sprite
    weights = sprite.inside.astype(np.float32)
    # Colours are weighted by the object's share of a pixel, so that no background gets into its edge.
    colours = cv2.resize(sprite.rgb * weights[..., None], (width, height), interpolation=cv2.INTER_LINEAR)
    shares = cv2.resize(weights, (width, height), interpolation=cv2.INTER_LINEAR)
    colours /= np.maximum(shares, 1e-3)[..., None]
    depth = cv2.resize(sprite.depth, (width, height), interpolation=cv2.INTER_NEAREST)
    return Sprite(colours.astype(np.uint8), shares > 0.5, depth, sprite.window, sprite.in_image)


def _window_of(rect: Rect, size: Size) -> Window | None:
    """Returns the part of the image that a rectangle touches."""
    window = Window(
        max(0, int(np.floor(rect.left))),
        max(0, int(np.floor(rect.top))),
        min(size.width, int(np.ceil(rect.right))),
        min(size.height, int(np.ceil(rect.bottom))),
    )
    return window if window.left < window.right and window.top < window.bottom else None


def _view_matrix(axes: FloatArray, eye: FloatArray) -> FloatArray:
    """Returns OpenGL's view matrix [4, 4]; `axes` are right, down and forward as rows."""
    matrix = np.eye(4)
    matrix[:3, :3] = axes * np.array([[1.0], [-1.0], [-1.0]])
    matrix[:3, 3] = -matrix[:3, :3] @ eye
    return matrix


def _projection_matrix(focal_px: float, size: Size, window: Window, near: float, far: float) -> FloatArray:
    """Returns OpenGL's projection matrix [4, 4] of a window of an image of this size."""
    x1, x2 = (window.left - size.width / 2) / focal_px, (window.right - size.width / 2) / focal_px
    y1, y2 = (size.height / 2 - window.bottom) / focal_px, (size.height / 2 - window.top) / focal_px
    matrix = np.zeros((4, 4))
    matrix[0, 0], matrix[0, 2] = 2 / (x2 - x1), (x2 + x1) / (x2 - x1)
    matrix[1, 1], matrix[1, 2] = 2 / (y2 - y1), (y2 + y1) / (y2 - y1)
    matrix[2, 2], matrix[2, 3] = -(far + near) / (far - near), -2 * far * near / (far - near)
    matrix[3, 2] = -1
    return matrix
