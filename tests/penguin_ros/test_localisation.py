"""Positions of objects of known place in depth images with the faults of real ones."""

import cv2
import numpy as np
import pytest

from penguin_engine.scene.episode import Pose
from penguin_engine.scene.object_position import ObjectPosition
from penguin_models.errors import MediaError
from penguin_models.types import Size
from penguin_ros.camera_model import CameraModel
from penguin_ros.localisation import check_registered, locate

SIZE = Size(240, 320)
MATRIX = np.array([[300.0, 0, 160], [0, 300.0, 120], [0, 0, 1]])
CAMERA = CameraModel(MATRIX, SIZE, np.zeros(0))
BOX = (130, 90, 190, 150)
CENTRE = (0.0, 0.0, 1.0)


def scene(behind=1.6, slope=0.0, size=SIZE):
    """Returns the depth of a square of 20 cm at 1 m, in front of a plane that slopes away upwards."""
    rays = CAMERA.rays(np.stack(np.meshgrid(np.arange(320), np.arange(240)), axis=-1) + 0.5)
    depth = behind / (1 + slope * rays[..., 1])
    depth[np.abs(rays).max(axis=-1) <= 0.1] = 1.0
    depth += np.random.default_rng(0).normal(0, 0.002, depth.shape) * depth**2
    return cv2.resize(depth.astype(np.float32), size[::-1], interpolation=cv2.INTER_NEAREST)


def with_holes(depth):
    depth = depth.copy()
    depth[np.random.default_rng(1).random(depth.shape) < 0.7] = np.nan
    depth[:, 130:150] = np.nan
    return depth


def with_mixed_edges(depth):
    """Averages depth across edges, as time-of-flight cameras do."""
    return cv2.blur(depth, (7, 7))


@pytest.mark.parametrize(
    ("depth", "box", "tolerance_m"),
    [
        (scene(), BOX, 0.005),
        (scene(), (118, 84, 200, 164), 0.01),  # a loose box
        (scene(), (136, 96, 184, 144), 0.01),  # a tight one
        (scene(behind=1.125, slope=1.2), BOX, 0.015),  # the object stands on a table
        (scene(behind=5.0), BOX, 0.005),
        (with_mixed_edges(scene()), BOX, 0.02),
        (with_mixed_edges(scene(behind=4.0)), BOX, 0.02),
        (scene(size=Size(120, 160)), BOX, 0.01),
        (scene(size=Size(480, 640)), BOX, 0.005),
        (np.full(SIZE, 1.0, np.float32), BOX, 0.005),  # a picture on a wall
    ],
)
def test_the_centre_of_an_object_is_found_whatever_is_behind_it(depth, box, tolerance_m):
    found = locate(box, depth, CAMERA, "eye")
    assert np.linalg.norm(found.position - CENTRE) < tolerance_m and found.frame_id == "eye"
    assert np.linalg.eigvalsh(found.covariance).min() > 0 and np.trace(found.covariance) < 0.02**2
    assert np.abs(found.size[:2] - 0.2).max() < 0.05 and 0 < found.size[2] < 0.1


def test_holes_move_the_centre_by_no_more_than_they_hide():
    found = locate(BOX, with_holes(scene()), CAMERA)
    assert abs(found.position[2] - 1) < 0.005 and 0 < found.position[0] < 0.04  # a third of it is hidden, on the left


def test_an_object_at_the_edge_is_located_by_the_part_in_the_image():
    depth = np.full(SIZE, 3.0, np.float32)
    depth[60:180, :40] = 1.5
    found = locate((-50.0, 60.0, 40.0, 180.0), depth, CAMERA)
    np.testing.assert_allclose(found.position, ((20 - 160) / 300 * 1.5, 0, 1.5), atol=0.01)


def test_a_wide_lens_sees_the_same_place():
    distortion = np.array([-0.3, 0.1, 0.0, 0.0])
    lens = CameraModel(MATRIX, SIZE, distortion)
    rays = lens.rays(np.stack(np.meshgrid(np.arange(320), np.arange(240)), axis=-1) + 0.5)
    is_object = np.abs(rays - (0.4, 0.25)).max(axis=-1) < 0.05
    depth = np.where(is_object, 0.8, 2.0).astype(np.float32)
    rows, columns = np.nonzero(is_object)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(locate(box, depth, lens).position, np.array([0.4, 0.25, 1.0]) * 0.8, atol=0.005)
    assert np.linalg.norm(locate(box, depth, CAMERA).position - np.array([0.4, 0.25, 1.0]) * 0.8) > 0.015


def test_the_covariance_grows_with_the_distance_and_turns_with_the_camera():
    near, far = (locate(BOX, np.full(SIZE, z, np.float32), CAMERA, "eye") for z in (1.0, 4.0))
    assert far.covariance[2, 2] > 50 * near.covariance[2, 2]
    turned = Pose("map", (10.0, 0.0, 1.5), (-0.5, 0.5, -0.5, 0.5))  # an optical frame that looks along x
    seen = far.seen_from(turned)
    np.testing.assert_allclose(seen.position, (14, 0, 1.5), atol=0.02)
    np.testing.assert_allclose(np.diag(seen.covariance), np.diag(far.covariance)[[2, 0, 1]])
    assert (seen.frame_id, seen.orientation) == ("map", turned.orientation)
    assert isinstance(seen, ObjectPosition)


@pytest.mark.parametrize(
    ("box", "depth", "reason"),
    [
        (BOX, np.full(SIZE, np.nan, np.float32), "no depth: 0.0% of its pixels have a value, the limit is 3%"),
        ((330, 0, 340, 20), scene(), r"box \(330.0, 0.0, 340.0, 20.0\) is empty or outside the image"),
        ((50, 50, 50, 60), scene(), "is empty or outside"),
    ],
)
def test_a_box_without_depth_has_no_position(box, depth, reason):
    with pytest.raises(MediaError, match=reason):
        locate(box, depth, CAMERA)


@pytest.mark.parametrize("size", [Size(240, 320), Size(120, 160), Size(480, 640), Size(241, 320), Size(1, 1)])
@pytest.mark.parametrize("box", [(100.2, 100.2, 100.4, 100.4), (0, 100.2, 320, 100.3), (319.9, 1, 330, 239)])
def test_even_the_thinnest_box_has_a_position_in_an_image_of_any_size(size, box):
    assert abs(locate(box, np.full(size, 2.0, np.float32), CAMERA).position[2] - 2) < 0.01


def test_depth_of_another_shape_is_not_registered():
    check_registered(Size(240, 424), Size(480, 848))
    check_registered(Size(135, 240), Size(1080, 1920))
    check_registered(Size(84, 84), Size(168, 168))
    for depth, image in ((Size(480, 640), Size(720, 1280)), (Size(480, 848), Size(480, 640))):
        with pytest.raises(MediaError, match=r"another shape than the image .* not registered"):
            check_registered(depth, image)
