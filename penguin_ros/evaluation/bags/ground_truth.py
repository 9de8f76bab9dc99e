"""Reads expected boxes from topics of a bag: detections, or captions of a better model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from penguin_models.errors import EvaluationError, MediaError
from penguin_ros.bag_storage.bag import open_bag
from penguin_ros.bag_storage.messages import READABLE_ENCODINGS
from penguin_ros.evaluation.question_file import ExpectedObject, describe
from penguin_ros.recording import header_stamp_ns, listed

MAX_DISTANCE_S = 0.5
"""Maximum time between an image and the message with its boxes."""
_TYPES = ("vision_msgs/msg/Detection2DArray", "penguin_vl/msg/GroundedCaption")


@dataclass(frozen=True)
class TruthTopic:
    """The expected boxes of one topic over time."""

    topic: str
    stamps_ns: tuple[int, ...]  # stamps of its messages, in order
    objects: tuple[tuple[ExpectedObject, ...], ...]  # objects of each message, with boxes in pixels
    notes: tuple[str, ...] = ()  # a sentence about messages that were left out because they are damaged

    def at(self, stamp_ns: int) -> tuple[ExpectedObject, ...]:
        """Returns the objects of the message closest to an image; raises EvaluationError if none is within 0.5 s."""
        distances_ns = np.abs(np.array(self.stamps_ns) - stamp_ns)
        closest = int(np.argmin(distances_ns))
        if distances_ns[closest] > MAX_DISTANCE_S * 1e9:
            raise EvaluationError(
                f"{self.topic} has no message within {MAX_DISTANCE_S} s of the image with stamp {stamp_ns}; "
                f"the closest is {distances_ns[closest] * 1e-9:.2f} s away"
            )
        return self.objects[closest]


def read_truth(path: Path, topic: str) -> TruthTopic:
    """Reads the expected boxes of a topic; messages that are damaged are left out.

    Raises EvaluationError if the topic is missing or has another type, or no message is left.
    """
    with open_bag(path) as bag:
        types = {c.topic: c.msgtype for c in bag.connections if c.encoding in READABLE_ENCODINGS}
        if topic not in types:
            available = listed(sorted(name for name, kind in types.items() if kind in _TYPES))
            raise EvaluationError(f"bag {path} has no topic {topic}; topics with boxes: {available}")
        if types[topic] not in _TYPES:
            raise EvaluationError(
                f"topic {topic} of bag {path} is {types[topic]}; boxes are read from {' or '.join(_TYPES)}"
            )
        messages, bad = [], []
        for recorded in bag.messages([c for c in bag.connections if c.topic == topic and c.msgtype in _TYPES]):
            try:
                messages.append((header_stamp_ns(recorded) or recorded.log_ns, _boxes(recorded.deserialize())))
            except MediaError as err:
                bad.append(str(err))
    if not messages:
        fault = f"no message that can be read; the first: {bad[0]}" if bad else "no messages"
        raise EvaluationError(f"topic {topic} of bag {path} has {fault}")
    stamps_ns, objects = zip(*sorted(messages, key=lambda item: item[0]), strict=True)
    total = len(messages) + len(bad)
    notes = [f"{topic}: {len(bad)} of {total} messages cannot be read; the first: {reason}" for reason in bad[:1]]
    return TruthTopic(topic, stamps_ns, objects, tuple(notes))


def _boxes(message: Any) -> tuple[ExpectedObject, ...]:
    """Returns the objects of a message, whose fields a bag may define otherwise; raises MediaError if they are bad."""
    try:
        items = map(_detection, message.detections) if hasattr(message, "detections") else _caption(message)
        return tuple(items)
    except ValidationError as err:
        raise MediaError(f"a box or label of the message is not valid: {describe(err)}") from err
    except (AttributeError, TypeError, ValueError) as err:
        raise MediaError(f"the message has other fields than its type: {err}") from err


def _detection(item: Any) -> ExpectedObject:
    centre = getattr(item.bbox.center, "position", item.bbox.center)  # before Humble, Pose2D has x and y itself
    half_width, half_height = item.bbox.size_x / 2, item.bbox.size_y / 2
    hypotheses = [getattr(result, "hypothesis", result) for result in item.results]
    best = max(hypotheses, key=lambda hypothesis: hypothesis.score, default=None)
    label = str(getattr(best, "class_id", None) or getattr(best, "id", None) or "object")
    return _object(label, centre.x - half_width, centre.y - half_height, centre.x + half_width, centre.y + half_height)


def _caption(message: Any) -> Iterator[ExpectedObject]:
    return (_object(o.label, o.x_min_px, o.y_min_px, o.x_max_px, o.y_max_px) for o in message.objects)


def _object(label: str, *box: float) -> ExpectedObject:
    """Clips the box at the image's left and upper edge, because detectors may exceed it."""
    x1, y1, x2, y2 = (max(0.0, float(side)) for side in box)
    return ExpectedObject(label=label, box=(x1, y1, max(x1, x2), max(y1, y2)))
