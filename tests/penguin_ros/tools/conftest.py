"""A robot next to commands that run in the test process, which initialise rclpy's default context."""

import pytest
from live_nodes import Robot


@pytest.fixture
def robot(domain):
    from rclpy import Context

    robot = Robot(Context())
    yield robot
    robot.close()
