"""Outgoing ROS messages: captions, answers, detections, memory states and overlays from the engine's values.

Incoming images are converted in images.py.
"""

from __future__ import annotations

import array
import math
from collections.abc import Iterable, Sequence
from typing import Any

import cv2
import penguin_vl.msg as msg
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, PoseStamped, Quaternion
from PIL import UnidentifiedImageError
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from penguin_engine.scene.camera_state import CameraState
from penguin_engine.scene.episode import Episode, Evidence
from penguin_engine.scene.episodes import small_jpeg
from penguin_engine.scene.memory import HeldFrame
from penguin_engine.scene.object_position import ObjectPosition
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.requests import Outcome
from penguin_engine.scene.watches import Judgement
from penguin_models.decoding import MAX_IMAGE_PIXELS, opened
from penguin_models.errors import MediaError
from penguin_models.grounding import GroundedObject
from penguin_models.types import FrameKind, Size
from penguin_ros.overlay import draw_objects

try:
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose
except ImportError:
    Detection2DArray = None

DETECTIONS: type | None = Detection2DArray
"""Message type of detections; None if vision_msgs is not installed."""
_JPEG_QUALITY = 85
_MAX_STAMP_S = 2**31 - 1
_THOUSANDTHS = Size(1000, 1000)


def stamp_to_ns(stamp: Time) -> int:
    """Returns a stamp in nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def ns_to_stamp(ns: int) -> Time:
    """Returns non-negative nanoseconds as a stamp."""
    sec, nanosec = divmod(ns, 1_000_000_000)
    return Time(sec=sec, nanosec=nanosec)


def caption_message(outcome: Outcome, age_s: float) -> msg.GroundedCaption:
    """Returns a caption; `age_s` is the age of its frame now."""
    answer, frame = outcome.answer, outcome.frame
    time_ranges, unrepresentable = _time_ranges(outcome)
    return msg.GroundedCaption(
        header=_header(frame),
        camera=outcome.camera,
        image_width_px=frame.source_size.width,
        image_height_px=frame.source_size.height,
        text=answer.grounding.text,
        objects=_objects(answer.grounding.objects, answer.scores, frame.source_size, outcome.positions),
        time_ranges=time_ranges,
        keyframe=frame.kind == FrameKind.KEY,
        visual_tokens=answer.visual_tokens,
        generated_tokens=answer.generated_tokens,
        frame_age_s=age_s,
        first_token_s=answer.first_token_s,
        total_s=answer.total_s,
        malformed_boxes=answer.grounding.malformed + unrepresentable,
    )


def truth_message(
    header: Header, camera: str, size: Size, text: str, objects: Sequence[GroundedObject]
) -> msg.GroundedCaption:
    """Returns the ground truth of an image in the form of a caption; scores are 1."""
    return msg.GroundedCaption(
        header=header,
        camera=camera,
        image_width_px=size.width,
        image_height_px=size.height,
        text=text,
        objects=_objects(objects, [1.0] * len(objects), size),
    )


def answer_message(outcome: Outcome, age_s: float) -> msg.Answer:
    """Returns an answer; `age_s` is the age of its newest frame now."""
    answer, frame = outcome.answer, outcome.frame
    time_ranges, unrepresentable = _time_ranges(outcome)
    return msg.Answer(
        text=answer.grounding.text,
        objects=_objects(answer.grounding.objects, answer.scores, frame.source_size, outcome.positions),
        time_ranges=time_ranges,
        header=_header(frame, _recalled_frame_id(outcome)),
        camera=outcome.camera,
        frames_used=answer.frames,
        frames_pending=answer.frames_pending,
        evidence=[_evidence(item) for item in answer.evidence],
        candidates_judged=answer.candidates_judged,
        candidates_left_out=answer.candidates_left_out,
        turns_used=answer.turns_used,
        turns_forgotten=answer.turns_forgotten,
        visual_tokens=answer.visual_tokens,
        prompt_tokens=answer.prompt_tokens,
        generated_tokens=answer.generated_tokens,
        malformed_boxes=answer.grounding.malformed + unrepresentable,
        evidence_age_s=age_s,
        queue_s=outcome.queue_s,
        first_token_s=answer.first_token_s,
        predicted_first_token_s=answer.predicted_s,
        total_s=answer.total_s,
    )


def memory_message(camera_state: CameraState, pace: Pace | None) -> msg.MemoryState:
    """Returns the state of a camera's memory."""
    memory = camera_state.session.memory
    counters, frames = memory.counters, memory.frames
    return msg.MemoryState(
        header=_header(frames[-1]) if frames else Header(),
        camera=camera_state.camera,
        frames=[_memory_frame(frame) for frame in frames],
        tokens=memory.tokens,
        token_budget=memory.config.token_budget,
        arrival_tokens=(pace and pace.arrival_tokens) or 0,
        frame_period_s=pace.period_s if pace else 0.0,
        pace=pace.reason if pace else "",
        frames_received=counters.received,
        frames_late=counters.late + camera_state.mailbox.late,
        frames_evicted=counters.evicted,
        frames_resized=counters.resized,
        keyframes=counters.keyframes,
        compactions=counters.compactions,
        clears=counters.clears,
    )


