"""Positions of the objects of captions and answers: over DDS with real depth, and why there are none."""

import array
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from node_calls import ask, statuses
from penguin_vl.msg import GroundedCaption
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from visualization_msgs.msg import Marker, MarkerArray

from penguin_engine.scene.episode import Pose
from penguin_engine.scene.memory import HeldFrame
from penguin_engine.scene.requests import Outcome
from penguin_models.grounding import Box, GroundedObject
from penguin_models.types import FrameKind, Size
from penguin_ros.convert import ns_to_stamp
from penguin_ros.depth_buffer import DepthBuffer
from penguin_ros.nodes.depth_camera import DepthCamera
from penguin_ros.nodes.locator import Locator
from penguin_ros.settings import SETTINGS, NodeSettings

SIZE = Size(56, 84)


def camera_info(frame_id="optical", **fields):
    message = CameraInfo(width=84, height=56, distortion_model="plumb_bob", **fields)
    message.header.frame_id = frame_id
    message.k = [70.0, 0.0, 41.5, 0.0, 70.0, 27.5, 0.0, 0.0, 1.0]
    return message


def depth_image(stamp_ns, metres=2.0, frame_id="optical", size=SIZE):
    data = np.full(size, round(metres * 1000), np.uint16).tobytes()
    header = Header(stamp=ns_to_stamp(stamp_ns), frame_id=frame_id)
    image = Image(header=header, height=size.height, width=size.width, encoding="16UC1", step=2 * size.width)
    image.data = array.array("B", data)
    return image


def test_captions_answers_detections_and_markers_carry_positions(robot, start_node, image):
    topics = {"depth_topics": ["depth"], "camera_info_topics": ["camera_info"]}
    node = start_node(**topics)
    namespace = node.topic.rpartition("/")[0]
    captions = robot.subscribe(GroundedCaption, f"{node.name}/captions")
    markers = robot.subscribe(MarkerArray, f"{node.name}/markers")
    name = f"{node.name}: {node.topic}: depth"
    robot.wait(lambda: [s for s in statuses(robot, name) if f"nobody publishes {namespace}/depth" in s.message])
    latched = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    robot.node.create_publisher(CameraInfo, f"{namespace}/camera_info", latched).publish(camera_info())
    robot.publish(f"{namespace}/depth", depth_image(12_480_000_000))
    robot.wait(lambda: statuses(robot, name)[0].message == "OK")
    robot.publish(node.topic, image(12.5))
    (cube,) = robot.wait(lambda: captions)[0].objects
    assert cube.position_frame_id == "optical" and cube.position.z == pytest.approx(2.0, abs=0.01)
    middle = (cube.x_min_px + cube.x_max_px) / 2
    assert cube.position.x == pytest.approx((middle - 42) / 70 * 2, abs=0.03)
    covariance = np.array(cube.position_covariance).reshape(3, 3)
    assert np.array_equal(covariance, covariance.T) and np.linalg.eigvalsh(covariance).min() > 0
    (answered,) = ask(robot, node).objects
    assert answered.position == cube.position
    shown = robot.wait(lambda: markers)[0].markers
    assert [marker.action for marker in shown] == [Marker.DELETEALL, Marker.ADD, Marker.ADD]
    assert shown[2].text == "red cube" and shown[1].pose.position == cube.position and shown[1].ns == node.topic
    assert shown[1].header == captions[0].header
    # A frame without depth near it has no position, and diagnostics say why.
    robot.publish(node.topic, image(14.0, value=200))
    (later,) = robot.wait(lambda: [caption for caption in captions if caption.header.stamp.sec == 14])[0].objects
    assert later.position_frame_id == "" and later.position.z == 0
    reason = "positions are unknown: the nearest depth image is 1.520 s before the image, the limit is 0.05 s"
    robot.wait(lambda: [status for status in statuses(robot, name) if status.message.startswith(reason)])


class StubNode:
    """A node in whose graph nobody publishes."""

    def resolve_topic_name(self, topic):
        return f"/{topic}"

    def get_publishers_info_by_topic(self, topic):
        return []


def outcome(stamp_ns=10**9, frame_id="optical", boxes=((100, 100, 400, 400), (500, 500, 900, 900)), **fields):
    objects = tuple(GroundedObject(f"cup {number}", Box(*box)) for number, box in enumerate(boxes))
    header = Header(stamp=ns_to_stamp(stamp_ns), frame_id=frame_id)
    frame = HeldFrame(0, stamp_ns, FrameKind.KEY, SIZE, SIZE, 6, np.zeros((*SIZE, 3), np.uint8), None, header=header)
    answer = SimpleNamespace(grounding=SimpleNamespace(objects=objects))
    return Outcome(answer, "/image", frame, frame.pixels, **fields)


def locator_with(depth, info):
    values = {setting.name: setting.default for setting in SETTINGS}
    topics = {"image_topics": ["image"], "depth_topics": ["depth"], "camera_info_topics": ["info"]}
    locator = Locator(StubNode(), NodeSettings.from_values(values | topics), SimpleNamespace(now_ns=lambda: 10**9))
    locator.open()
    (camera,) = locator._cameras.values()
    if depth is not None:
        camera._on_depth(depth)
    if info is not None:
        camera._on_info(info)
    return locator


