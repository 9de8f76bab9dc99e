"""Replay of a bag over DDS: rate, order, headers, topics and errors."""

import json
import os
import signal
import subprocess
import sys

import pytest
from live_nodes import shower
from mcap_writer import Channel, write_mcap

pytest.importorskip("rclpy", reason="needs ROS 2")

from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from penguin_ros.nodes.context import RosArgumentsError
from penguin_ros.tools.bag_player import play

START_NS = 1_700_000_000_123_456_789


@pytest.fixture
def replay(cli):
    """Returns a function that runs `penguin-vl replay` to its end, in this process."""
    return lambda *args: cli("replay", *args)


@pytest.fixture
def start_replay():
    """Returns a function that starts `penguin-vl replay` and returns its process."""
    running = []

    def start(*args):
        command = [sys.executable, "-m", "penguin_ros.cli.main", "replay", *map(str, args)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def bag(bags, picture):
    frames = [(i / 10, bags.raw(picture(24, 32, i))) for i in range(10)]
    return bags.write(
        {"/a/image": frames, "/b/compressed": [(0.35, bags.jpeg(picture(24, 32)))], "/words": [(0, bags.text("x"))]}
    )


@pytest.mark.parametrize("recorded", ["/robot/eye", "/eye"])
def test_a_relative_topic_is_played_in_the_namespace(robot, bags, picture, replay, recorded):
    bag = bags.write({recorded: [(0, bags.raw(picture(24, 32)))], "/other": [(0, bags.raw(picture(24, 32)))]})
    images, others = (robot.subscribe(Image, topic) for topic in ("/robot/eye", "/other"))
    played = replay(bag, "--topic", "eye", "--namespace", "robot", "--wait", 30)
    assert played.code == 0, played.err
    robot.wait(lambda: images)
    assert not others


def test_images_are_published_as_recorded(robot, bag, replay):
    raw = robot.subscribe(Image, "/a/image", QoSProfile(depth=50))
    jpeg = robot.subscribe(CompressedImage, "/b/compressed")
    clock = robot.subscribe(Clock, "/clock", QoSProfile(depth=50))
    played = replay(bag, "--rate", 2, "--wait", 30, "--clock", "--json")
    assert played.code == 0, played.err
    result = json.loads(played.out)
    assert result["images"] == 11 and result["seconds"] >= 0.44
    robot.wait(lambda: len(raw) == 10 and len(jpeg) == 1 and len(clock) == 11)
    assert [m.encoding for m in raw] == ["rgb8"] * 10 and raw[0].header.frame_id == "camera"
    stamps = [m.clock.sec * 10**9 + m.clock.nanosec for m in clock]
    assert stamps == sorted(stamps) and stamps[0] == START_NS


def test_start_topic_and_remap_select_what_is_published_where(robot, bag, replay):
    late = robot.subscribe(Image, "/moved", QoSProfile(depth=50))
    other = robot.subscribe(CompressedImage, "/b/compressed")
    played = replay(bag, "--topic", "/a/image", "--start", 0.55, "--remap", "/a/image:=/moved", "--wait", 30)
    assert played.code == 0 and played.out.startswith("4 images in")
    robot.wait(lambda: len(late) == 4)
    assert not other


def test_a_loop_runs_until_a_signal(robot, bag, start_replay):
    images = robot.subscribe(Image, "/a/image", QoSProfile(depth=50))
    process = start_replay(bag, "--topic", "/a/image", "--rate", 10, "--loop", "--wait", 30, "--json")
    robot.wait(lambda: len(images) > 25)
    assert shower(process, signal.SIGTERM, signal.SIGINT, signal.SIGHUP) == 0
    out, err = process.communicate()
    assert err == ""
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
    assert message in replay(bag, *args).error


@pytest.mark.parametrize("topic", ["/cam 0/image", "/b/compressed"])
@pytest.mark.parametrize("name", ["/bad name", "/bad-name", "/1x", ""])
def test_a_rule_with_an_invalid_name_is_reported(domain, bag, topic, name):
    with pytest.raises(RosArgumentsError, match=rf"--remap {topic}:={name}: '{name}' is not a valid topic name; use"):
        play(bag, remaps=["__ns:=/robot", f"{topic}:={name}"])


def test_a_missing_bag_is_reported(domain, tmp_path, replay):
    assert "does not exist" in replay(tmp_path / "nothing").error


SECOND = 10**9


def test_topics_that_ros_refuses_are_played_under_other_names(robot, bags, picture, replay):
    """As in bags of ROS 1 and of other loggers; a rule chooses the name, and is not passed to ROS, which refuses it."""
    names = {
        "/usb_cam-front/image": "/usb_cam_front/image",
        "/3d/left camera": "/_3d/left_camera",
        "/a//b/": "/a/b",
        "~/private": "/_/private",
        "relative/image": "/relative/image",
        "/" + "n" * 300: "/" + "n" * 199,
        "/valid": "/valid",
    }
    bag = bags.write({topic: [(0.1 * n, bags.raw(picture(8, 8))) for n in range(2)] for topic in [*names, "/x-y"]})
    received = {topic: robot.subscribe(Image, name) for topic, name in [*names.items(), ("/x-y", "/chosen")]}
    played = replay(bag, "--wait", 30, "--rate", 5, "--remap", "/x-y:=/chosen", "--json")
    assert played.code == 0, played.err
    robot.wait(lambda: all(len(images) == 2 for images in received.values()))
    notes = json.loads(played.out)["notes"]
    assert len(notes) == 5 and all(f"note: {note}" in played.err for note in notes)
    assert (
        "'/usb_cam-front/image' is not a valid topic name, so it is played as /usb_cam_front/image; "
        "choose a name with --remap /usb_cam-front/image:=NAME"
    ) in notes


@pytest.mark.parametrize("set_back", [False, True])
def test_a_jump_of_the_clock_is_reported_and_not_waited_for(robot, bags, picture, replay, set_back):
    seconds = [0, 0.1, 0.2, 56 * 31_557_600, 56 * 31_557_600 + 0.1]
    if set_back:
        seconds = [*seconds[3:], *seconds[:3]]
    bag = bags.write({"/a": [(s, bags.raw(picture(8, 8, n))) for n, s in enumerate(seconds)]}, storage="sqlite3")
    images = robot.subscribe(Image, "/a", QoSProfile(depth=50))
    played = replay(bag, "--wait", 30, "--json")
    assert played.code == 0, played.err
    robot.wait(lambda: len(images) == 5)
    assert [bytes(m.data) for m in images] == [picture(8, 8, n).tobytes() for n in range(5)]
    result = json.loads(played.out)
    note = result["notes"][0]
    assert note.startswith(f"/a: log times jump {'back' if set_back else 'forward'} by 56.0 years at image ")
    assert "was the clock set while recording?" in note and result["seconds"] < 60


def test_a_long_wait_is_announced_with_the_option_that_avoids_it(robot, bags, picture, replay, start_replay):
    """The clock was set by some hours, or the robot paused."""
    bag = bags.write({"/a": [(s, bags.raw(picture(8, 8))) for s in (0, 0.1, 8 * 3600, 8 * 3600 + 0.2)]})
    waiting = start_replay(bag)
    note = "no image was recorded for 8.0 hours before 28800.0 s; --start 28800.0 begins there"
    assert waiting.stderr.readline() == f"note: {note}\n"
    waiting.kill()
    waiting.wait()
    images = robot.subscribe(Image, "/a", QoSProfile(depth=50))
    played = replay(bag, "--start", 28800, "--wait", 30, "--json")
    assert played.code == 0 and json.loads(played.out)["notes"] == []
    robot.wait(lambda: len(images) == 2)


def test_images_without_log_times_are_played_by_their_stamps(robot, bags, picture, replay, tmp_path):
    messages = [(0, 0, bags.serialize(bags.jpeg(picture(8, 8), stamp_ns=n * SECOND // 10))) for n in range(10, 15)]
    images = robot.subscribe(CompressedImage, "/camera", QoSProfile(depth=50))
    played = replay(write_mcap(tmp_path / "a.mcap", [Channel("/camera")], messages), "--wait", 30, "--json")
    assert played.code == 0, played.err
    robot.wait(lambda: len(images) == 5)
    result = json.loads(played.out)
    assert result["notes"] == ["/camera: 5 of 5 log times are 0, so header stamps are used"]
    assert result["seconds"] >= 0.4


def test_ros1_images_are_played_and_foreign_ones_named(robot, bags, picture, replay, tmp_path):
    """Topics that are no images are not worth a word, one without messages does no harm."""
    channels = [
        Channel("/camera", "sensor_msgs/CompressedImage", "ros1msg", b"", "ros1"),
        Channel("/front", "foxglove.CompressedImage", "protobuf", b"\x0a", "protobuf"),
        Channel("/log", "Log", "jsonschema", b"{}", "json"),
        Channel("/empty"),
    ]
    messages = [(0, n * SECOND // 10, bags.ros1_jpeg(picture(8, 8), n * SECOND)) for n in range(1, 4)]
    images = robot.subscribe(CompressedImage, "/camera", QoSProfile(depth=50))
    bag = write_mcap(tmp_path / "a.mcap", channels, [*messages, (1, SECOND, b"\1")], "ros1")
    played = replay(bag, "--wait", 30, "--topic", "/camera")
    assert played.code == 0, played.err
    played = replay(bag, "--json")
    robot.wait(lambda: len(images) >= 3)
    assert (images[0].header.frame_id, images[0].header.stamp.sec, images[0].format) == ("camera", 1, "jpeg")
    assert json.loads(played.out)["notes"] == [
        "not played, because only sensor_msgs images in CDR or ROS 1 encoding can be: "
        "/front (foxglove.CompressedImage in encoding 'protobuf')"
    ]


@pytest.mark.parametrize("data", [b"", b"\0\1\0\0garbage", b"\0\1"])
def test_a_message_that_is_no_image_does_not_end_the_replay(robot, bags, picture, replay, data):
    good = bags.raw(picture(8, 8))
    images = robot.subscribe(Image, "/a", QoSProfile(depth=50))
    played = replay(bags.write({"/a": [(0, good), (0.1, data), (0.2, good)]}), "--wait", 30, "--json")
    assert played.code == 0, played.err
    robot.wait(lambda: len(images) == 2)
    (note,) = json.loads(played.out)["notes"]
    assert note.startswith("1 of 3 messages cannot be played; of the first, the message cannot be read: ")
