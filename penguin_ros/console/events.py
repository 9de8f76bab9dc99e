"""Messages of a node as plain values for the page. Stamps are texts: JavaScript's numbers cannot hold nanoseconds."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from penguin_vl.msg import Alert, Answer, GroundedCaption, GroundedObject, MemoryState

from penguin_ros.console.hub import Event
from penguin_ros.convert import stamp_to_ns
from penguin_ros.overlay import label_colour
from penguin_ros.tools.node_client import answer_dict

_MAX_CHARS = 4096
_MAX_VALUES = 64
_LEVELS = {DiagnosticStatus.OK: "ok", DiagnosticStatus.WARN: "warn", DiagnosticStatus.ERROR: "error"}


def caption_event(message: GroundedCaption) -> Event:
    """Returns a caption."""
    return finite(
        {
            "kind": "caption",
            "at": time.time(),
            "camera": message.camera,
            "stamp": _stamp(message.header.stamp),
            "size": [message.image_width_px, message.image_height_px],
            "text": message.text[:_MAX_CHARS],
            "objects": _objects(message.objects),
            "keyframe": message.keyframe,
            "tokens": {"visual": message.visual_tokens, "generated": message.generated_tokens},
            "seconds": {"first_token": message.first_token_s, "total": message.total_s},
            "age_s": message.frame_age_s,
        }
    )


def answer_event(question: str, message: Answer) -> Event:
    """Returns an answer or the reason why there is none."""
    objects = [{**item, "colour": _colour(item["label"])} for item in answer_dict(message)["objects"]]
    values = answer_dict(message) | {"objects": objects, "stamp": _stamp(message.header.stamp)}
    return finite(
        {
            "kind": "answer",
            "at": time.time(),
            "question": question,
            "error": message.error_msg if message.error_code != Answer.ERROR_NONE else "",
            **values,
        }
    )


def memory_event(message: MemoryState, seen: Collection[int]) -> Event:
    """Returns the memory of a camera; `seen` are the stamps in nanoseconds of which the console has a thumbnail."""
    frames = [
        {
            "stamp": _stamp(frame.stamp),
            "kind": "key" if frame.kind == frame.KEY else "intermediate",
            "size": [frame.width_px, frame.height_px],
            "tokens": frame.tokens,
            "seen": stamp_to_ns(frame.stamp) in seen,
        }
        for frame in message.frames
    ]
    counters = ("received", "late", "evicted", "resized")
    return finite(
        {
            "kind": "memory",
            "camera": message.camera,
            "frames": frames,
            "tokens": message.tokens,
            "budget": message.token_budget,
            "pace": message.pace[:_MAX_CHARS],
            "period_s": message.frame_period_s,
            "counts": {name: getattr(message, f"frames_{name}") for name in counters}
            | {"keyframes": message.keyframes, "compactions": message.compactions},
        }
    )


def tokens_event(message: MemoryState) -> Event:
    """Returns a point of the plot of tokens."""
    return {"kind": "tokens", "at": time.time(), "camera": message.camera, "tokens": message.tokens}


def alert_values(message: Alert) -> Event:
    """Returns an alert without its picture."""
    return finite(
        {
            "camera": message.camera,
            "stamp": _stamp(message.header.stamp),
            "condition": message.condition[:_MAX_CHARS],
            "probability": message.probability,
            "held_s": message.held_s,
        }
    )


def status_event(statuses: Iterable[DiagnosticStatus]) -> Event:
    """Returns diagnostics."""
    return {
        "kind": "status",
        "statuses": [
            {
                "name": status.name[:_MAX_CHARS],
                "level": _LEVELS.get(status.level, "stale"),
                "message": status.message[:_MAX_CHARS],
                "values": [[item.key[:_MAX_CHARS], item.value[:_MAX_CHARS]] for item in status.values[:_MAX_VALUES]],
            }
            for status in statuses
        ],
    }


def finite(event: Event) -> Event:
    """Returns a copy for JSON, which has no NaN or infinity: null takes their place."""
    return {key: _finite(value) for key, value in event.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _objects(items: Iterable[GroundedObject]) -> list[dict[str, Any]]:
    return [
        {
            "label": item.label,
            "box_px": [item.x_min_px, item.y_min_px, item.x_max_px, item.y_max_px],
            "score": item.score,
            "colour": _colour(item.label),
            "position": _position(item),
        }
        for item in items
    ]


def _position(item: GroundedObject) -> str:
    place = item.position
    return f"({place.x:.2f}, {place.y:.2f}, {place.z:.2f}) m in {item.position_frame_id}" * bool(item.position_frame_id)


def _colour(label: str) -> str:
    return "#{:02x}{:02x}{:02x}".format(*label_colour(label))


def _stamp(stamp: Any) -> str:
    return str(stamp_to_ns(stamp))