@pytest.mark.parametrize(
    ("depth", "info", "reason"),
    [
        (None, None, "no depth image: nobody publishes /depth"),
        (depth_image(10**9), None, "no camera_info: nobody publishes /info"),
        (
            depth_image(10**9, frame_id="depth_optical"),
            camera_info(),
            "frame 'depth_optical' and the image in 'optical'",
        ),
        (depth_image(10**9), camera_info("depth_optical"), "the camera_info is in frame 'depth_optical'"),
        (depth_image(10**9, size=Size(60, 60)), camera_info(), "60x60 pixels, another shape than the image with 84x56"),
        (depth_image(10**9 + 60_000_000), camera_info(), "is 0.060 s after the image, the limit is 0.05 s"),
        (depth_image(10**9, metres=0), camera_info(), "cup 1: the box has no depth: 0.0% of its pixels"),
        (Image(encoding="rgb8", header=Header(stamp=ns_to_stamp(10**9), frame_id="optical")), camera_info(), "'rgb8'"),
    ],
)
def test_diagnostics_say_why_positions_are_unknown(depth, info, reason):
    locator = locator_with(depth, info)
    assert list(locator.positions(outcome())) == [None, None]
    (status,) = locator.statuses("penguin")
    assert reason in status.message and status.message.startswith("positions are unknown: ")
    assert {item.key: item.value for item in status.values}["positions unknown"] == "2"


def test_depth_without_a_stamp_is_dated_by_its_arrival():
    first, second = locator_with(depth_image(0), camera_info("/optical")).positions(outcome())
    assert first.position[2] == pytest.approx(2, abs=0.01) and second.position[0] > first.position[0]


def test_positions_in_another_frame_follow_tf():
    locator, pose = locator_with(depth_image(10**9), camera_info()), Pose("map", (1.0, 2.0, 3.0))
    locator._poses = SimpleNamespace(at=lambda frame_id, stamp_ns: pose, reason="it is too early")
    first, _ = locator.positions(outcome())
    assert first.frame_id == "map" and first.position[2] == pytest.approx(5, abs=0.01)
    pose = None
    assert list(locator.positions(outcome())) == [None, None]
    assert "TF: it is too early" in next(locator.statuses("penguin")).message


def test_a_frame_keeps_the_nearest_depth_whether_it_comes_before_or_after():
    buffer = DepthBuffer()
    assert not buffer and buffer.nearest(5) is None
    for stamp_ns in range(0, 1000, 10):
        buffer.add(stamp_ns, f"depth {stamp_ns}")
        if stamp_ns in (100, 500):
            buffer.keep_for(stamp_ns + 8)
    assert [buffer.nearest(frame)[1] for frame in (108, 508, 991)] == ["depth 110", "depth 510", "depth 990"]
    assert buffer.nearest(300)[1] == "depth 920"  # no longer kept
    for stamp_ns in range(2000, 3000):
        buffer.keep_for(stamp_ns)
    assert buffer.nearest(108)[1] == "depth 920"  # nor is this frame


def test_a_camera_info_topic_of_another_type_is_named():
    class Busy(StubNode):
        def get_publishers_info_by_topic(self, topic):
            return [SimpleNamespace(topic_type="std_msgs/msg/String", qos_profile=QoSProfile(depth=1))]

    camera = DepthCamera(Busy(), "image", "depth", "info", SimpleNamespace(now_ns=lambda: 1))
    assert camera.silence() == (
        "no depth image: /depth has the type std_msgs/msg/String, not sensor_msgs/msg/Image or "
        "sensor_msgs/msg/CompressedImage"
    )


@pytest.fixture
def tf_node():
    """Returns a node with tf2_ros; both come with ROS."""
    pytest.importorskip("tf2_ros", reason="comes with ROS")
    import rclpy

    rclpy.init(args=[])
    node = rclpy.create_node("tf_test")
    yield node
    node.destroy_node()
    rclpy.shutdown()


def test_the_real_tf2_places_objects_in_the_target_frame(tf_node):
    from geometry_msgs.msg import TransformStamped

    values = {setting.name: setting.default for setting in SETTINGS} | {"target_frame": "map"}
    topics = {"image_topics": ["image"], "depth_topics": ["depth"], "camera_info_topics": ["info"]}
    time = SimpleNamespace(now_ns=lambda: 10**9)
    locator = Locator(tf_node, NodeSettings.from_values(values | topics), time)
    locator.open()
    (camera,) = locator._cameras.values()
    camera._on_depth(depth_image(10**9))
    camera._on_info(camera_info())
    transform = TransformStamped(child_frame_id="optical")
    transform.header.frame_id, transform.header.stamp = "map", ns_to_stamp(10**9)
    transform.transform.translation.x, transform.transform.rotation.w = 10.0, 1.0
    assert list(locator.positions(outcome())) == [None, None]
    locator._poses._buffer.set_transform(transform, "test")
    first, _ = locator.positions(outcome())
    assert first.frame_id == "map" and first.position[0] > 9 and first.position[2] == pytest.approx(2, abs=0.01)
    locator.destroy()
