"""A pinhole camera that looks at a point on the table, and its matrices.

Camera axes: x right, y down, z forward. Pixels: origin at the top left corner of the image, x right, y down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from penguin_models.types import Size
from penguin_tabletop.meshes import FloatArray

NEAR_M = 0.05
"""Nothing nearer to the camera is drawn."""


@dataclass(frozen=True)
class Camera:
    """Where a camera stands and looks.

    Attributes:
        target: the point in the middle of the image.
        distance: to it, in metres.
        yaw: direction of view on the table in radians; 0 looks along +y.
        pitch: radians downwards from the horizontal.
        roll: radians, clockwise.
        fov: vertical field of view in radians.
    """

    target: tuple[float, float, float]
    distance: float
    yaw: float
    pitch: float
    roll: float
    fov: float

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
        """Where it stands, [3]."""
        place: FloatArray = np.array(self.target) - self.distance * self.axes[2]
        return place

    def focal_px(self, size: Size) -> float:
        """Focal length in pixels of an image of this size."""
        return float(size.height / 2 / np.tan(self.fov / 2))

    def project(self, points: FloatArray, size: Size) -> tuple[FloatArray, FloatArray]:
        """Pixels [K, 2] and depth along the axis of view [K] of points [K, 3]; what is behind comes out mirrored."""
        seen = (points - self.eye) @ self.axes.T
        depth = seen[:, 2]
        safe = np.where(np.abs(depth) < 1e-6, 1e-6, depth)
        pixels = seen[:, :2] / safe[:, None] * self.focal_px(size) + (size.width / 2, size.height / 2)
        return pixels, depth

    def table_homography(self, size: Size) -> FloatArray:
        """The matrix [3, 3] that takes (x, y, 1) on the table to homogeneous pixels."""
        focal = self.focal_px(size)
        intrinsic = np.array([[focal, 0, size.width / 2], [0, focal, size.height / 2], [0, 0, 1]])
        columns = np.stack([self.axes[:, 0], self.axes[:, 1], -self.axes @ self.eye], axis=1)
        matrix: FloatArray = intrinsic @ columns
        return matrix

    def on_ground(self, point: FloatArray) -> tuple[float, float]:
        """Metres to the right of the camera and in front of it, of a point [3] seen from above."""
        offset = point[:2] - self.eye[:2]
        cosine, sine = np.cos(self.yaw), np.sin(self.yaw)
        return float(offset[0] * cosine + offset[1] * sine), float(offset[1] * cosine - offset[0] * sine)


@dataclass(frozen=True)
class Window:
    """A part of the image in pixels; right and bottom are the first ones outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True, eq=False)
class Pose:
    """A camera in any coordinates: right, down and forward as rows [3, 3], and where it is [3]."""

    axes: FloatArray
    eye: FloatArray

    def view_matrix(self) -> list[float]:
        """OpenGL's view matrix, column by column."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.axes * np.array([[1.0], [-1.0], [-1.0]])
        matrix[:3, 3] = -matrix[:3, :3] @ self.eye
        values: list[float] = matrix.T.ravel().tolist()
        return values


def projection_matrix(focal_px: float, size: Size, window: Window, near: float, far: float) -> list[float]:
    """OpenGL's projection matrix of a window of an image of this size, column by column."""
    x1, x2 = (window.left - size.width / 2) / focal_px, (window.right - size.width / 2) / focal_px
    y1, y2 = (size.height / 2 - window.bottom) / focal_px, (size.height / 2 - window.top) / focal_px
    matrix = np.zeros((4, 4))
    matrix[0, 0], matrix[0, 2] = 2 / (x2 - x1), (x2 + x1) / (x2 - x1)
    matrix[1, 1], matrix[1, 2] = 2 / (y2 - y1), (y2 + y1) / (y2 - y1)
    matrix[2, 2], matrix[2, 3] = -(far + near) / (far - near), -2 * far * near / (far - near)
    matrix[3, 2] = -1
    values: list[float] = matrix.T.ravel().tolist()
    return values
