"""Where a frame was in another one at a time, from the /tf and /tf_static of a bag. Without ROS; needs SciPy."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

from penguin_engine.scene.episode import Pose
from penguin_models.errors import MediaError
from penguin_ros.bag_storage.bag import Bag, BagMessage
from penguin_ros.bag_storage.messages import READABLE_ENCODINGS, Connection
from penguin_ros.recording import listed

_TYPES = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage")
_LEAST_NS = 5_000_000  # between two samples of a frame; more would only take memory
_MAX_DEPTH = 100


@dataclass
class _Track:
    """The motion of a frame relative to its parent; samples are sorted at the first look-up."""

    parents: list[str] = field(default_factory=list)
    stamps_ns: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))  # x, y, z, qx, qy, qz, qw of each sample
    is_static: bool = False
    order: Any = None  # int64 [samples]

    def add(self, parent: str, stamp_ns: int, values: Iterable[float]) -> None:
        if self.stamps_ns and parent == self.parents[-1] and 0 <= stamp_ns - self.stamps_ns[-1] < _LEAST_NS:
            return
        self.parents.append(sys.intern(parent))
        self.stamps_ns.append(stamp_ns)
        self.values.extend(values)

    def at(self, stamp_ns: int) -> tuple[str, NDArray[np.float64], Rotation] | None:
        """Returns parent, position and rotation at a time; None before the first and after the last sample."""
        values = np.frombuffer(self.values).reshape(-1, 7)
        if self.is_static:
            return self.parents[-1], values[-1, :3], Rotation.from_quat(values[-1, 3:])
        stamps = np.frombuffer(self.stamps_ns, np.int64)
        if self.order is None:
            self.order = np.argsort(stamps, kind="stable")
        after = int(np.searchsorted(stamps, stamp_ns, sorter=self.order))
        if after == len(stamps) or (after == 0 and stamps[self.order[0]] != stamp_ns):
            return None
        second = self.order[after]
        first = self.order[after - 1] if stamps[second] != stamp_ns else second
        parent, step_ns = self.parents[first], int(stamps[second] - stamps[first])
        if step_ns == 0 or self.parents[second] != parent:
            return parent, values[first, :3], Rotation.from_quat(values[first, 3:])
        share = (stamp_ns - int(stamps[first])) / step_ns
        position = values[first, :3] + share * (values[second, :3] - values[first, :3])
        return parent, position, Slerp((0, 1), Rotation.from_quat(values[[first, second], 3:]))(share)


class Transforms:
    """The transforms of a bag.

    Attributes:
        notes: Sentences about what is unusual.
    """

    def __init__(self, bag: Bag):
        """Reads the topics /tf and /tf_static, or those of the only namespace that has them."""
        self.notes: list[str] = []
        self._tracks: dict[str, _Track] = {}
        bad, first = 0, ""
        for message in bag.messages(self._connections(bag)):
            try:
                self._add(message)
            except MediaError as err:
                bad, first = bad + 1, first or str(err)
        if bad:
            self.notes.append(f"{bad} messages with transforms cannot be read; the first: {first}")

    def __bool__(self) -> bool:
        return bool(self._tracks)

    def _connections(self, bag: Bag) -> list[Connection]:
        found: dict[str, list[Connection]] = {}  # by namespace
        for connection in bag.connections:
            namespace, _, name = connection.topic.rpartition("/")
            is_readable = connection.msgtype in _TYPES and connection.encoding in READABLE_ENCODINGS
            if is_readable and name in ("tf", "tf_static"):
                found.setdefault(namespace, []).append(connection)
        if len(found) > 1 and "" not in found:
            self.notes.append(f"transforms of {listed(sorted(found))} are not used, because their frames may be equal")
            return []
        return found.get("", next(iter(found.values()), []))

    def _add(self, message: BagMessage) -> None:
        is_static = message.connection.topic.endswith("tf_static")
        try:
            samples = [_sample(item) for item in message.deserialize().transforms]
        except (AttributeError, TypeError) as err:
            raise MediaError(f"the message has other fields than its type: {err}") from err
        for parent, child, stamp_ns, values in samples:
            if not np.isfinite(values).all() or not any(values[3:]):
                raise MediaError(f"the transform from {parent} to {child} is {values}")
            track = self._tracks.setdefault(child, _Track())
            track.is_static = track.is_static or is_static
            if track.is_static == is_static:
                track.add(parent, stamp_ns, values)

    def pose(self, frame_id: str, fixed_frame: str, stamp_ns: int) -> Pose:
        """Returns where a frame was; raises MediaError if that is unknown."""
        frame_id, fixed_frame = frame_id.lstrip("/"), fixed_frame.lstrip("/")
        known = {*self._tracks, *(parent for track in self._tracks.values() for parent in track.parents[-1:])}
        for name in (frame_id, fixed_frame):
            if name not in known:
                raise MediaError(f"there is no transform of frame {name!r}; frames: {listed(sorted(known))}")
        ours, others = dict(self._ancestors(frame_id, stamp_ns)), dict(self._ancestors(fixed_frame, stamp_ns))
        common = next((name for name in ours if name in others), None)
        if common is None:
            raise MediaError(f"nothing connects {frame_id} with {fixed_frame} at {stamp_ns} ns")
        (position, rotation), (origin, turn) = ours[common], others[common]
        x, y, z = turn.inv().apply(position - origin).tolist()
        return Pose(fixed_frame, (x, y, z), tuple((turn.inv() * rotation).as_quat().tolist()))

    def _ancestors(self, frame_id: str, stamp_ns: int) -> Iterator[tuple[str, tuple[NDArray[np.float64], Rotation]]]:
        """Yields a frame and the frames above it, with where it is in each."""
        position, rotation = np.zeros(3), Rotation.identity()
        for _ in range(_MAX_DEPTH):  # transforms may form a circle
            yield frame_id, (position, rotation)
            found = self._tracks[frame_id].at(stamp_ns) if frame_id in self._tracks else None
            if found is None:
                return
            frame_id, shift, turn = found
            position, rotation = shift + turn.apply(position), turn * rotation


def _sample(item: Any) -> tuple[str, str, int, tuple[float, ...]]:
    """Returns parent, child, stamp and values of a TransformStamped."""
    stamp, shift, turn = item.header.stamp, item.transform.translation, item.transform.rotation
    values = (shift.x, shift.y, shift.z, turn.x, turn.y, turn.z, turn.w)
    parent, child = (name.lstrip("/") for name in (item.header.frame_id, item.child_frame_id))
    return parent, child, stamp.sec * 10**9 + stamp.nanosec, values
