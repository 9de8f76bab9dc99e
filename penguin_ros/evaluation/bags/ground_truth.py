"""Boxes that a bag holds beside its images, as expected results: detections, or captions of a better model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from penguin_models.errors import EvaluationError
from penguin_ros.bags import open_bag
from penguin_ros.evaluation.question_file import ExpectedObject

MAX_DISTANCE_S = 0.5
"""A message this far from an image says nothing about it."""
_TYPES = ("vision_msgs/msg/Detection2DArray", "penguin_vl/msg/GroundedCaption")


@dataclass(frozen=True)
class TruthTopic:
    """The boxes of one topic over time.

    Attributes:
        topic: its name.
        stamps_ns: of its messages, in order.
        objects: of each message, in pixels of the image.
    """

    topic: str
    stamps_ns: tuple[int, ...]
    objects: tuple[tuple[ExpectedObject, ...], ...]

    def at(self, stamp_ns: int) -> tuple[ExpectedObject, ...]:
        """The objects of the message nearest to an image.

        Raises:
            EvaluationError: there is none within half a second.
        """
        distances = np.abs(np.array(self.stamps_ns) - stamp_ns)
        nearest = int(np.argmin(distances))
        if distances[nearest] > MAX_DISTANCE_S * 1e9:
            raise EvaluationError(
                f"{self.topic} has no message within {MAX_DISTANCE_S} s of the image with stamp {stamp_ns}; "
                f"the nearest is {distances[nearest] * 1e-9:.2f} s away"
            )
        return self.objects[nearest]


def read_truth(path: Path, topics: Sequence[str]) -> dict[str, TruthTopic]:
    """Reads topics with boxes.

    Raises:
        MediaError: the bag cannot be read.
        EvaluationError: a topic is missing, has another type or no messages.
    """
    if not topics:
        return {}
    with open_bag(path) as reader:
        types = {c.topic: c.msgtype for c in reader.connections}
        for topic in topics:
            if topic not in types:
                known = ", ".join(sorted(name for name, kind in types.items() if kind in _TYPES)) or "none"
                raise EvaluationError(f"bag {path} has no topic {topic}; topics with boxes: {known}")
            if types[topic] not in _TYPES:
                raise EvaluationError(
                    f"topic {topic} of bag {path} is {types[topic]}; boxes come from {', '.join(_TYPES)}"
                )
        found: dict[str, list[tuple[int, tuple[ExpectedObject, ...]]]] = {topic: [] for topic in topics}
        for connection, recorded_ns, data in reader.messages([c for c in reader.connections if c.topic in found]):
            message = reader.deserialize(data, connection.msgtype)
            stamp_ns = int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)
            boxes = _detections(message) if hasattr(message, "detections") else _caption(message)
            found[connection.topic].append((stamp_ns or recorded_ns, boxes))
    return {topic: _truth(path, topic, messages) for topic, messages in found.items()}


def _truth(path: Path, topic: str, messages: list[tuple[int, tuple[ExpectedObject, ...]]]) -> TruthTopic:
    if not messages:
        raise EvaluationError(f"topic {topic} of bag {path} has no messages")
    stamps, objects = zip(*sorted(messages, key=lambda item: item[0]), strict=True)
    return TruthTopic(topic, stamps, objects)


def _detections(message: Any) -> tuple[ExpectedObject, ...]:
    return tuple(_detection(item) for item in message.detections)


def _detection(item: Any) -> ExpectedObject:
    centre = getattr(item.bbox.center, "position", item.bbox.center)  # before Humble, x and y are in the pose itself
    half_width, half_height = item.bbox.size_x / 2, item.bbox.size_y / 2
    hypotheses = [getattr(result, "hypothesis", result) for result in item.results]
    best = max(hypotheses, key=lambda hypothesis: hypothesis.score, default=None)
    label = "object" if best is None else str(getattr(best, "class_id", None) or getattr(best, "id", "") or "object")
    return _object(label, centre.x - half_width, centre.y - half_height, centre.x + half_width, centre.y + half_height)


def _caption(message: Any) -> tuple[ExpectedObject, ...]:
    return tuple(_object(o.label, o.x_min_px, o.y_min_px, o.x_max_px, o.y_max_px) for o in message.objects)


def _object(label: str, *box: float) -> ExpectedObject:
    """Detectors may point past the image's left and upper edge; expected boxes begin at 0."""
    x1, y1, x2, y2 = (max(0.0, float(side)) for side in box)
    return ExpectedObject(label=label, box=(x1, y1, max(x1, x2), max(y1, y2)))
