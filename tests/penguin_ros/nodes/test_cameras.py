"""While nobody publishes a topic, its type follows from its name, before or after remapping."""

import struct

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import hypothesis
import rclpy
from fuzzing import FUZZ
from hypothesis import strategies as st
from rclpy.validate_full_topic_name import validate_full_topic_name
from sensor_msgs.msg import CompressedImage, Image

from penguin_models.errors import UnknownCameraError
from penguin_ros.nodes.cameras import Camera, camera_name
from penguin_ros.nodes.node_time import NodeTime
from penguin_ros.settings import SETTINGS, NodeSettings


@pytest.mark.parametrize(
    ("topic", "rule", "name", "kind"),
    [
        ("image", "__node:=x", "/image", Image),
        ("image", "image:=/cam/image/compressed", "/cam/image/compressed", CompressedImage),
        ("cam/compressed", "cam/compressed:=/jpeg", "/jpeg", CompressedImage),
        ("compressed", "__ns:=/cam", "/cam/compressed", CompressedImage),
    ],
)
def test_a_topic_named_compressed_before_or_after_remapping_carries_compressed_images(robot, topic, rule, name, kind):
    node = rclpy.create_node("camera_node", cli_args=["--ros-args", "-r", rule])
    settings = NodeSettings.from_values({setting.name: setting.default for setting in SETTINGS})
    camera = Camera(node, topic, settings, NodeTime(node), lambda *_: None)
    (subscription,) = [s for s in node.subscriptions if s.topic_name == name]
    assert camera.name == name and subscription.msg_type is kind
    camera.close()
    node.destroy_node()


@pytest.mark.parametrize(("scaling", "levels"), [("percentiles", [0, 255]), ("full_range", [27, 29])])
def test_16_bit_grey_is_scaled_as_the_parameter_says(robot, scaling, levels):
    node, frames = rclpy.create_node("camera_node"), []
    values = {setting.name: setting.default for setting in SETTINGS} | {"mono16_scaling": scaling}
    settings = NodeSettings.from_values(values)
    camera = Camera(node, "/grey", settings, NodeTime(node), lambda name, stamp_ns, load: frames.append(load()))
    publisher = robot.node.create_publisher(Image, "/grey", 1)
    robot.wait(lambda: publisher.get_subscription_count() == 1)
    data = struct.pack("<2H", 7000, 7500)
    publisher.publish(Image(height=1, width=2, step=4, encoding="mono16", data=data))
    while not frames:
        rclpy.spin_once(node, timeout_sec=30)
    assert frames[0].rgb[0, :, 0].tolist() == levels
    camera.close()
    node.destroy_node()


PARTS = st.sampled_from([*"~/{}_a1 ", "image", "{node}", "{ns}", "\0", "\udcff", "x" * 200]) | st.characters()


def test_any_text_is_the_full_name_of_a_topic_or_no_camera(domain):
    rclpy.init(args=[])
    node = rclpy.create_node("camera_node")

    @FUZZ
    @hypothesis.given(st.lists(PARTS, max_size=6).map("".join))
    def check(topic):
        try:
            assert validate_full_topic_name(camera_name(node, topic))
        except UnknownCameraError as err:
            assert len(str(err)) < 500 and str(err).isprintable()

    try:
        check()
        with pytest.raises(UnknownCameraError, match="not a valid topic name"):
            camera_name(node, "/image\0x")
    finally:
        node.destroy_node()
        rclpy.shutdown()
