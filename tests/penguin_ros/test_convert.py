"""Outgoing messages: stamps, time ranges and detections."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from penguin_vl.msg import GroundedCaption, GroundedObject

from penguin_engine.scene.answer import Answer
from penguin_engine.scene.memory import HeldFrame
from penguin_engine.scene.requests import Outcome
from penguin_models.grounding import Grounding, TimeRange
from penguin_models.types import FrameKind, Size
from penguin_ros import convert


def test_stamps_survive_a_round_trip():
    for ns in (0, 1, 999_999_999, 1_790_000_000_123_456_789):
        assert convert.stamp_to_ns(convert.ns_to_stamp(ns)) == ns


class FakeDetection:
    """Has the fields of vision_msgs' Detection2D and Detection2DArray, because vision_msgs may be missing."""

    def __init__(self, header, results=(), detections=()):
        position = SimpleNamespace(x=0.0, y=0.0)
        self.header, self.results, self.detections = header, list(results), list(detections)
        self.bbox = SimpleNamespace(center=SimpleNamespace(position=position), size_x=0.0, size_y=0.0)


def test_detections_carry_the_boxes_of_the_caption_and_no_nan_score(monkeypatch):
    if convert.DETECTIONS is None:
        for name in ("Detection2D", "Detection2DArray"):
            monkeypatch.setattr(convert, name, FakeDetection, raising=False)
        hypothesis = lambda: SimpleNamespace(hypothesis=SimpleNamespace(class_id="", score=0.0))  # noqa: E731
        monkeypatch.setattr(convert, "ObjectHypothesisWithPose", hypothesis, raising=False)
    box = {"label": "cup", "x_min_px": 10.0, "y_min_px": 20.0, "x_max_px": 30.0, "y_max_px": 60.0}
    caption = GroundedCaption(objects=[GroundedObject(**box, score=score) for score in (0.5, math.nan)])
    caption.header.frame_id = "optical"
    first, second = convert.detections_message(caption).detections
    assert first.header.frame_id == "optical" and first.results[0].hypothesis.class_id == "cup"
    assert (first.bbox.center.position.x, first.bbox.center.position.y) == (20.0, 40.0)
    assert (first.bbox.size_x, first.bbox.size_y) == (20.0, 40.0)
    assert [item.results[0].hypothesis.score for item in (first, second)] == [0.5, 0.0]


def test_times_beyond_the_range_of_stamps_are_omitted_and_counted():
    start_ns, size = 1_700_000_000 * 10**9, Size(56, 84)
    frame = HeldFrame(0, start_ns, FrameKind.KEY, size, size, 6, np.zeros((56, 84, 3), np.uint8), None)
    spans = (TimeRange(0.0, 99_999_999_999.0), TimeRange(1.0, 2.5), TimeRange(1e300, 1e300))
    answer = Answer(grounding=Grounding("", (), spans, 1), image_size=size, start_ns=start_ns)
    outcome = Outcome(answer, "camera", frame, frame.pixels)
    for message in (convert.answer_message(outcome, 0.0), convert.caption_message(outcome, 0.0)):
        (span,) = message.time_ranges
        assert (span.start.sec, span.end.sec, span.end.nanosec) == (1_700_000_001, 1_700_000_002, 500_000_000)
        assert message.malformed_boxes == 3
        kinds = message.get_fields_and_field_types()
        assert {type(getattr(message, name)) for name, kind in kinds.items() if kind == "float"} == {float}, (
            "rclpy ends the process when it sends another type; an answer without seconds was cancelled at once"
        )
