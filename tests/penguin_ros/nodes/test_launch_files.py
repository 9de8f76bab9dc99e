"""`ros2 launch` as a user runs it; skipped if launch_ros or ros2cli is not installed."""

import itertools
import os
import signal
import subprocess

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("launch_ros", reason="comes with ROS")
pytest.importorskip("ros2cli", reason="comes with ROS")

from lifecycle_msgs.srv import GetState
from penguin_vl.msg import GroundedCaption


@pytest.fixture
def launch(domain, tmp_path):
    """Returns a function that starts `ros2 launch penguin_vl ...`; `log()` of the process returns its output."""
    running = []

    def run(file, *args):
        log = tmp_path / "log"
        environment = {**os.environ, "ROS_LOG_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["ros2", "launch", "penguin_vl", file, *args],
                stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            )  # fmt: skip
        process.log = log.read_text
        running.append(process)
        return process

    yield run
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_every_argument_has_a_description(launch):
    process = launch("penguin.launch.py", "--show-args")
    assert process.wait(120) == 0, process.log()
    for name in ("model", "runtime", "image_topics", "namespace", "params_file", "autostart", "log_level"):
        description = process.log().split(f"'{name}':")[1].splitlines()[1].strip()
        assert description and description != "no description given"


def test_the_node_configures_and_activates_itself(robot, launch, image, checkpoint):
    process = launch("penguin.launch.py", f"model:={checkpoint}", "image_topics:=['/eye']", "namespace:=robot")
    captions = robot.subscribe(GroundedCaption, "/robot/penguin/captions")

    def is_active():
        assert process.poll() is None, process.log()
        return robot.call(GetState, "/robot/penguin/get_state").current_state.label == "active"

    robot.wait(is_active)
    seconds = itertools.count(1)

    def publish_until_captioned():  # the subscription is best effort, so a single image may be lost
        robot.publish("/eye", image(float(next(seconds))))
        return captions

    assert robot.wait(publish_until_captioned)[0].camera == "/eye"
    process.send_signal(signal.SIGINT)
    assert process.wait(180) == 0 and "process has finished cleanly" in process.log(), process.log()


def test_without_autostart_the_node_stays_unconfigured(robot, launch):
    process = launch("penguin.launch.py", "autostart:=false", "namespace:=waiting")
    assert robot.call(GetState, "/waiting/penguin/get_state").current_state.label == "unconfigured", process.log()


@pytest.mark.parametrize("model", ["small checkpoint", "penguin-tiny"])
def test_replay_plays_the_shipped_bag_into_the_node_and_then_exits(robot, launch, checkpoint, model):
    captions = robot.subscribe(GroundedCaption, "/penguin/captions")
    process = launch("replay.launch.py", *([f"model:={checkpoint}"] if model == "small checkpoint" else []))
    assert process.wait(240) == 0, process.log()
    assert captions and captions[0].camera == "/camera/image_raw/compressed", process.log()
    assert "Traceback" not in process.log()
