"""Captions as annotations for Foxglove, with the real foxglove_msgs."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("foxglove_msgs", reason="comes with ROS: foxglove_msgs")

from foxglove_msgs.msg import ImageAnnotations
from penguin_vl.msg import GroundedCaption, GroundedObject

from penguin_ros.nodes.annotations import annotations_message
from penguin_ros.overlay import label_colour


def test_boxes_and_labels_of_a_caption():
    boxes = [(10.0, 20.0, 30.0, 60.0), (0.0, 0.0, 640.0, 480.0)]
    names = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")
    objects = [GroundedObject(label="cup", **dict(zip(names, box, strict=True))) for box in boxes]
    caption = GroundedCaption(image_width_px=640, image_height_px=480, objects=objects)
    caption.header.stamp.sec = 7
    message = annotations_message(caption)
    assert [len(message.circles), len(message.points), len(message.texts)] == [0, 2, 2]
    box, label = message.points[0], message.texts[0]
    assert box.type == box.LINE_LOOP and box.timestamp.sec == label.timestamp.sec == 7
    assert [(point.x, point.y) for point in box.points] == [(10, 20), (30, 20), (30, 60), (10, 60)]
    assert (box.outline_color.r, box.outline_color.g) == tuple(value / 255 for value in label_colour("cup")[:2])
    assert (label.text, label.position.x, label.position.y) == ("cup", 10, 44)  # inside: no room for 24 pixels above
    assert message.texts[1].position.y == message.texts[1].font_size


@pytest.mark.parametrize(("cameras", "suffix"), [(["image"], ""), (["image", "rear"], "{}/image")])
def test_each_camera_has_a_topic_of_its_own(robot, start_node, image, cameras, suffix):
    """A message does not say which camera it is about."""
    node = start_node(image_topics=cameras)
    topic = f"{node.name}/annotations{suffix.format(node.name.removesuffix('/penguin'))}"
    received = robot.subscribe(ImageAnnotations, topic)
    captions = robot.subscribe(GroundedCaption, f"{node.name}/captions")
    robot.publish(node.topic, image(12.5))
    (box,) = robot.wait(lambda: received)[0].points
    (cube,) = robot.wait(lambda: captions)[0].objects
    assert box.points[2].x == pytest.approx(cube.x_max_px) and box.timestamp == captions[0].header.stamp
