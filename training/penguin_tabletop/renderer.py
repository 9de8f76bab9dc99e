"""One object as pixels, on PyBullet's software renderer. Knows no table, no text, no truth, and no other object.

Each object is rendered alone, in the window of the image that it fills, and keeps its depth: what does not move need
not be rendered again, and what hides what is settled when the sprites are laid over each other.

PyBullet never frees a visual shape (about 1.6 KB a triangle), so each is made once, at scale 1, and the camera is moved
instead of the object; bodies are made from it and removed, which leaks nothing that grows (half a KB for the largest).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from penguin_models.types import BoolArray, Float32Array, Size, UInt8Array
from penguin_tabletop.bullet import bullet
from penguin_tabletop.camera import Camera, Pose, Window, projection_matrix
from penguin_tabletop.catalogue import RGB
from penguin_tabletop.meshes import with_hard_edges
from penguin_tabletop.scene import Light, Thing, rotation_of
from penguin_tabletop.shapes import Part
from penguin_tabletop.view import Rect, rect_of

_MARGIN_M = 0.01
"""Between the object and the near and far planes, at scale 1."""
_MOST_AREA = 0.022
"""An object that takes more of the image is rendered coarser and enlarged: time does not grow with its size."""
_EMPTY = 0.9999
"""In the depth buffer: no object, up to rounding; the margin keeps objects well below it."""


@dataclass(frozen=True, eq=False)
class Sprite:
    """A rendered object in a window of the image.

    Attributes:
        rgb: uint8 [h, w, 3].
        inside: bool [h, w], where the object is.
        depth: float32 [h, w], metres along the axis of view, where the object is.
        window: of the image.
        in_image: share of the rectangle around the object that is in the image.
    """

    rgb: UInt8Array
    inside: BoolArray
    depth: Float32Array
    window: Window
    in_image: float


class Renderer:
    """Renders objects; one per process. What it gives does not depend on what it rendered before."""

    def __init__(self) -> None:
        self._bullet: Any = bullet()
        self._client = self._bullet.connect(self._bullet.DIRECT)
        self._visuals: dict[tuple[str, int], list[int]] = {}

    def close(self) -> None:
        """Frees the renderer."""
        self._bullet.disconnect(self._client)

    def render(self, thing: Thing, camera: Camera, light: Light, size: Size) -> Sprite | None:
        """Renders an object.

        Args:
            thing: where it is.
            camera: from where.
            light: on it.
            size: of the whole image in pixels.

        Returns:
            None if it is not in the image.
        """
        rect = rect_of(thing, camera, size)
        window = _window(rect, size)
        if window is None:
            return None
        rotation = rotation_of(thing.turn)
        pose = Pose(camera.axes @ rotation, rotation.T @ (camera.eye - thing.position) / thing.scale)
        depths = (thing.shape.outer - pose.eye) @ pose.axes[2]
        near, far = max(float(depths.min()) - _MARGIN_M, _MARGIN_M), float(depths.max()) + _MARGIN_M
        bodies = [
            self._body(visual, part.rgb or thing.rgb)
            for visual, part in zip(self._visual(thing), thing.shape.parts, strict=True)
        ]
        rgba, buffer = self._photograph(
            window,
            _MOST_AREA * size.area,
            viewMatrix=pose.view_matrix(),
            projectionMatrix=projection_matrix(camera.focal_px(size), size, window, near, far),
            lightDirection=(rotation.T @ light.direction).tolist(),
            lightAmbientCoeff=light.ambient,
            lightDiffuseCoeff=light.diffuse,
            lightSpecularCoeff=light.specular,
        )
        for body in bodies:
            self._bullet.removeBody(body, physicsClientId=self._client)
        depth = thing.scale * near * far / (far - (far - near) * buffer)
        shown = (window.right - window.left) * (window.bottom - window.top)
        return _enlarged(Sprite(rgba[..., :3], buffer < _EMPTY, depth, window, min(1.0, shown / rect.area)))

    def _photograph(self, window: Window, most_pixels: float, **settings: Any) -> tuple[UInt8Array, Float32Array]:
        height, width = window.bottom - window.top, window.right - window.left
        coarser = max(1.0, (height * width / most_pixels) ** 0.5)
        height, width = max(1, round(height / coarser)), max(1, round(width / coarser))
        _, _, rgba, buffer, _ = self._bullet.getCameraImage(
            width,
            height,
            shadow=0,
            renderer=self._bullet.ER_TINY_RENDERER,
            flags=self._bullet.ER_NO_SEGMENTATION_MASK,
            physicsClientId=self._client,
            **settings,
        )
        pixels: UInt8Array = np.asarray(rgba, np.uint8).reshape(height, width, 4)
        return pixels, np.asarray(buffer, np.float32).reshape(height, width)

    def _body(self, visual: int, rgb: RGB) -> int:
        body: int = self._bullet.createMultiBody(0, -1, visual, physicsClientId=self._client)
        self._bullet.changeVisualShape(body, -1, rgbaColor=(*rgb, 1), physicsClientId=self._client)
        return body

    def _visual(self, thing: Thing) -> list[int]:
        """The visual shapes of the thing's parts, made when they are first needed."""
        key = (thing.kind, thing.variant)
        if key not in self._visuals:
            self._visuals[key] = [self._make(part) for part in thing.shape.parts]
        return self._visuals[key]

    def _make(self, part: Part) -> int:
        mesh, normals = with_hard_edges(part.mesh, part.crease_degrees)
        visual: int = self._bullet.createVisualShape(
            self._bullet.GEOM_MESH,
            vertices=mesh.vertices.tolist(),
            indices=mesh.triangles.ravel().tolist(),
            normals=normals.tolist(),
            uvs=np.zeros((len(normals), 2)).tolist(),
            physicsClientId=self._client,
        )
        return visual


def _enlarged(sprite: Sprite) -> Sprite:
    """A sprite that was rendered coarser than its window, at the window's size."""
    window = sprite.window
    size = (window.right - window.left, window.bottom - window.top)
    if sprite.inside.shape == size[::-1]:
        return sprite
    weights = sprite.inside.astype(np.float32)
    # Colours are weighted by the object's share of a pixel: nothing of what is behind it gets into its edge.
    colours = cv2.resize(sprite.rgb * weights[..., None], size, interpolation=cv2.INTER_LINEAR)
    shares = cv2.resize(weights, size, interpolation=cv2.INTER_LINEAR)
    colours /= np.maximum(shares, 1e-3)[..., None]
    depth = cv2.resize(sprite.depth, size, interpolation=cv2.INTER_NEAREST)
    return Sprite(colours.astype(np.uint8), shares > 0.5, depth, window, sprite.in_image)


def _window(rect: Rect, size: Size) -> Window | None:
    """The part of the image that a rectangle touches."""
    window = Window(
        max(0, int(np.floor(rect.left))),
        max(0, int(np.floor(rect.top))),
        min(size.width, int(np.ceil(rect.right))),
        min(size.height, int(np.ceil(rect.bottom))),
    )
    return window if window.left < window.right and window.top < window.bottom else None
