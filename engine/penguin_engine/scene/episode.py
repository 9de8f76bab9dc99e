"""Episodes: what a camera saw at one moment, small enough to be kept for days. Knows no storage."""

from __future__ import annotations

import math
import time
from dataclasses import astuple, dataclass, replace
from typing import Any

from penguin_models.errors import SettingError
from penguin_models.grounding import GroundedObject

MAX_SIDE = 448
"""Longer side of an episode's picture in pixels."""
_MIN_BYTES = 4_000_000
_FIRST_NS = -(2**63)


@dataclass(frozen=True)
class Pose:
    """Pose of a camera in a fixed frame, such as map."""

    frame_id: str
    position: tuple[float, float, float]  # x, y, z in metres
    orientation: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)  # unit quaternion x, y, z, w

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (*self.position, *self.orientation))):
            raise SettingError(f"pose {self.position}, {self.orientation} must be finite")


@dataclass(frozen=True)
class Episode:
    """What a camera saw at one moment."""

    camera: str  # name of the camera; on a robot, its image topic
    stamp_ns: int  # stamp of capture in nanoseconds
    frame_id: str = ""  # frame of the camera
    caption: str = ""
    objects: tuple[GroundedObject, ...] = ()
    pose: Pose | None = None
    jpeg: bytes = b""  # picture of at most 448 pixels on the longer side; empty if there is none
    id: int = 0  # number that the store gave it; 0 before
    robot: str = ""  # who saw it, in a database of several robots; given by the store, empty in a file

    def merged(self, later: Episode) -> Episode:
        """Returns this episode with what a later one of the same camera and stamp adds or replaces."""
        fields = ("frame_id", "caption", "objects", "pose", "jpeg")
        return replace(self, **{name: value for name in fields if (value := getattr(later, name))})

    def to_dict(self) -> dict[str, Any]:
        """Returns plain types for JSON, without the picture; boxes are in thousandths of the image's sides."""
        pose = self.pose
        return {
            "id": self.id,
            "robot": self.robot,
            "camera": self.camera,
            "stamp_ns": self.stamp_ns,
            "frame_id": self.frame_id,
            "caption": self.caption,
            "objects": [{"label": item.label, "box": list(astuple(item.box))} for item in self.objects],
            "pose": pose and {"frame_id": pose.frame_id, "position": pose.position, "orientation": pose.orientation},
            "jpeg_bytes": len(self.jpeg),
        }


@dataclass(frozen=True)
class Evidence:
    """An episode that an answer is based on."""

    episode: Episode
    probability: float  # that it helps to answer, as the model judged it; NaN if there was no time to judge it


@dataclass(frozen=True)
class Place:
    """A ball in a fixed frame."""

    frame_id: str
    position: tuple[float, float, float]  # x, y, z in metres
    radius_m: float

    def __post_init__(self) -> None:
        if not (all(map(math.isfinite, self.position)) and self.radius_m >= 0):
            raise SettingError(f"place {self.position} with radius {self.radius_m} must be finite and not negative")


@dataclass(frozen=True)
class EpisodeFilter:
    """Conditions that an episode has to meet, all of them; empty ones are met by every episode."""

    cameras: tuple[str, ...] = ()  # any of these
    since_ns: int | None = None  # stamp of the first moment
    until_ns: int | None = None  # stamp of the last moment, included
    objects: tuple[str, ...] = ()  # each is a label, or consecutive words of one
    near: Place | None = None


@dataclass(frozen=True)
class Quota:
    """What a store holds at most; the oldest episodes leave first."""

    max_bytes: int = 1_000_000_000  # size on the disk, at least 4 MB
    max_age_s: float = 30 * 86_400.0  # age relative to the newest episode

    def __post_init__(self) -> None:
        if self.max_bytes < _MIN_BYTES:
            raise SettingError(f"a quota of {self.max_bytes} bytes is too small for episodes: at least {_MIN_BYTES}")
        if not self.max_age_s > 0:
            raise SettingError(f"a quota of {self.max_age_s} s holds no episodes; it must be above 0")

    def oldest_ns(self, newest_ns: int | None) -> int:
        """Returns the oldest stamp to keep, relative to the newest one that is stored unless that is in the future."""
        if newest_ns is None or math.isinf(self.max_age_s):
            return _FIRST_NS
        return max(_FIRST_NS, min(newest_ns, time.time_ns()) - round(self.max_age_s * 1e9))
