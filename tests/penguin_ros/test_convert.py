"""ROS messages to images and back; cv_bridge and our own conversion agree."""

import array

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from penguin_vl.srv import Ask
from sensor_msgs.msg import CompressedImage, Image

from penguin_engine.scene.answer import Answer
from penguin_engine.scene.memory import HeldFrame
from penguin_engine.scene.requests import Outcome
from penguin_models.errors import MediaError
from penguin_models.grounding import Grounding, TimeRange
from penguin_models.types import FrameKind, Size
from penguin_ros import convert
from penguin_ros.images import raw_to_rgb

CHANNELS = {
    "rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "8UC1": 1, "8UC3": 3, "8UC4": 4,
    "rgb16": 3, "bgr16": 3, "rgba16": 4, "bgra16": 4, "mono16": 1,
    "yuv422": 2, "uyvy": 2, "yuv422_yuy2": 2, "yuyv": 2,
    **{f"bayer_{pattern}{bits}": 1 for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)},
}  # fmt: skip


CODES = {
    "rgb": None, "bgr": cv2.COLOR_BGR2RGB, "rgba": cv2.COLOR_RGBA2RGB, "bgra": cv2.COLOR_BGRA2RGB,
    "mono": cv2.COLOR_GRAY2RGB, "yuv422": cv2.COLOR_YUV2RGB_UYVY, "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "bayer_rggb": cv2.COLOR_BayerBG2RGB, "bayer_bggr": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGR2RGB, "bayer_grbg": cv2.COLOR_BayerGB2RGB,
}  # fmt: skip


class StandIn:
    """Does what cv_bridge does, as its source has it: colours are converted first, then 16 bits become 8."""

    def imgmsg_to_cv2(self, raw, wanted):
        name, bits = raw.encoding, 8
        if not name.startswith("yuv"):
            name = name.removesuffix("16").removesuffix("8")
            bits = 16 if raw.encoding.endswith("16") else 8
        if wanted != "rgb8" or name not in CODES:
            raise RuntimeError(f"[{raw.encoding}] is not a color format. but [{wanted}] is")
        if raw.is_bigendian:
            raise AttributeError("`newbyteorder` was removed from the ndarray class in NumPy 2.0")
        channels, wide = CHANNELS[raw.encoding], bits // 8
        in_a_row = raw.step // wide // channels  # wrong where the padding is no whole number of pixels
        shape = (raw.height, in_a_row, channels) if channels > 1 else (raw.height, in_a_row)
        image = np.ascontiguousarray(np.ndarray(shape, f"<u{wide}", buffer=raw.data)[:, : raw.width])
        if CODES[name] is not None:
            image = cv2.cvtColor(image, CODES[name])
        return image if bits == 8 else cv2.convertScaleAbs(image, alpha=255 / 65535)


@pytest.fixture
def bridge(monkeypatch):
    """cv_bridge where it is installed, else its stand-in."""
    if convert.CvBridge is None:
        monkeypatch.setattr(convert, "CvBridge", StandIn)


def message(encoding, padding=0, height=8, width=10):
    step = width * CHANNELS[encoding] * (2 if encoding.endswith("16") else 1) + padding
    data = np.random.default_rng(0).integers(0, 256, height * step, dtype=np.uint8)
    return Image(encoding=encoding, height=height, width=width, step=step, data=array.array("B", data.tobytes()))


def test_stamps_survive():
    for ns in (0, 1, 999_999_999, 1_790_000_000_123_456_789):
        assert convert.stamp_to_ns(convert.ns_to_stamp(ns)) == ns


def test_raw_and_compressed_messages_become_rgb():
    raw = message("bgr8")
    rgb = convert.image_to_rgb(raw)
    assert rgb.flags.c_contiguous and np.array_equal(rgb, raw_to_rgb("bgr8", 8, 10, 30, raw.data))
    with pytest.raises(MediaError, match="cannot be decoded"):
        convert.image_to_rgb(CompressedImage(format="jpeg", data=array.array("B", b"no jpeg")))


@pytest.mark.parametrize("encoding", CHANNELS)
@pytest.mark.parametrize("padding", [0, 1, 24])
@pytest.mark.parametrize("big_endian", [False, True])
def test_cv_bridge_gives_the_same_pixels(bridge, encoding, padding, big_endian):
    raw = message(encoding, padding)
    raw.is_bigendian = int(big_endian)
    ours = raw_to_rgb(encoding, raw.height, raw.width, raw.step, raw.data, big_endian)
    assert np.array_equal(convert.image_to_rgb(raw), ours)


def test_what_cv_bridge_says_is_told(monkeypatch):
    class Broken:
        def imgmsg_to_cv2(self, raw, encoding):
            raise RuntimeError("no memory")

    monkeypatch.setattr(convert, "CvBridge", Broken)
    with pytest.raises(MediaError, match="cannot convert this rgb8 image: no memory"):
        convert.image_to_rgb(message("rgb8"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoding": "32FC1"}, "is depth"),
        ({"encoding": "16UC1"}, "is depth"),
        ({"encoding": "nonsense"}, "is not supported"),
        ({"step": 3}, "step 3 is less"),
        ({"height": 80}, "ends after 240 of 2400"),
    ],
)
def test_bad_images_are_refused_before_cv_bridge_sees_them(change, words, monkeypatch):
    class Bridge:
        def imgmsg_to_cv2(self, raw, encoding):
            raise AssertionError("it was asked")

    monkeypatch.setattr(convert, "CvBridge", Bridge)
    raw = message("rgb8")
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