def alert_message(judgement: Judgement, with_picture: bool) -> msg.Alert:
    """Returns a judgement of a condition, with or without the picture of its frame."""
    header = _header(judgement.frame)
    message = msg.Alert(
        header=header,
        camera=judgement.camera,
        condition=judgement.condition,
        probability=judgement.probability,
        held_s=judgement.held_s,
    )
    if with_picture:
        message.picture = _jpeg_message(header, small_jpeg(judgement.pixels))
    return message


def _jpeg_message(header: Header, jpeg: bytes) -> CompressedImage:
    return CompressedImage(header=header, format="jpeg", data=array.array("B", jpeg))


def detections_message(caption: msg.GroundedCaption) -> Any:
    """Returns the objects of a caption as a `vision_msgs/Detection2DArray`; needs vision_msgs.

    A score that could not be measured is 0 here: consumers compare scores, and every comparison with NaN is false.
    """
    detections = []
    for item in caption.objects:
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id = item.label
        result.hypothesis.score = 0.0 if math.isnan(item.score) else float(item.score)
        detection = Detection2D(header=caption.header, results=[result])
        detection.bbox.center.position.x = (item.x_min_px + item.x_max_px) / 2
        detection.bbox.center.position.y = (item.y_min_px + item.y_max_px) / 2
        detection.bbox.size_x = float(item.x_max_px - item.x_min_px)
        detection.bbox.size_y = float(item.y_max_px - item.y_min_px)
        detections.append(detection)
    return Detection2DArray(header=caption.header, detections=detections)


def overlay_message(outcome: Outcome) -> CompressedImage:
    """Returns the frame of a caption with its boxes drawn in, as JPEG."""
    drawn = draw_objects(outcome.pixels, outcome.answer.grounding.objects)
    bgr = cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR)
    done, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done, "OpenCV writes JPEG"
    return _jpeg_message(_header(outcome.frame), jpeg.tobytes())


def episode_messages(episodes: Iterable[Episode], thumbnail_bytes: int) -> tuple[list[msg.Episode], int]:
    """Returns episodes as messages; at the end without thumbnails, if these exceed some bytes, and how many are."""
    messages, omitted = [], 0
    for episode in episodes:
        thumbnail_bytes -= len(episode.jpeg)
        message = _episode(episode, with_picture=thumbnail_bytes >= 0)
        omitted += bool(episode.jpeg) and not message.thumbnail.data
        messages.append(message)
    return messages, omitted


def _episode(episode: Episode, with_picture: bool) -> msg.Episode:
    stamp, size, thumbnail = _stamp(episode), _THOUSANDTHS, CompressedImage()
    if episode.jpeg and with_picture:
        size = _jpeg_size(episode.jpeg)
        header = Header(stamp=stamp, frame_id=episode.frame_id)
        thumbnail = _jpeg_message(header, episode.jpeg)
    return msg.Episode(
        id=episode.id,
        robot=episode.robot,
        stamp=stamp,
        camera=episode.camera,
        frame_id=episode.frame_id,
        pose_known=episode.pose is not None,
        pose=_pose(episode),
        caption=episode.caption,
        objects=_objects(episode.objects, [math.nan] * len(episode.objects), size),
        thumbnail=thumbnail,
    )


