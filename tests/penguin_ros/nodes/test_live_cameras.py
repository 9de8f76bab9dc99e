"""Cameras as robots have them: any type and QoS on any name, publishers that come and go, and unusable stamps."""

import array
import io
import os
import time

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import rclpy
from node_calls import NO_CAPTIONS, ask, statuses
from penguin_vl.msg import Answer, GroundedCaption
from PIL import Image as Picture
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image, PointCloud2

OFFERS = {
    "reliable": QoSProfile(depth=5),
    "best_effort": QoSProfile(depth=5, reliability=QoSReliabilityPolicy.BEST_EFFORT),
    "latched": QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL),
}
AUTO = {"image_reliability": "auto", **NO_CAPTIONS}


@pytest.fixture
def message(image):
    """Returns a function that makes an image message of a type; its stamp is in seconds."""

    def make(kind, stamp_s):
        if kind is Image:
            return image(stamp_s)
        file = io.BytesIO()
        Picture.new("RGB", (84, 56), (200, 10, 10)).save(file, "jpeg")
        compressed = CompressedImage(format="jpeg", data=array.array("B", file.getvalue()))
        compressed.header.stamp.sec = int(stamp_s)
        return compressed

    return make


@pytest.fixture
def publisher(robot):
    """Returns a function that makes a publisher in a DDS participant of its own, and one that ends it.

    A participant cannot use two types on one topic.
    """
    contexts = {}

    def make(kind, topic, qos=1):
        context = rclpy.Context()
        context.init(args=[])
        node = rclpy.create_node(f"camera_{len(contexts)}", context=context)
        made = node.create_publisher(kind, topic, qos)
        contexts[made] = context, node
        return made

    def end(made):
        context, node = contexts.pop(made)
        node.destroy_node()
        context.shutdown()

    yield make, end
    for made in list(contexts):
        end(made)


def camera_status(robot, node, topic, text):
    """Waits until the status of a camera has a text in its message, and returns it."""
    return robot.wait(lambda: [s for s in statuses(robot, f"{node.name}: {topic}")[:1] if text in s.message])[0]


def test_the_subscription_follows_type_and_qos_of_publishers_that_come_and_go(robot, start_node, message, publisher):
    node = start_node(image_topics=["camera/compressed"], **AUTO)
    topic, (make, end), seconds = node.topic.replace("image", "camera/compressed"), publisher, iter(range(1, 10_000))

    def arrives(made):
        second = next(seconds)
        made.publish(message(made.msg_type, second))
        return ask(robot, node, max_new_tokens=1).header.stamp.sec == second

    for kind, offers, link in [
        (Image, ["best_effort"], "Image, best effort"),
        (Image, ["reliable"], "Image, reliable"),
        (CompressedImage, ["best_effort"], "CompressedImage, best effort"),
        (CompressedImage, ["reliable", "best_effort"], "CompressedImage, best effort"),
        (CompressedImage, ["latched"], "CompressedImage, reliable, latched"),
        (Image, ["latched", "reliable"], "Image, reliable"),
    ]:
        publishers = [make(kind, topic, OFFERS[offer]) for offer in offers]
        for made in publishers:
            robot.wait(lambda: arrives(made))  # noqa: B023
        robot.wait(lambda: node.log.split("subscribed to ")[-1].strip() == f"{topic} (sensor_msgs/msg/{link})")  # noqa: B023
        for made in publishers:
            end(made)


def test_a_latched_image_that_was_published_before_the_node_started_is_received(robot, start_node, message):
    topic = f"/latched_{time.monotonic_ns()}"
    robot.node.create_publisher(Image, topic, OFFERS["latched"]).publish(message(Image, 7))
    node = start_node(image_topics=[topic], **AUTO)
    answer = robot.wait(lambda: (a := ask(robot, node)).error_code == Answer.ERROR_NONE and a)
    assert answer.header.stamp.sec == 7


def test_a_camera_without_images_says_why_in_its_status_and_in_the_error_of_a_question(robot, start_node):
    base = f"/cameras_{time.monotonic_ns()}"
    silent = {
        f"{base}/fornt/image_raw": f"nobody publishes {base}/fornt/image_raw; image topics that exist: "
        f"{base}/front/image_raw",
        f"{base}/points": f"publishes sensor_msgs/msg/PointCloud2 on {base}/points",
        f"{base}/front/image_raw": "best_effort reliability on " + f"{base}/front/image_raw, and image_reliability is "
        "reliable: set it to auto",
        f"{base}/idle": f"{robot.node.get_fully_qualified_name()} publishes {base}/idle with matching type and QoS",
    }
    robot.node.create_publisher(PointCloud2, f"{base}/points", 1)
    robot.node.create_publisher(Image, f"{base}/idle", 1)
    robot.node.create_publisher(Image, f"{base}/front/image_raw", OFFERS["best_effort"])
    node = start_node(image_topics=list(silent), image_reliability="reliable", camera_timeout_s=2.0)
    for topic, reason in silent.items():
        status = robot.wait(lambda: camera_status(robot, node, topic, reason))  # noqa: B023
        assert status.message.startswith("no image yet: ") and status.level > b"\x00"
        robot.wait(lambda: camera_status(robot, node, topic, reason).level == b"\x02")  # noqa: B023
        answer = ask(robot, node, cameras=[topic])
        assert answer.error_code == Answer.ERROR_NO_FRAMES and reason in answer.error_msg


