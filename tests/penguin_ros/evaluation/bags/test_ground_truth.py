"""Expected boxes read from topics of bags."""

from pathlib import Path
from struct import pack

import numpy as np
import pytest
from damage import damaged
from fuzzing import FUZZ
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.typesys import get_types_from_msg

from penguin_models.errors import EvaluationError, MediaError
from penguin_ros import message_types
from penguin_ros.bag_storage.bag import BagMessage
from penguin_ros.bag_storage.messages import Connection
from penguin_ros.evaluation.bags.ground_truth import _boxes, read_truth
from penguin_ros.evaluation.question_file import ExpectedObject
from penguin_ros.message_types import deserialize, typestore

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


def write(bags, topics, **options):
    bags._store = typestore()
    return bags.write(topics, **options)


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
    point = make("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0)
    place = {"position_frame_id": "", "position": point, "position_covariance": np.zeros(9)}
    item = make("penguin_vl/msg/GroundedObject", label="red cube", score=0.5, **box, **place)
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


def caption_definition():
    """Returns the definition of a GroundedCaption with few fields, and one of its messages."""
    separator = "=" * 80 + "\n"
    text = (
        f"std_msgs/Header header\nGroundedObject[] objects\n{separator}MSG: penguin_vl/GroundedObject\nstring label\n"
    )
    text += "".join(f"float32 {side}\n" for side in ("x_min_px", "y_min_px", "x_max_px", "y_max_px"))
    text += f"{separator}MSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n"
    text += f"{separator}MSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
    header = pack("<iI", 1, 0) + pack("<I", 1) + bytes(4)
    return text, b"\0\1\0\0" + header + pack("<I", 1) + pack("<I", 4) + b"mug\0" + pack("<4f", 1, 2, 3, 4)


def boxes_of(definition, data):
    connection = Connection(1, "/truth", "penguin_vl/msg/GroundedCaption", "cdr", "ros2msg", definition)
    return _boxes(BagMessage(connection, 1, (0, 0), data).deserialize())


def test_damaged_definitions_and_messages_are_boxes_or_errors():
    """Definitions are slow to parse: most examples damage the message."""
    text, data = caption_definition()
    assert boxes_of(text.encode(), data)[0].box == (1, 2, 3, 4)
    example = st.tuples(st.just(text.encode()), damaged(data)) | st.tuples(damaged(text.encode()), st.just(data))

    @settings(FUZZ, max_examples=FUZZ.max_examples // 4)
    @given(example)
    def check(found):
        try:
            boxes = boxes_of(*found)
        except MediaError as err:
            assert "\n" not in str(err)
        else:
            assert all(isinstance(item, ExpectedObject) for item in boxes)

    check()


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        ("B b", "RecursionError"),
        ("string[1000000000] b", "it has 1000000001 fields and items of arrays, the limit is 1000"),
        ("bool b\n" * 10_000, "it has 70000 bytes, the limit is 65536"),
        ("C b\n", "KeyError"),
        ("bool \xff", "TypesysError"),
    ],
)
def test_definitions_without_end_are_refused_once(definition, reason, monkeypatch):
    """Not for every message again."""
    connection = Connection(1, "/t", "a/msg/B", "cdr", "ros2msg", definition.encode())
    with pytest.raises(MediaError, match=f"the bag defines a/msg/B in a way that cannot be read: {reason}$"):
        deserialize(connection, b"\0\1\0\0")
    monkeypatch.setattr(message_types, "_parse", None)
    with pytest.raises(MediaError, match=reason):
        deserialize(connection, b"\0\1\0\0")


def test_damaged_messages_cost_no_others(bags):
    """One is cut, one has a box that is infinite, and one a label that is no text."""
    good = [detections(float(at), detection("mug", 50.0, 40.0, 20.0, 10.0)) for at in (0, 1)]
    infinite = detections(2.0, detection("mug", float("inf"), 40.0, 20.0, 10.0))
    truth = read_truth(write(bags, {"/truth": [good[0], (0.5, b"\0\1\0\0cut"), infinite, good[1]]}), "/truth")
    assert [len(items) for items in truth.objects] == [1, 1]
    (note,) = truth.notes
    assert note.startswith("/truth: 2 of 4 messages cannot be read; the first: the message cannot be read: ")
    with pytest.raises(
        EvaluationError, match=r"topic /truth of bag .* has no message that can be read; the first: a box"
    ):
        read_truth(write(bags, {"/truth": [infinite]}, name="bad"), "/truth")
