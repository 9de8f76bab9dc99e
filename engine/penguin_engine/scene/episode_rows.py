"""An episode as a row of a table, the same in every database: columns, and conversion in both directions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from penguin_engine.scene.episode import Episode, Pose
from penguin_engine.scene.episode_words import storable
from penguin_models.grounding import Box, GroundedObject

LABEL_SEPARATOR = "|"
"""Stands between the labels of a row, so that no phrase spans two of them."""
POSE_COLUMNS = ("x", "y", "z", "qx", "qy", "qz", "qw")
COLUMNS = ("camera", "stamp_ns", "frame_id", "caption", "labels", "objects", "pose_frame", *POSE_COLUMNS)


def to_row(episode: Episode) -> tuple[str | int | float | None, ...]:
    """Returns the values of COLUMNS."""
    labels = f" {LABEL_SEPARATOR} ".join(item.label.replace(LABEL_SEPARATOR, " ") for item in episode.objects)
    objects = [[item.label, item.box.x1, item.box.y1, item.box.x2, item.box.y2] for item in episode.objects]
    pose = episode.pose
    place = (storable(pose.frame_id), *pose.position, *pose.orientation) if pose else (None,) * 8
    texts = (episode.frame_id, episode.caption, labels, json.dumps(objects, separators=(",", ":")))
    return (storable(episode.camera), episode.stamp_ns, *map(storable, texts), *place)


def from_row(number: int, row: Sequence[Any], jpeg: bytes | None, robot: str = "") -> Episode:
    """Returns the episode with an id; `row` holds the values of COLUMNS."""
    camera, stamp_ns, frame_id, caption, _, objects, pose_frame, x, y, z, qx, qy, qz, qw = row
    items = tuple(GroundedObject(label, Box(*box)) for label, *box in json.loads(objects))
    pose = None if pose_frame is None else Pose(pose_frame, (x, y, z), (qx, qy, qz, qw))
    return Episode(camera, stamp_ns, frame_id, caption, items, pose, jpeg or b"", number, robot)
