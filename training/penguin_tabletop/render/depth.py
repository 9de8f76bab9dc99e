"""What a depth camera at the place of the colour camera measures of a scene, and where the visible surfaces truly are.

The measurements have the faults of a stereo camera: noise that grows with the square of the distance, no value at the
edges of objects, and none beyond its range.
"""

from __future__ import annotations

import cv2
import numpy as np

from penguin_models.types import BoolArray, Float32Array, Size
from penguin_tabletop.render.picture import NOTHING, SUPERSAMPLE
from penguin_tabletop.scene.camera import Camera
from penguin_tabletop.scene.meshes import FloatArray
from penguin_tabletop.scene.scene import Scene
from penguin_tabletop.truth import View

_FLOOR_M = -0.72  # height of the floor below the table's top
_NOISE_PER_M = 0.002  # standard deviation in metres at 1 m
_EDGE = 0.02  # a step of this share of the depth between two pixels is an edge
_RANGE_M = 6.0


def measured_depth(view: View) -> Float32Array:
    """Returns the image of a depth camera, float32 [H, W] in metres along the viewing axis; 0 where it has no value."""
    depth = _true_depth(view)[::SUPERSAMPLE, ::SUPERSAMPLE]
    nearest, farthest = cv2.erode(depth, np.ones((3, 3))), cv2.dilate(depth, np.ones((3, 3)))
    random = np.random.default_rng([view.scene.sensor.number, 1])
    is_edge = (farthest - nearest > _EDGE * depth) & (random.random(depth.shape) < 0.5)
    noise = random.standard_normal(depth.shape, np.float32) * np.float32(_NOISE_PER_M) * depth**2
    measured: Float32Array = np.where(is_edge | (depth > _RANGE_M), 0, depth + noise).astype(np.float32)
    return measured


def visible_centres(view: View) -> dict[int, FloatArray]:
    """Returns the mean of the visible surface of each object, [3] in metres along the camera's axes, by id."""
    picture = view.picture
    points = _rays(view.scene.camera, Size(*picture.ids.shape)) * picture.depth[..., None]
    return {number: points[picture.ids == number].mean(axis=0) for number in picture.visibility}


def _true_depth(view: View) -> Float32Array:
    """Returns the depth of objects, table and floor, float32 [SUPERSAMPLE*H, SUPERSAMPLE*W]."""
    ids, scene = view.picture.ids, view.scene
    rays = _rays(scene.camera, Size(*ids.shape)) @ scene.camera.axes
    table, on_table = _plane(rays, scene, 0.0)
    floor, _ = _plane(rays, scene, _FLOOR_M)
    backdrop = np.where(on_table, table, floor)
    return np.where(ids == NOTHING, backdrop, view.picture.depth).astype(np.float32)


def _plane(rays: FloatArray, scene: Scene, height: float) -> tuple[FloatArray, BoolArray]:
    """Returns the depth [h, w] at which rays meet a horizontal plane, and whether that is within the table's sides."""
    eye, around = scene.camera.eye, scene.surroundings
    depth = (height - eye[2]) / np.minimum(rays[..., 2], -1e-6)
    x, y = (eye[axis] + depth * rays[..., axis] for axis in (0, 1))
    return depth, (np.abs(x) < around.half_width) & (np.abs(y) < around.half_depth)


def _rays(camera: Camera, size: Size) -> FloatArray:
    """Returns the points at depth 1 that pixels show, [h, w, 3], along the camera's axes."""
    focal = camera.focal_px(size)
    x, y = ((np.arange(length) + 0.5 - length / 2) / focal for length in (size.width, size.height))
    return np.stack([*np.meshgrid(x, y), np.ones(size)], axis=-1)
