"""The rays that the pixels of a camera look along, from its sensor_msgs/CameraInfo. Does not import ROS.

A position in an image is measured in pixels from its top left corner, so that the middle of the first pixel is (0.5,
0.5); boxes are stated the same way. In a CameraInfo, the middle of the first pixel is (0, 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from penguin_models.errors import MediaError
from penguin_models.types import Size

FloatArray = NDArray[np.float64]

_FISHEYE = ("equidistant", "fisheye")
_PINHOLE = ("plumb_bob", "rational_polynomial", "")
_COUNTS = (4, 5, 8, 12, 14)  # of coefficients that OpenCV takes
_SAME_ASPECT = 0.02
_ITERATIONS = 20
_WRONG = 0.5  # distance in pixels between a pixel and its ray's image at which the distortion has no inverse there


@dataclass(frozen=True, eq=False)
class CameraModel:
    """Projection of a camera for the images that it publishes."""

    matrix: FloatArray  # [3, 3], from (x/z, y/z, 1) to pixels of the image, measured from its corner
    size: Size  # of the image in pixels
    distortion: FloatArray  # coefficients, [K]; empty for none
    is_fisheye: bool = False

    @classmethod
    def of(cls, info: Any, size: Size, is_rectified: bool = False) -> CameraModel:
        """Returns the model of an image.

        The CameraInfo describes the whole sensor: the image may show a region of it (`roi`), with pixels binned, and
        may have been resized since.

        Args:
            info: CameraInfo message of rclpy or rosbags; the latter and ROS 1 name matrices with capital letters.
            size: Size of the image in pixels.
            is_rectified: Whether the distortion has been removed from the image: then `p` describes it.

        Raises:
            MediaError: The camera is not calibrated, its image has another shape, or its distortion model is unknown.
        """
        k, p, d = (np.array(_field(info, name), np.float64) for name in ("k", "p", "d"))
        matrix = p.reshape(3, 4)[:, :3].copy() if is_rectified else k.reshape(3, 3).copy()
        if not (np.isfinite(matrix).all() and matrix[0, 0] > 0 and matrix[1, 1] > 0 and info.width and info.height):
            name = "p" if is_rectified else "k"
            raise MediaError(
                f"camera_info is not that of a calibrated camera: {info.width}x{info.height} pixels, {name} has the "
                f"focal lengths {matrix[0, 0]:g} and {matrix[1, 1]:g}; calibrate the camera"
            )
        roi = info.roi
        shown = (roi.width or info.width, roi.height or info.height)
        scale = np.divide((size.width, size.height), shown)  # of a pixel of the sensor in the image
        if abs(scale[0] / scale[1] - 1) > _SAME_ASPECT:
            raise MediaError(
                f"camera_info describes images of {shown[0]}x{shown[1]} pixels, and the image has "
                f"{size.width}x{size.height}, another shape; set camera_info_topics to the topic of this image"
            )
        matrix[:2, 2] += 0.5 - np.array([roi.x_offset, roi.y_offset])
        matrix[:2] *= scale[:, None]
        if is_rectified or not d.any():
            return cls(matrix, size, np.zeros(0))
        return cls(matrix, size, _coefficients(info.distortion_model, d), info.distortion_model in _FISHEYE)

    def rays(self, pixels: FloatArray) -> FloatArray:
        """Returns the points at depth 1 that pixels show, x to the right and y downwards, [..., 2].

        NaN where the distortion model has no inverse, as in the corners of a fisheye image.

        Args:
            pixels: x and y from the image's top left corner, [..., 2].
        """
        flat = np.asarray(pixels, np.float64).reshape(-1, 1, 2)
        if not self.distortion.size:
            rays = (flat - self.matrix[:2, 2]) / (self.matrix[0, 0], self.matrix[1, 1])
            return np.asarray(rays.reshape(np.shape(pixels)), np.float64)
        undistort = cv2.fisheye.undistortPoints if self.is_fisheye else cv2.undistortPoints
        aimed = flat.copy()
        for _ in range(_ITERATIONS):  # OpenCV stops after a few steps, centimetres away for a wide lens
            rays = np.asarray(undistort(aimed, self.matrix, self.distortion), np.float64)
            missed = flat - self._project(rays)
            if not np.nanmax(np.abs(missed), initial=0) > 1e-3:
                break
            aimed += np.where(np.abs(missed) < max(self.size), missed, 0)
        rays[(~(np.abs(missed) < _WRONG)).any(axis=-1)] = np.nan
        return np.asarray(rays.reshape(np.shape(pixels)), np.float64)

    def _project(self, rays: FloatArray) -> FloatArray:
        """Returns the pixels of rays [N, 1, 2]."""
        nothing = np.zeros(3)
        if self.is_fisheye:
            return np.asarray(cv2.fisheye.distortPoints(rays, self.matrix, self.distortion), np.float64)
        points = np.concatenate([rays, np.ones_like(rays[..., :1])], axis=-1)
        return np.asarray(cv2.projectPoints(points, nothing, nothing, self.matrix, self.distortion)[0], np.float64)


def _coefficients(model: str, d: FloatArray) -> FloatArray:
    """Returns the coefficients as OpenCV takes them; raises MediaError if it does not know the model."""
    if model in _FISHEYE and len(d) >= 4 and not d[4:].any():
        return d[:4]
    if model in _PINHOLE and len(d) in _COUNTS:
        return d
    raise MediaError(
        f"camera_info has the distortion model {model!r:.40} with {len(d)} coefficients; supported are plumb_bob, "
        "rational_polynomial and equidistant (4). Rectify the image"
    )


def _field(info: Any, name: str) -> Any:
    return getattr(info, name) if hasattr(info, name) else getattr(info, name.upper())
