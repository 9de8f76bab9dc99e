"""While nobody publishes a topic, its type follows from its name, before or after remapping."""

import array
import struct

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import hypothesis
import rclpy
from encoded_video import STREAMS, number_of, packets
from fuzzing import FUZZ
from hypothesis import strategies as st
from rclpy.validate_full_topic_name import validate_full_topic_name
from sensor_msgs.msg import CompressedImage, Image

from penguin_models.errors import UnknownCameraError
from penguin_ros.convert import ns_to_stamp
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


@pytest.mark.parametrize("kind", ["CompressedImage", "FFMPEGPacket"])
def test_video_of_two_cameras_is_decoded_and_what_is_skipped_is_counted(robot, kind):
    """A packet is lost; the pictures are offered with the stamps of their own packets, and converted only if taken."""
    module = "sensor_msgs.msg" if kind == "CompressedImage" else "ffmpeg_image_transport_msgs.msg"
    message_type = getattr(pytest.importorskip(module, reason="needs ffmpeg_image_transport_msgs"), kind)
    node, offers = rclpy.create_node("camera_node"), []
    values = {setting.name: setting.default for setting in SETTINGS} | {"image_reliability": "reliable"}
    settings, streams = NodeSettings.from_values(values), ("h264 with B-frames", "h265")
    publishers = [robot.node.create_publisher(message_type, f"/video_{n}", 50) for n in range(2)]
    robot.wait(lambda: all(node.count_publishers(f"/video_{n}") for n in range(2)))
    cameras = [
        Camera(node, f"/video_{n}", settings, NodeTime(node), lambda *offer: offers.append(offer)) for n in (0, 1)
    ]
    for publisher, stream in zip(publishers, streams, strict=True):
        robot.wait(publisher.get_subscription_count)
        place = next(n for n in range(12, 18) if packets(stream)[n].number > max(p.number for p in packets(stream)[:n]))
        for packet in (p for n, p in enumerate(packets(stream)) if n != place):
            message = message_type(data=array.array("B", packet.data))
            message.header.stamp = ns_to_stamp(100 * 10**9 + packet.number * 10**8)
            message.header.frame_id = "optical"
            setattr(message, "format" if kind == "CompressedImage" else "encoding", STREAMS[stream][0])
            publisher.publish(message)
    while any(camera.video_values().get("video packets", 0) < 29 for camera in cameras):
        rclpy.spin_once(node, timeout_sec=0.1)
    for camera in cameras:
        robot.wait(lambda: camera.arrived_s is not None)  # noqa: B023
        counts = camera.video_values()
        skipped = counts["video packets skipped until a keyframe"] + counts["video packets damaged"]
        assert skipped >= 3 and (counts["losses of video packets"] or counts["video packets damaged"]) == 1
        assert any("gave no picture" in warning for warning in camera.warnings(0.0))
        assert camera.silence(60.0) == ""
        camera.close()
        numbers = []
        for _, stamp_ns, load in (offer for offer in offers if offer[0] == camera.name):
            frame = load()
            numbers.append(number_of(frame.rgb))
            assert (
                stamp_ns == frame.stamp_ns == 100 * 10**9 + numbers[-1] * 10**8 and frame.header.frame_id == "optical"
            )
        assert numbers[:10] == list(range(10)) and numbers[-1] >= 26 and len(numbers) < 29
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