def test_images_of_another_type_on_the_same_topic_are_reported(robot, start_node, message, publisher):
    node, (make, _) = start_node(**AUTO), publisher
    raw, compressed = make(Image, node.topic), make(CompressedImage, node.topic)

    def publish(text):
        for made in (raw, compressed):
            made.publish(message(made.msg_type, time.time()))
        return [s for s in statuses(robot, f"{node.name}: {node.topic}")[:1] if text in s.message]

    text = f"publishes sensor_msgs/msg/CompressedImage on {node.topic}, and the node has subscribed to sensor_msgs/msg/"
    assert robot.wait(lambda: publish(text))[0].level == b"\x01"
    assert ask(robot, node).error_code == Answer.ERROR_NONE


def test_images_that_arrive_too_slowly_are_reported_with_a_remedy(robot, start_node, message):
    node = start_node(image_topics=["raw", "jpeg"], image_reliability="best_effort", sample_rate_hz=20.0)
    base = node.topic.removesuffix("image")
    publishers = [robot.node.create_publisher(Image, f"{base}raw", OFFERS["best_effort"])]
    publishers.append(robot.node.create_publisher(CompressedImage, f"{base}jpeg", OFFERS["reliable"]))

    def publish():
        for publisher in publishers:
            publisher.publish(message(publisher.msg_type, time.time()))

    timer = robot.node.create_timer(0.5, publish)
    for name, remedy in (("raw", "subscribe to compressed images"), ("jpeg", "set image_reliability to")):
        status = camera_status(robot, node, base + name, "less than sample_rate_hz 20.0")
        assert status.level == b"\x01" and remedy in status.message
    timer.cancel()


def test_cameras_whose_stamps_cannot_be_used_are_reported_and_answers_are_about_now(robot, start_node, image):
    start_s = time.time()
    stamps = {
        "fine": lambda i: time.time(),
        "frozen": lambda i: 1_780_000_000.0,
        "behind": lambda i: time.time() - 7200,
        "ahead": lambda i: time.time() + 60,
        "swinging": lambda i: time.time() - 5 * (i // 3 % 2),
        "unstamped": lambda i: 0.0,
        "paired": lambda i: start_s + i // 2 * 0.2,
        "looping": lambda i: time.time() + i % 5 - i / 10,
    }
    node = start_node(image_topics=list(stamps), **AUTO)
    base = node.topic.removesuffix("image")
    publishers = {name: robot.node.create_publisher(Image, base + name, 1) for name in stamps}
    sent = iter(range(1_000_000))

    def publish():
        i = next(sent)
        for name, publisher in publishers.items():
            publisher.publish(image(stamps[name](i), (28, 28)))

    timer = robot.node.create_timer(0.1, publish)
    for name, text in {
        "frozen": "stamps stood still at 1780000000.000 s: images are dated by arrival until",
        "behind": "s behind the node's clock",
        "ahead": "s ahead of the node's clock",
        "swinging": "stamps jumped to and fro, as those of two clocks: the memory was cleared",
        "unstamped": "images had no stamp and were dated by arrival",
        "paired": "images had the stamp of the image before, and were not used",
        "looping": "times, and each time the memory was cleared",
        "fine": "OK",
    }.items():
        status = camera_status(robot, node, base + name, text)
        assert status.level == (b"\x00" if name == "fine" else b"\x01"), status.message
        offset_s, begun_s = {"behind": -7200, "ahead": 60}.get(name, 0), time.time()

        def is_about_now(name=name, offset_s=offset_s, begun_s=begun_s):
            answer = ask(robot, node, cameras=[base + name])
            later_s = answer.header.stamp.sec - offset_s - begun_s
            return answer.frames_used > 1 and (name == "looping" or -1 < later_s < time.time() - begun_s + 1)

        robot.wait(is_about_now)
    assert node.log.count("images are dated by arrival") == 2
    timer.cancel()


def test_simulated_time_without_a_clock_is_reported_and_no_age_is_negative(robot, start_node, image):
    node = start_node(use_sim_time=True, image_topics=["stamped", "unstamped"], image_reliability="auto")
    base = node.topic.removesuffix("image")
    captions = robot.subscribe(GroundedCaption, f"{node.name}/captions")
    publishers = {name: robot.node.create_publisher(Image, base + name, 1) for name in ("stamped", "unstamped")}
    seconds = iter(range(1, 1_000_000))

    def publish():
        second = next(seconds)
        for name, publisher in publishers.items():
            publisher.publish(image(second / 10 if name == "stamped" else 0, (28, 28), value=second * 40))

    timer = robot.node.create_timer(0.1, publish)
    text = "use_sim_time is true, but nothing has been received on /clock"
    for name in publishers:
        assert camera_status(robot, node, base + name, text).level == b"\x01"
        robot.wait(lambda: ask(robot, node, cameras=[base + name]).frames_used > 1)  # noqa: B023
    assert robot.wait(lambda: [s for s in statuses(robot, node.name)[:1] if text in s.message])
    assert robot.wait(lambda: {caption.camera for caption in captions} == {base + name for name in publishers})
    assert all(0 <= caption.frame_age_s < 60 for caption in captions)
    timer.cancel()


def test_a_cv_bridge_that_cannot_convert_is_reported_once_and_not_used(robot, start_node, image, tmp_path, monkeypatch):
    (tmp_path / "cv_bridge.py").write_text("from cv_bridge_boost import CvBridge")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    node = start_node(**AUTO)
    robot.publish_and_wait(node, image(time.time()))
    fault = "cv_bridge is installed but cannot convert images (ModuleNotFoundError: No module named 'cv_bridge_boost')"
    status = robot.wait(lambda: [s for s in statuses(robot, node.name)[:1] if fault in s.message])[0]
    assert status.level == b"\x00" and node.log.count(fault) == 1
    assert {value.key: value.value for value in status.values}["image conversion"] == "built in"
    assert ask(robot, node).frames_used == 1
