"""ROS messages <-> the values of the engine: images in; captions, answers, detections and memory states out."""

from __future__ import annotations

import array
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from penguin_vl.msg import GroundedCaption, GroundedObject, MemoryFrame, MemoryState, TimeRange
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from penguin_engine.scene.camera_state import CameraState
from penguin_engine.scene.memory import HeldFrame
from penguin_engine.scene.requests import Outcome
from penguin_models import grounding
from penguin_models.errors import MediaError
from penguin_models.types import FrameKind, Size, UInt8Array
from penguin_ros.images import check_raw, message_to_rgb, pixel_bytes
from penguin_ros.overlay import draw_objects

try:
    from cv_bridge import CvBridge
except ImportError:
    CvBridge = None

try:
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose
except ImportError:
    Detection2DArray = None

_BRIDGED = {
    *("mono8", "mono16", "yuv422", "yuv422_yuy2"),
    *(f"{channels}{bits}" for channels in ("rgb", "bgr", "rgba", "bgra") for bits in (8, 16)),
    *(f"bayer_{pattern}{bits}" for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)),
}
"""Encodings that cv_bridge converts to RGB in every distribution."""
_JPEG_QUALITY = 85
_END_OF_TIME_S = 2**31


def stamp_to_ns(stamp: Time) -> int:
    """Nanoseconds of a time."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def ns_to_stamp(ns: int) -> Time:
    """Time of nanoseconds that are not negative."""
    sec, nanosec = divmod(ns, 1_000_000_000)
    return Time(sec=sec, nanosec=nanosec)


def image_to_rgb(message: Image | CompressedImage) -> UInt8Array:
    """Pixels of an image message, uint8 [H, W, 3]; raw ones through cv_bridge where it is installed.

    Raises:
        MediaError: the message is no colour image, or broken.
    """
    if CvBridge is None or isinstance(message, CompressedImage):
        return message_to_rgb(message)
    # cv_bridge reads past the end of short data, and makes pictures of depth.
    check_raw(message.encoding, message.height, message.width, message.step, len(message.data))
    if not _is_bridged(message):
        return message_to_rgb(message)
    try:
        rgb = np.ascontiguousarray(CvBridge().imgmsg_to_cv2(message, "rgb8"))
    except Exception as err:  # whatever its C++ side raises
        raise MediaError(f"cv_bridge cannot convert this {message.encoding} image: {err}") from err
    if rgb.shape != (message.height, message.width, 3):
        raise MediaError(f"cv_bridge made {rgb.shape} of a {message.width}x{message.height} {message.encoding} image")
    return rgb


def _is_bridged(message: Image) -> bool:
    """Whether cv_bridge converts an image at all, and right.

    It refuses encodings that do not say what their channels are, stumbles over the other byte order with NumPy 2, and
    loses its place in rows whose padding is no whole number of pixels.
    """
    return (
        message.encoding in _BRIDGED and not message.is_bigendian and message.step % pixel_bytes(message.encoding) == 0
    )


def caption_message(outcome: Outcome, age_s: float) -> GroundedCaption:
    """A caption.

    Args:
        outcome: what was said, and of which frame.
        age_s: of the frame, now.
    """
    answer, frame = outcome.answer, outcome.frame
    time_ranges, unfit = _time_ranges(outcome)
    return GroundedCaption(
        header=_header(frame),
        camera=outcome.camera,
        image_width_px=frame.source_size.width,
        image_height_px=frame.source_size.height,
        text=answer.grounding.text,
        objects=_answer_objects(outcome),
        time_ranges=time_ranges,
        key_frame=frame.kind == FrameKind.KEY,
        visual_tokens=answer.visual_tokens,
        generated_tokens=answer.generated_tokens,
        frame_age_s=age_s,
        first_token_s=answer.first_token_s,
        total_s=answer.total_s,
        malformed_boxes=answer.grounding.malformed + unfit,
    )


def truth_message(
    header: Header, camera: str, size: Size, text: str, objects: Sequence[grounding.GroundedObject]
) -> GroundedCaption:
    """What is certain about an image, in the form of a caption; scores are 1."""
    return GroundedCaption(
        header=header,
        camera=camera,
        image_width_px=size.width,
        image_height_px=size.height,
        text=text,
        objects=_objects(objects, [1.0] * len(objects), size),
    )


def grounded_objects(messages: Sequence[GroundedObject], size: Size) -> list[grounding.GroundedObject]:
    """Objects of a message about an image of this size, their boxes in thousandths again."""
    return [
        grounding.GroundedObject(
            o.label, grounding.Box.from_pixels(o.x_min_px, o.y_min_px, o.x_max_px, o.y_max_px, size)
        )
        for o in messages
    ]


def fill_answer(message: Any, outcome: Outcome) -> None:
    """Fills the response of `Ask` or the result of `AskStream`; they have the same fields."""
    answer, frame = outcome.answer, outcome.frame
    message.answer = answer.grounding.text
    message.objects = _answer_objects(outcome)
    message.time_ranges, unfit = _time_ranges(outcome)
    message.header = _header(frame)
    message.camera = outcome.camera
    message.frames_used = answer.frames
    message.visual_tokens = answer.visual_tokens
    message.prompt_tokens = answer.prompt_tokens
    message.generated_tokens = answer.generated_tokens
    message.malformed_boxes = answer.grounding.malformed + unfit
    message.queue_s = outcome.queue_s
    message.first_token_s = answer.first_token_s
    message.total_s = answer.total_s


def answer_dict(message: Any) -> dict[str, Any]:
    """The response of `Ask` or the result of `AskStream`, for programs; times are stamps in seconds."""
    return {
        "answer": message.answer,
        "objects": [
            {
                "label": o.label,
                "box_px": [o.x_min_px, o.y_min_px, o.x_max_px, o.y_max_px],
                "score": None if math.isnan(o.score) else round(o.score, 4),
            }
            for o in message.objects
        ],
        "time_ranges": [
            {"start_s": stamp_to_ns(t.start) * 1e-9, "end_s": stamp_to_ns(t.end) * 1e-9} for t in message.time_ranges
        ],
        "malformed_boxes": message.malformed_boxes,
        "camera": message.camera,
        "stamp": stamp_to_ns(message.header.stamp) * 1e-9,
        "frame_id": message.header.frame_id,
        "frames": message.frames_used,
        "tokens": {
            "visual": message.visual_tokens,
            "prompt": message.prompt_tokens,
            "generated": message.generated_tokens,
        },
        "seconds": {"queue": message.queue_s, "first_token": message.first_token_s, "total": message.total_s},
    }


def memory_message(camera_state: CameraState) -> MemoryState:
    """The memory of a camera."""
    memory = camera_state.session.memory
    counters, frames = memory.counters, memory.frames
    return MemoryState(
        header=_header(frames[-1]) if frames else Header(),
        camera=camera_state.camera,
        frames=[_memory_frame(frame) for frame in frames],
        tokens=memory.tokens,
        token_budget=memory.config.token_budget,
        frames_received=counters.received,
        frames_late=counters.late + camera_state.mailbox.late,
        frames_evicted=counters.evicted,
        frames_resized=counters.resized,
        key_frames=counters.key_frames,
        compactions=counters.compactions,
        clears=counters.clears,
    )


def detections_message(caption: GroundedCaption) -> Any:
    """The objects of a caption as a `vision_msgs/Detection2DArray`; only where vision_msgs is installed."""
    detections = []
    for item in caption.objects:
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id = item.label
        result.hypothesis.score = float(item.score)
        detection = Detection2D(header=caption.header, results=[result])
        detection.bbox.center.position.x = (item.x_min_px + item.x_max_px) / 2
        detection.bbox.center.position.y = (item.y_min_px + item.y_max_px) / 2
        detection.bbox.size_x = float(item.x_max_px - item.x_min_px)
        detection.bbox.size_y = float(item.y_max_px - item.y_min_px)
        detections.append(detection)
    return Detection2DArray(header=caption.header, detections=detections)


def overlay_message(outcome: Outcome) -> CompressedImage:
    """The frame of a caption with its objects drawn in, as JPEG."""
    drawn = draw_objects(outcome.pixels, outcome.answer.grounding.objects)
    done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done, "OpenCV writes JPEG"
    return CompressedImage(header=_header(outcome.frame), format="jpeg", data=array.array("B", jpeg.tobytes()))


def _header(frame: HeldFrame) -> Header:
    return frame.header or Header(stamp=ns_to_stamp(frame.stamp_ns))


def _objects(items: Sequence[grounding.GroundedObject], scores: Sequence[float], size: Size) -> list[GroundedObject]:
    objects = []
    for item, score in zip(items, scores, strict=True):
        x_min, y_min, x_max, y_max = item.box.to_pixels(size)
        objects.append(
            GroundedObject(
                label=item.label, x_min_px=x_min, y_min_px=y_min, x_max_px=x_max, y_max_px=y_max, score=score
            )
        )
    return objects


def _answer_objects(outcome: Outcome) -> list[GroundedObject]:
    answer = outcome.answer
    return _objects(answer.grounding.objects, answer.scores, outcome.frame.source_size)


def _time_ranges(outcome: Outcome) -> tuple[list[TimeRange], int]:
    """Spans as stamps, and how many end after all that a stamp can say: a model may write any number."""
    start_ns, spans = outcome.answer.start_ns, outcome.answer.grounding.time_ranges
    fit = [span for span in spans if start_ns * 1e-9 + span.end_s < _END_OF_TIME_S - 1]
    ranges = [
        TimeRange(
            start=ns_to_stamp(start_ns + round(span.start_s * 1e9)), end=ns_to_stamp(start_ns + round(span.end_s * 1e9))
        )
        for span in fit
    ]
    return ranges, len(spans) - len(ranges)


def _memory_frame(frame: HeldFrame) -> MemoryFrame:
    return MemoryFrame(
        stamp=ns_to_stamp(frame.stamp_ns),
        kind=int(frame.kind),
        width_px=frame.size.width,
        height_px=frame.size.height,
        tokens=frame.tokens,
    )
