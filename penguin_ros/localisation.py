"""Where the object in a box is, from a registered depth image. Does not import ROS.

What surrounds a box is mostly the surface that the object stands on or in front of. A plane is fitted to it: in the
image, the inverse depth of a plane is linear. The object is what is nearer inside the box, around its most frequent
depth. Where nothing is nearer (a sheet of paper on a table, a box in a cluttered place), it is the most frequent depth
in the inner half of the box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from penguin_engine.scene.object_position import ObjectPosition
from penguin_models.errors import MediaError
from penguin_models.types import BoolArray, Float32Array, Size
from penguin_ros.camera_model import CameraModel

FloatArray = NDArray[np.float64]

_SURROUNDINGS = 0.25  # on each side of a box, as a share of the box's side
_MAX_SAMPLES = 64  # along each side of the box with its surroundings
_MIN_SHARE = 0.03  # share of the samples in a box that must have a depth
_TRIALS = 40
_MOST = 0.5  # share of the surroundings that a plane must explain
_MIN_FOREGROUND = 0.1  # share of the box that the object must fill, to be told from the plane
_BIN, _AROUND = 0.015, 0.15  # of the histogram of depths, and what belongs to its mode: shares of the depth
# Standard deviations: with boxes as those of the shipped model, 90 % of the true positions are in the ellipsoid of 90 %
_BOX_NOISE, _DEPTH_NOISE = 0.04, 0.15  # share of the object's extent, and of the spread of its depth


class _Samples(NamedTuple):
    """Pixels of a depth image in and around a box; those without a depth are left out."""

    rays: FloatArray  # points at depth 1 that they show, [N, 2]
    depth: FloatArray  # in metres, [N]
    is_inside: BoolArray  # whether they are in the box, [N]
    is_inner: BoolArray  # whether they are in its inner half, [N]
    area: int  # number of samples in the box, with or without a depth


def check_registered(depth_size: Size, image_size: Size) -> None:
    """Raises MediaError if a depth image does not show what the image shows."""
    x, y = depth_size.width / image_size.width, depth_size.height / image_size.height
    if abs(x - y) * min(image_size) > 1 + 0.01 * min(depth_size):
        raise MediaError(
            f"the depth image has {depth_size.width}x{depth_size.height} pixels, another shape than the image with "
            f"{image_size.width}x{image_size.height}: it is not registered; use the topic that is aligned to the image"
        )


def locate(box: Sequence[float], depth: Float32Array, camera: CameraModel, frame_id: str = "") -> ObjectPosition:
    """Returns where the object in a box is.

    Args:
        box: x_min, y_min, x_max, y_max in pixels of the image, from its top left corner; may extend beyond the image.
        depth: Registered depth in metres along the camera's view, NaN where there is none, [H, W]; may be smaller or
            larger than the image.
        camera: Model of the image.
        frame_id: Frame of the camera.

    Raises:
        MediaError: The box is empty, or too few of its pixels have a depth.
    """
    samples = _sample(box, depth, camera)
    found = _foreground(samples)
    rays, z = samples.rays[found], samples.depth[found]
    centre = np.append(rays.mean(axis=0), 1.0) * z.mean()
    low, high = (np.percentile(rays, share, axis=0) for share in (2, 98))
    pixel = np.array([1 / camera.matrix[0, 0], 1 / camera.matrix[1, 1]])
    extent = (high - low + pixel * np.divide(camera.size[::-1], depth.shape[::-1])) * z.mean()
    spread = float(np.percentile(z, 95) - np.percentile(z, 5))
    # Errors across the view come from the box; one of the depth moves the position along its ray.
    across = (_BOX_NOISE * extent) ** 2 + (pixel * z.mean()) ** 2
    along = (_DEPTH_NOISE * spread) ** 2 + _sensor_noise(z.mean()) ** 2
    ray = centre / centre[2]
    covariance = np.diag([*across, 0.0]) + along * np.outer(ray, ray)
    return ObjectPosition(frame_id, centre, covariance, np.array([*extent, max(spread, _sensor_noise(z.mean()))]))


def _sample(box: Sequence[float], depth: Float32Array, camera: CameraModel) -> _Samples:
    image, shape = np.array(camera.size[::-1], np.float64), np.array(depth.shape[::-1], np.float64)
    corners = np.clip(np.array(box, np.float64).reshape(2, 2), 0, image) * shape / image
    side = corners[1] - corners[0]
    if not (side > 0).all():
        raise MediaError(f"box {tuple(round(float(value), 1) for value in box)} is empty or outside the image")
    low = np.maximum(np.floor(corners[0] - _SURROUNDINGS * side), 0).astype(int)
    high = np.minimum(np.ceil(corners[1] + _SURROUNDINGS * side), shape).astype(int)
    step = np.maximum(1, -(-(high - low) // _MAX_SAMPLES))
    x, y = (np.arange(low[axis] + step[axis] // 2, high[axis], step[axis]) for axis in (0, 1))
    pixels = np.stack(np.meshgrid(x, y), axis=-1) + 0.5
    # A box narrower than a step holds the sample in its middle.
    reach = np.maximum(side, step) / 2
    away = np.abs(pixels - corners.mean(axis=0)) / reach
    values = depth[np.ix_(y, x)].astype(np.float64)
    rays = camera.rays(pixels * image / shape)
    inside = (away <= 1).all(axis=-1)
    known = np.isfinite(values) & np.isfinite(rays).all(axis=-1)
    area = int(inside.sum())
    share = (known & inside).sum() / area
    if not share > _MIN_SHARE:
        raise MediaError(f"the box has no depth: {share:.1%} of its pixels have a value, the limit is {_MIN_SHARE:.0%}")
    inner = (away <= 0.5).all(axis=-1)
    return _Samples(rays[known], values[known], inside[known], inner[known], area)


def _foreground(samples: _Samples) -> BoolArray:
    """Returns which samples show the object, [N]; at least one."""
    behind = _plane_behind(samples)
    nearer = samples.is_inside & (samples.depth < behind - 3 * _sensor_noise(samples.depth) - 0.002)
    if nearer.sum() >= max(3, _MIN_FOREGROUND * samples.area):
        return nearer & _around_mode(samples.depth, nearer)
    inner = samples.is_inner if samples.is_inner.any() else samples.is_inside
    return samples.is_inside & _around_mode(samples.depth, inner)


def _around_mode(depth: FloatArray, chosen: BoolArray) -> BoolArray:
    """Returns which depths [N] are around the most frequent one of those that are chosen."""
    logs = np.log(depth[chosen])
    counts, edges = np.histogram(logs, np.arange(logs.min() - 2 * _BIN, logs.max() + 3 * _BIN, _BIN))
    best = int(np.convolve(counts, (1, 2, 1), "same").argmax())
    mode = np.exp((edges[best] + edges[best + 1]) / 2)
    near = np.abs(depth - mode) < _AROUND * mode
    middle = np.median(depth[chosen & near])
    around: BoolArray = np.abs(depth - middle) < _AROUND * middle
    return around


def _plane_behind(samples: _Samples) -> FloatArray:
    """Returns the depth [N] of the plane around the box at each sample; minus infinity if no plane explains it."""
    points = np.column_stack([samples.rays, np.ones(len(samples.depth))])
    nowhere = np.full(len(points), -np.inf)
    around = ~samples.is_inside
    if around.sum() < 10:
        return nowhere
    known, inverse = points[around], 1 / samples.depth[around]
    tolerance = 3 * _sensor_noise(samples.depth[around]) * inverse**2 + 0.002 * inverse
    triples = np.random.default_rng(0).integers(len(known), size=(_TRIALS, 3))
    triples = triples[np.abs(np.linalg.det(known[triples])) > 1e-12]
    if not len(triples):
        return nowhere
    planes = np.linalg.solve(known[triples], inverse[triples][..., None])[..., 0]
    fits = np.abs(planes @ known.T - inverse) < tolerance
    best = fits[fits.sum(axis=1).argmax()]
    if best.sum() < _MOST * len(known):
        return nowhere
    plane = np.linalg.lstsq(known[best], inverse[best], rcond=None)[0]
    return np.asarray(1 / np.maximum(points @ plane, 1e-6))


def _sensor_noise(depth: FloatArray | float) -> FloatArray:
    """Returns the standard deviation in metres of a stereo or time-of-flight camera at some depths."""
    return np.asarray(0.001 + 0.002 * np.square(depth))