def _evidence(item: Evidence) -> msg.Evidence:
    episode = item.episode
    return msg.Evidence(
        stamp=_stamp(episode),
        camera=episode.camera,
        robot=episode.robot,
        episode_id=episode.id,
        probability=item.probability,
        pose_known=episode.pose is not None,
        pose=_pose(episode),
    )


def _stamp(episode: Episode) -> Time:
    """Returns a stamp, or the nearest that a message can hold: other programs fill stores as well."""
    return ns_to_stamp(min(max(0, episode.stamp_ns), _MAX_STAMP_S * 1_000_000_000))


def _pose(episode: Episode) -> PoseStamped:
    message, pose = PoseStamped(), episode.pose
    if pose is not None:
        message.header = Header(stamp=_stamp(episode), frame_id=pose.frame_id)
        message.pose.position = Point(**dict(zip("xyz", pose.position, strict=True)))
        message.pose.orientation = Quaternion(**dict(zip("xyzw", pose.orientation, strict=True)))
    return message


def _jpeg_size(jpeg: bytes) -> Size:
    """Returns the size of a picture by its header; boxes stay in thousandths if it is damaged."""
    try:
        with opened(jpeg, "the picture of an episode", ("JPEG",), MAX_IMAGE_PIXELS) as image:
            return Size(image.height, image.width)
    except (MediaError, UnidentifiedImageError):
        return _THOUSANDTHS


def _header(frame: HeldFrame, frame_id: str = "") -> Header:
    return frame.header or Header(stamp=ns_to_stamp(frame.stamp_ns), frame_id=frame_id)


def _recalled_frame_id(outcome: Outcome) -> str:
    """Returns the frame of the camera if the newest frame in the prompt is the picture of an episode."""
    stamp_ns, shown = outcome.frame.stamp_ns, outcome.answer.evidence
    return next((item.episode.frame_id for item in shown if item.episode.stamp_ns == stamp_ns), "")


def _objects(
    items: Sequence[GroundedObject],
    scores: Sequence[float],
    size: Size,
    positions: Sequence[ObjectPosition | None] = (),
) -> list[msg.GroundedObject]:
    objects = []
    for item, score, place in zip(items, scores, positions or [None] * len(items), strict=True):
        x_min, y_min, x_max, y_max = item.box.to_pixels(size)
        message = msg.GroundedObject(
            label=item.label, x_min_px=x_min, y_min_px=y_min, x_max_px=x_max, y_max_px=y_max, score=score
        )
        if place is not None:
            message.position_frame_id = place.frame_id
            message.position = Point(**dict(zip("xyz", place.position.tolist(), strict=True)))
            message.position_covariance = place.covariance.ravel()
        objects.append(message)
    return objects


def _time_ranges(outcome: Outcome) -> tuple[list[msg.TimeRange], int]:
    """Returns the time ranges as stamps, and how many no stamp can represent: a model may write any number."""
    start_ns, spans = outcome.answer.start_ns, outcome.answer.grounding.time_ranges
    representable = [span for span in spans if start_ns * 1e-9 + span.end_s < _MAX_STAMP_S]
    ranges = [
        msg.TimeRange(
            start=ns_to_stamp(start_ns + round(span.start_s * 1e9)), end=ns_to_stamp(start_ns + round(span.end_s * 1e9))
        )
        for span in representable
    ]
    return ranges, len(spans) - len(ranges)


def _memory_frame(frame: HeldFrame) -> msg.MemoryFrame:
    return msg.MemoryFrame(
        stamp=ns_to_stamp(frame.stamp_ns),
        kind=int(frame.kind),
        width_px=frame.size.width,
        height_px=frame.size.height,
        tokens=frame.tokens,
    )
