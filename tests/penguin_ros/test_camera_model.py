"""Rays of pixels, against OpenCV's projection of known points."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from penguin_models.errors import MediaError
from penguin_models.types import Size
from penguin_ros.camera_model import CameraModel

K = np.array([[520.0, 0, 322.0], [0, 515.0, 238.5], [0, 0, 1]])
P = np.array([[400.0, 0, 300.0, 0], [0, 400.0, 230.0, 0], [0, 0, 1, 0]])
ROI = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
WIDE = (-0.32, 0.11, 0.001, -0.0005, -0.015)
RAYS = np.array([[0.0, 0.0], [-0.5, 0.35], [0.55, -0.4], [0.3, 0.44]])


def info(model="plumb_bob", d=(), roi=ROI, binning=0, **fields):
    fields = {"width": 640, "height": 480, "k": K.ravel(), "p": P.ravel()} | fields
    return SimpleNamespace(distortion_model=model, d=d, roi=roi, binning_x=binning, binning_y=binning, **fields)


def projected(model, d, rays):
    points = np.column_stack([rays, np.ones(len(rays))])[:, None]
    if model == "equidistant":
        return cv2.fisheye.projectPoints(points, np.zeros(3), np.zeros(3), K, np.array(d[:4]))[0][:, 0]
    return cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, np.array(d))[0][:, 0]


@pytest.mark.parametrize(
    ("model", "d"),
    [
        ("plumb_bob", ()),
        ("none", (0.0,) * 5),
        ("plumb_bob", WIDE),
        ("rational_polynomial", (0.3, -0.2, 0.0005, 0.0002, 0.03, 0.6, -0.1, 0.05)),
        ("equidistant", (0.05, -0.01, 0.002, -0.0003)),
    ],
)
@pytest.mark.parametrize(
    ("size", "roi", "binning"),
    [
        (Size(480, 640), ROI, 0),
        (Size(240, 320), ROI, 2),
        (Size(168, 224), ROI, 1),  # resized
        (Size(200, 250), SimpleNamespace(x_offset=40, y_offset=60, width=500, height=400), 2),
    ],
)
def test_rays_undo_distortion_binning_regions_and_resizing(model, d, size, roi, binning):
    shown = (roi.width or 640, roi.height or 480)
    pixels = (projected(model, d, RAYS) + 0.5 - (roi.x_offset, roi.y_offset)) * np.divide(size[::-1], shown)
    camera = CameraModel.of(info(model, d, roi, binning), size)
    np.testing.assert_allclose(camera.rays(pixels[None])[0], RAYS, atol=2e-5)


def test_a_rectified_image_is_described_by_p_and_ros_1_names_are_read():
    message = info("plumb_bob", WIDE)
    camera = CameraModel.of(message, Size(480, 640), is_rectified=True)
    np.testing.assert_allclose(camera.rays(np.array([300.5 + 200, 230.5 - 100])), (0.5, -0.25))
    old = SimpleNamespace(**{n.upper() if n in ("k", "p", "d") else n: v for n, v in vars(message).items()})
    np.testing.assert_allclose(
        CameraModel.of(old, Size(480, 640)).matrix, CameraModel.of(message, Size(480, 640)).matrix
    )


def test_pixels_that_no_ray_of_the_lens_reaches_are_nan():
    camera = CameraModel.of(info("plumb_bob", (-0.6, 0.0, 0.0, 0.0)), Size(480, 640))
    far, near = camera.rays(np.array([[639.0, 479.0], [330.0, 240.0]]))
    assert np.isnan(far).all() and np.isfinite(near).all()


@pytest.mark.parametrize(
    ("message", "size", "reason"),
    [
        (info(k=np.zeros(9)), Size(480, 640), "is not that of a calibrated camera: 640x480 pixels, k has the focal"),
        (info(width=0, height=0), Size(480, 640), "not that of a calibrated camera: 0x0"),
        (info(k=K.ravel() * np.nan), Size(480, 640), "not that of a calibrated camera"),
        (info(), Size(360, 640), "describes images of 640x480 pixels, and the image has 640x360, another shape"),
        (info("kannala", (0.1, 0.2)), Size(480, 640), "distortion model 'kannala' with 2 coefficients; supported are"),
        (info("equidistant", (0.1, 0.2)), Size(480, 640), "'equidistant' with 2 coefficients"),
        (info("plumb_bob", (0.1,) * 6), Size(480, 640), "'plumb_bob' with 6 coefficients"),
    ],
)
def test_a_camera_info_that_does_not_describe_the_image_is_refused(message, size, reason):
    with pytest.raises(MediaError, match=reason):
        CameraModel.of(message, size)
