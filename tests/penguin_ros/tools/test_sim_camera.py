"""The simulated camera over DDS: images with ground truth, reproducible from the seed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from live_nodes import shower

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("pybullet", reason="needs the extra sim")

from penguin_vl.msg import GroundedCaption
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image

from penguin_models.types import Size
from penguin_ros.camera_model import CameraModel
from penguin_ros.depth_images import message_to_depth
from penguin_ros.localisation import locate
from penguin_tabletop.clips.timeline import LiveTabletop

SEED = 7


def sim_camera(*args):
    command = [sys.executable, "-m", "penguin_ros.cli.main", "sim-camera", *map(str, args)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def test_every_image_is_published_with_its_ground_truth(robot):
    images = robot.subscribe(Image, "/sim_camera/image_raw", QoSProfile(depth=50))
    truths = robot.subscribe(GroundedCaption, "/sim_camera/truth", QoSProfile(depth=50))
    depths = robot.subscribe(Image, "/sim_camera/depth/image_raw", QoSProfile(depth=50))
    infos = robot.subscribe(CameraInfo, "/sim_camera/camera_info", QoSProfile(depth=50))
    process = sim_camera("--seed", SEED, "--width", 168, "--height", 112, "--rate", 20)
    try:
        robot.wait(lambda: len(images) >= 10 and len(truths) >= 10 and len(depths) >= 5 and infos)
    finally:
        code = shower(process, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    assert (code, process.stderr.read()) == (0, "")

    # The topics are discovered at different times, so the first messages of one have no counterpart.
    def stamp(message):
        return message.header.stamp.sec, message.header.stamp.nanosec

    both_from = max(stamp(images[0]), stamp(truths[0]))
    both_until = min(stamp(images[-1]), stamp(truths[-1]))
    by_stamp = {stamp(t): t for t in truths}
    images = [image for image in images if both_from <= stamp(image) <= both_until]
    assert len(images) >= 5 and all(stamp(image) in by_stamp for image in images)
    truth = by_stamp[stamp(images[0])]
    assert truth.header.frame_id == images[0].header.frame_id == "sim_camera_optical_frame"
    assert truth.camera == "/sim_camera/image_raw" and truth.objects
    for item in truth.objects:
        assert 0 <= item.x_min_px < item.x_max_px <= 168 and 0 <= item.y_min_px < item.y_max_px <= 112

    # Depth and calibration lead to the true positions.
    depth = next(depth for depth in depths if stamp(depth) in by_stamp)
    truth_then, size = by_stamp[stamp(depth)], Size(112, 168)
    assert depth.header.frame_id == infos[0].header.frame_id == "sim_camera_optical_frame"
    metres, camera = message_to_depth(depth), CameraModel.of(infos[0], size)
    errors_m = []
    for item in truth_then.objects:
        found = locate((item.x_min_px, item.y_min_px, item.x_max_px, item.y_max_px), metres, camera)
        assert item.position_frame_id == "sim_camera_optical_frame"
        errors_m.append(np.linalg.norm(found.position - (item.position.x, item.position.y, item.position.z)))
    assert np.median(errors_m) < 0.02

    # The first images may be lost; the first one received must be among those that this seed renders.
    table = LiveTabletop(SEED, Size(112, 168), 20.0)
    received = np.frombuffer(bytes(images[0].data), np.uint8).reshape(112, 168, 3)
    frames = (table.step() for _ in range(600))
    match = next(view for view, _ in frames if np.array_equal(view.picture.rgb, received))
    assert [o.label for o in truth.objects] == [o.label for o in match.truth.objects]


def test_a_parameter_out_of_range_is_reported_in_one_line(domain):
    script = Path(__file__).parents[3] / "scripts" / "sim_camera"
    command = [sys.executable, str(script), "--ros-args", "-p", "width:=7"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=180, env=dict(os.environ))
    assert result.returncode == 1 and "width" in result.stderr and "Traceback" not in result.stderr
