"""Replay of a bag over DDS: rate, order, headers, topics and errors."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

START_NS = 1_700_000_000_123_456_789


@pytest.fixture
def replay():
    """Returns a function that runs `penguin-vl replay` and returns the process, finished unless wait=False."""
    running = []

    def run(*args, wait=True):
        command = [sys.executable, "-m", "penguin_ros.cli.main", "replay", *map(str, args)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
        running.append(process)
        if wait:
            process.out, process.err = process.communicate(timeout=180)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def bag(bags, picture):
    frames = [(i / 10, bags.raw(picture(24, 32, i))) for i in range(10)]
    return bags.write(
        {"/a/image": frames, "/b/compressed": [(0.35, bags.jpeg(picture(24, 32)))], "/words": [(0, bags.text("x"))]}
    )


def test_images_are_published_as_recorded(robot, bag, replay):
    raw = robot.subscribe(Image, "/a/image", QoSProfile(depth=50))
    jpeg = robot.subscribe(CompressedImage, "/b/compressed")
    clock = robot.subscribe(Clock, "/clock", QoSProfile(depth=50))
    process = replay(bag, "--rate", 2, "--wait", 30, "--clock", "--json")
    assert process.returncode == 0, process.err
    result = json.loads(process.out)
    assert result["images"] == 11 and result["seconds"] >= 0.44
    robot.wait(lambda: len(raw) == 10 and len(jpeg) == 1 and len(clock) == 11)
    assert [m.encoding for m in raw] == ["rgb8"] * 10 and raw[0].header.frame_id == "camera"
    stamps = [m.clock.sec * 10**9 + m.clock.nanosec for m in clock]
    assert stamps == sorted(stamps) and stamps[0] == START_NS


def test_start_topic_and_remap_select_what_is_published_where(robot, bag, replay):
    late = robot.subscribe(Image, "/moved", QoSProfile(depth=50))
    other = robot.subscribe(CompressedImage, "/b/compressed")
    process = replay(bag, "--topic", "/a/image", "--start", 0.55, "--remap", "/a/image:=/moved", "--wait", 30)
    assert process.returncode == 0 and process.out.startswith("4 images in")
    robot.wait(lambda: len(late) == 4)
    assert not other


def test_a_loop_runs_until_a_signal(robot, bag, replay):
    images = robot.subscribe(Image, "/a/image", QoSProfile(depth=50))
    process = replay(bag, "--topic", "/a/image", "--rate", 10, "--loop", "--wait", 30, "--json", wait=False)
    robot.wait(lambda: len(images) > 25)
    process.terminate()
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert json.loads(out)["images"] > 25


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--topic", "/words"], "is std_msgs/msg/String, not an image"),
        (["--topic", "/none"], "has no topic /none"),
        (["--start", "99"], "there is no image after 99.0 s"),
        (["--wait", "0.1"], "/a/image, /b/compressed got no subscriber within 0.1 s"),
    ],
)
def test_a_bag_that_cannot_be_played_is_reported_in_one_line(domain, bag, replay, args, message):
    process = replay(bag, *args)
    assert process.returncode == 1
    assert process.err.startswith("error: ") and message in process.err and process.err.count("\n") == 1


def test_a_missing_bag_is_reported(domain, tmp_path, replay):
    process = replay(tmp_path / "nothing")
    assert process.returncode == 1 and "does not exist" in process.err
