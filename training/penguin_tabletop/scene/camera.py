"""A pinhole camera that looks at a point on the table, and its matrices.

Camera axes: x right, y down, z forward. Pixels: origin at the top left corner of the image, x right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from penguin_models.types import Size
from penguin_tabletop.scene.meshes import FloatArray

NEAR_M = 0.05  # nothing closer to the camera is drawn


@dataclass(frozen=True)
class Camera:
    """Position and viewing direction of a camera."""

    target: tuple[float, float, float]  # point in the middle of the image, in metres
    distance: float  # distance to the target in metres
    yaw: float  # viewing direction on the table in radians; 0 looks along +y
    pitch: float  # radians downwards from the horizontal
    roll: float  # radians, clockwise
    fov: float  # vertical field of view in radians

    @cached_property
    def axes(self) -> FloatArray:
        """Right, down and forward as rows, [3, 3]."""
        cy, sy, cp, sp = np.cos(self.yaw), np.sin(self.yaw), np.cos(self.pitch), np.sin(self.pitch)
        forward = np.array([-sy * cp, cy * cp, -sp])
        right = np.array([cy, sy, 0.0])
        down = np.cross(forward, right)
        cr, sr = np.cos(self.roll), np.sin(self.roll)
        return np.stack([cr * right + sr * down, cr * down - sr * right, forward])

    @cached_property
    def eye(self) -> FloatArray:
        """Position of the camera, [3]."""
        position: FloatArray = np.array(self.target) - self.distance * self.axes[2]
        return position

    def focal_px(self, size: Size) -> float:
        """Returns the focal length in pixels of an image of this size."""
        return float(size.height / 2 / np.tan(self.fov / 2))

    def project(self, points: FloatArray, size: Size) -> tuple[FloatArray, FloatArray]:
        """Returns pixels [K, 2] and depths [K] of points [K, 3]; points behind the camera come out mirrored."""
        in_camera = (points - self.eye) @ self.axes.T
        depth = in_camera[:, 2]
        safe = np.where(np.abs(depth) < 1e-6, 1e-6, depth)
        pixels = in_camera[:, :2] / safe[:, None] * self.focal_px(size) + (size.width / 2, size.height / 2)
        return pixels, depth

    def table_homography(self, size: Size) -> FloatArray:
        """Returns the matrix [3, 3] that maps (x, y, 1) on the table to homogeneous pixels."""
        focal = self.focal_px(size)
        intrinsic = np.array([[focal, 0, size.width / 2], [0, focal, size.height / 2], [0, 0, 1]])
        columns = np.stack([self.axes[:, 0], self.axes[:, 1], -self.axes @ self.eye], axis=1)
        matrix: FloatArray = intrinsic @ columns
        return matrix

    def on_ground(self, point: FloatArray) -> tuple[float, float]:
        """Returns how far a point [3] is to the right and ahead of the camera in metres, seen from above."""
        offset = point[:2] - self.eye[:2]
        cosine, sine = np.cos(self.yaw), np.sin(self.yaw)
        return float(offset[0] * cosine + offset[1] * sine), float(offset[1] * cosine - offset[0] * sine)
