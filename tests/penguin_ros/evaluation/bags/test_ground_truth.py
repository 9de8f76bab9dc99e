"""Expected boxes read from topics of bags."""

from pathlib import Path

import numpy as np
import pytest
from rosbags.typesys import get_types_from_msg

from penguin_models.errors import EvaluationError
from penguin_ros.evaluation.bags.ground_truth import read_truth
from penguin_ros.message_types import typestore

ROOT = Path(__file__).resolve().parents[4]
START_NS = 1_700_000_000_000_000_000
SECOND = 10**9


def make(kind, **fields):
    return typestore().types[kind](**fields)


def header(at):
    ns = START_NS + round(at * SECOND)
    stamp = make("builtin_interfaces/msg/Time", sec=ns // SECOND, nanosec=ns % SECOND)
    return make("std_msgs/msg/Header", stamp=stamp, frame_id="")


def detection(label, x, y, width, height, scores=(0.9,)):
    point = make("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0)
    rotation = make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
    pose = make("geometry_msgs/msg/Pose", position=point, orientation=rotation)
    results = [
        make(
            "vision_msgs/msg/ObjectHypothesisWithPose",
            hypothesis=make("vision_msgs/msg/ObjectHypothesis", class_id=f"{label}{i or ''}", score=score),
            pose=make("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36)),
        )
        for i, score in enumerate(scores)
    ]
    centre = make("vision_msgs/msg/Pose2D", position=make("vision_msgs/msg/Point2D", x=x, y=y), theta=0.0)
    box = make("vision_msgs/msg/BoundingBox2D", center=centre, size_x=width, size_y=height)
    return make("vision_msgs/msg/Detection2D", header=header(0), results=results, bbox=box, id="")


def detections(at, *items):
    return at, make("vision_msgs/msg/Detection2DArray", header=header(at), detections=list(items))


def write(bags, topics):
    bags._store = typestore()
    return bags.write(topics)


def test_detections_become_boxes(bags):
    array = detections(0.0, detection("mug", 50.0, 40.0, 20.0, 10.0), detection("tray", 5.0, 5.0, 20.0, 10.0))
    truth = read_truth(write(bags, {"/truth": [array]}), "/truth")
    mug, tray = truth.at(START_NS)
    assert (mug.label, mug.box) == ("mug", (40, 35, 60, 45))
    assert (tray.label, tray.box) == ("tray", (0, 0, 15, 10))  # clipped at the image edge


def test_the_label_is_the_most_likely_class_or_object(bags):
    array = detections(0.0, detection("mug", 5.0, 5.0, 2.0, 2.0, (0.2, 0.7)), detection("", 5.0, 5.0, 2.0, 2.0, ()))
    truth = read_truth(write(bags, {"/truth": [array]}), "/truth")
    assert [item.label for item in truth.at(START_NS)] == ["mug1", "object"]


def test_the_closest_message_within_half_a_second_is_used(bags):
    arrays = [detections(t, detection(f"at {t}", 5.0, 5.0, 2.0, 2.0)) for t in (0.0, 1.0, 2.0)]
    truth = read_truth(write(bags, {"/truth": arrays}), "/truth")
    assert truth.at(START_NS + round(1.4 * SECOND))[0].label == "at 1.0"
    assert truth.at(START_NS + round(2.5 * SECOND))[0].label == "at 2.0"
    with pytest.raises(EvaluationError, match=r"/truth has no message within 0.5 s .* the closest is 1.00 s away"):
        truth.at(START_NS + 3 * SECOND)


def test_captions_become_boxes(bags):
    box = dict(zip(("x_min_px", "y_min_px", "x_max_px", "y_max_px"), (1.0, 2.0, 3.0, 4.0), strict=True))
    item = make("penguin_vl/msg/GroundedObject", label="red cube", score=0.5, **box)
    numbers = dict.fromkeys(("visual_tokens", "generated_tokens", "malformed_boxes"), 0)
    seconds = dict.fromkeys(("frame_age_s", "first_token_s", "total_s"), 0.0)
    caption = make(
        "penguin_vl/msg/GroundedCaption",
        header=header(1),
        camera="/camera",
        image_width_px=10,
        image_height_px=10,
        text="A red cube.",
        objects=[item],
        time_ranges=[],
        keyframe=True,
        **numbers,
        **seconds,
    )
    truth = read_truth(write(bags, {"/captions": [(1, caption)]}), "/captions")
    (found,) = truth.at(START_NS + SECOND)
    assert (found.label, found.box) == ("red cube", (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("topic", "message"),
    [
        ("/none", "has no topic /none; topics with boxes: /empty"),
        ("/chat", "is std_msgs/msg/String; boxes are read from vision_msgs/msg/Detection2DArray"),
        ("/empty", "topic /empty of bag .* has no messages"),
    ],
)
def test_a_topic_without_boxes_is_an_error(bags, topic, message):
    bag = write(bags, {"/chat": [(0, bags.text("hi"))], "/empty": "vision_msgs/msg/Detection2DArray"})
    with pytest.raises(EvaluationError, match=message):
        read_truth(bag, topic)


@pytest.mark.parametrize("name", ["GroundedObject", "TimeRange", "GroundedCaption"])
def test_built_in_definitions_equal_the_msg_files(name):
    full_name = f"penguin_vl/msg/{name}"
    declared = get_types_from_msg((ROOT / "msg" / f"{name}.msg").read_text(), full_name)
    assert typestore().fielddefs[full_name] == declared[full_name]
