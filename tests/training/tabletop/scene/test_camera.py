"""Camera geometry: projection, homography and ground coordinates agree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguin_models.types import Size
from penguin_tabletop.scene.camera import Camera

SIZE = Size(120, 200)


def camera(yaw=0.0, pitch=45.0, distance=0.7):
    return Camera((0.0, 0.0, 0.0), distance, np.radians(yaw), np.radians(pitch), 0.02, np.radians(45))


cameras = st.builds(camera, st.floats(-180, 180), st.floats(28, 66), st.floats(0.5, 0.9))


@given(cameras, st.floats(-0.3, 0.3), st.floats(-0.3, 0.3))
def test_points_on_the_table_project_by_the_homography(view, x, y):
    pixels, depth = view.project(np.array([[x, y, 0.0]]), SIZE)
    homogeneous = view.table_homography(SIZE) @ [x, y, 1]
    assert homogeneous[:2] / homogeneous[2] == pytest.approx(pixels[0], abs=1e-6)
    assert homogeneous[2] == pytest.approx(depth[0])


@given(cameras)
def test_the_target_is_in_the_middle_and_the_axes_are_orthonormal(view):
    pixels, depth = view.project(np.zeros((1, 3)), SIZE)
    assert pixels[0] == pytest.approx([100, 60]) and depth[0] == pytest.approx(view.distance)
    assert np.allclose(view.axes @ view.axes.T, np.eye(3)) and np.linalg.det(view.axes) == pytest.approx(1)


def test_ground_coordinates_are_right_and_ahead_of_the_camera():
    view = camera(yaw=90)  # looks along -x
    assert view.on_ground(np.array([0, 0.2, 0.0]))[0] == pytest.approx(0.2)
    near, far = (view.on_ground(np.array([x, 0, 0.0]))[1] for x in (0.2, -0.2))
    assert far - near == pytest.approx(0.4)
