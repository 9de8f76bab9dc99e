"""ROS messages to images and back; cv_bridge and our own conversion agree."""

import array

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from penguin_vl.srv import Ask
from sensor_msgs.msg import CompressedImage, Image

from penguin_engine.answer import Answer
from penguin_engine.memory import HeldFrame
from penguin_engine.questions import Outcome
from penguin_models.errors import MediaError
from penguin_models.grounding import Grounding, TimeRange
from penguin_models.types import FrameKind, Size
from penguin_ros import convert
from penguin_ros.images import raw_to_rgb

# What cv_bridge converts to rgb8; it refuses the others.
BRIDGED = ("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "rgb16", "bgr16", "rgba16", "bgra16", "mono16")
BRIDGED += ("bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8", "yuv422", "yuv422_yuy2")


def message(encoding, channels, itemsize=1, height=8, width=10, seed=0):
    data = np.random.default_rng(seed).integers(0, 256, height * width * channels * itemsize, dtype=np.uint8)
    return Image(
        encoding=encoding, height=height, width=width, step=width * channels * itemsize,
        data=array.array("B", data.tobytes()),
    )  # fmt: skip


def test_stamps_survive():
    for ns in (0, 1, 999_999_999, 1_790_000_000_123_456_789):
        assert convert.stamp_to_ns(convert.ns_to_stamp(ns)) == ns


def test_raw_and_compressed_messages_become_rgb():
    raw = message("bgr8", 3)
    rgb = convert.image_to_rgb(raw)
    assert rgb.flags.c_contiguous and np.array_equal(rgb, raw_to_rgb("bgr8", 8, 10, 30, raw.data))
    with pytest.raises(MediaError, match="cannot be decoded"):
        convert.image_to_rgb(CompressedImage(format="jpeg", data=array.array("B", b"no jpeg")))


@pytest.mark.parametrize("encoding", BRIDGED)
def test_cv_bridge_gives_the_same_pixels(encoding):
    pytest.importorskip("cv_bridge", reason="comes with ROS")
    channels = {"rgba": 4, "bgra": 4, "mono": 1, "baye": 1, "yuv4": 2}.get(encoding[:4], 3)
    raw = message(encoding, channels, 2 if encoding.endswith("16") else 1)
    ours = raw_to_rgb(encoding, raw.height, raw.width, raw.step, raw.data)
    assert np.array_equal(convert.image_to_rgb(raw), ours)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoding": "32FC1"}, "is depth"),
        ({"encoding": "16UC1"}, "is depth"),
        ({"step": 3}, "step 3 is less"),
        ({"height": 80}, "ends after 240 of 2400"),
    ],
)
def test_bad_images_are_refused_before_cv_bridge_sees_them(change, words, monkeypatch):
    class Bridge:
        def imgmsg_to_cv2(self, raw, encoding):
            raise AssertionError("it was asked")

    monkeypatch.setattr(convert, "CvBridge", Bridge)
    raw = message("rgb8", 3)
    for name, value in change.items():
        setattr(raw, name, value)
    with pytest.raises(MediaError, match=words):
        convert.image_to_rgb(raw)


def test_detections_have_the_boxes_of_the_caption():
    pytest.importorskip("vision_msgs", reason="comes with ROS")
    from penguin_vl.msg import GroundedCaption, GroundedObject

    item = GroundedObject(label="cup", x_min_px=10.0, y_min_px=20.0, x_max_px=30.0, y_max_px=60.0, score=0.5)
    caption = GroundedCaption(objects=[item])
    caption.header.frame_id = "optical"
    (detection,) = convert.detections_message(caption).detections
    assert detection.header.frame_id == "optical" and detection.results[0].hypothesis.class_id == "cup"
    assert (detection.bbox.center.position.x, detection.bbox.center.position.y) == (20.0, 40.0)
    assert (detection.bbox.size_x, detection.bbox.size_y) == (20.0, 40.0)


def test_times_that_no_stamp_can_say_are_counted_and_left_out():
    start_ns, size = 1_700_000_000 * 10**9, Size(56, 84)
    frame = HeldFrame(0, start_ns, FrameKind.KEY, size, size, 6, np.zeros((56, 84, 3), np.uint8), None)
    spans = (TimeRange(0.0, 99_999_999_999.0), TimeRange(1.0, 2.5), TimeRange(1e300, 1e300))
    answer = Answer(grounding=Grounding("", (), spans, 1), image_size=size, start_ns=start_ns)
    response = Ask.Response()
    convert.fill_answer(response, Outcome(answer, "camera", frame, frame.pixels))
    for message in (response, convert.caption_message(Outcome(answer, "camera", frame, frame.pixels), 0.0)):
        (span,) = message.time_ranges
        assert (span.start.sec, span.end.sec, span.end.nanosec) == (1_700_000_001, 1_700_000_002, 500_000_000)
        assert message.malformed_boxes == 3
