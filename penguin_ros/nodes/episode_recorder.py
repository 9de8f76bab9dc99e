"""EpisodeRecorder: what a node keeps for days. Keyframes when they arrive, and captions with their objects."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from rclpy.node import Node

from penguin_engine.scene.episode import Episode
from penguin_engine.scene.episodes import EpisodeStore, open_episodes
from penguin_engine.scene.requests import Outcome
from penguin_models.errors import SettingError
from penguin_models.quoting import shortened
from penguin_models.types import Frame, UInt8Array
from penguin_ros.nodes.camera_poses import CameraPoses
from penguin_ros.settings import NodeSettings

_DAY_S = 86_400.0
_BURST_S = 7_200.0
"""What this time leaves of the daily rate may be written at once."""
_TYPICAL_BYTES = 20_000
"""Size of an episode with a picture, before any has been written."""
_POSE_S = 0.5
"""An episode waits this long for its pose: TF of a stamp arrives after the image."""
_MAX_WAITING = 16
"""Most episodes that wait for their pose."""


class Rate:
    """A token bucket over the bytes that a store has written."""

    def __init__(self, store: EpisodeStore, bytes_per_day: float, clock: Callable[[], float] = monotonic):
        self._store, self._rate, self._clock = store, bytes_per_day / _DAY_S, clock
        self._credit, self._at_s, self._spent = self._rate * _BURST_S, clock(), 0.0

    @property
    def allows(self) -> bool:
        """Whether another picture may be written."""
        now_s, status = self._clock(), self._store.status
        typical = status.bytes / status.written if status.written else _TYPICAL_BYTES
        spent = status.bytes + status.waiting * typical
        self._credit = min(self._rate * _BURST_S, self._credit + self._rate * (now_s - self._at_s))
        self._credit -= spent - self._spent
        self._at_s, self._spent = now_s, spent
        return self._credit > 0


def open_store(settings: NodeSettings) -> EpisodeStore | None:
    """Opens the store that the parameters name; returns None if they name none.

    Raises:
        EpisodeError, WriteError: The store cannot be opened, or another process writes it.
    """
    location = settings["episodes.path"]
    if not location:
        return None
    return open_episodes(location if "://" in location else Path(location).expanduser(), settings.quota)


class EpisodeRecorder:
    """Fills a store. `keyframe` and `caption` are called by the worker and never wait; the rest by the executor.

    Attributes:
        store: The store, to be read by any thread.
        skipped: Number of keyframes that were not kept, because they exceeded the daily rate.
        without_pose: Number of episodes for which TF had no pose.
    """

    def __init__(self, node: Node, store: EpisodeStore, poses: CameraPoses | None, rate: Rate):
        self.store = store
        self.skipped = self.without_pose = 0
        self._node, self._poses, self._rate = node, poses, rate
        self._waiting: deque[tuple[float, Episode, UInt8Array | None]] = deque()
        self._pictured: deque[tuple[str, int]] = deque(maxlen=64)  # camera and stamp of the newest with a picture

    @classmethod
    def open(cls, node: Node, store: EpisodeStore, settings: NodeSettings) -> EpisodeRecorder:
        """Returns a recorder with the rate and the poses that the parameters name."""
        poses = None
        if settings["episodes.fixed_frame"]:
            try:
                poses = CameraPoses(node, settings["episodes.fixed_frame"])
            except SettingError as err:
                node.get_logger().info(f"episodes are kept without the pose of the camera: {err}")
        return cls(node, store, poses, Rate(store, settings["episodes.mb_per_day"] * 1e6))

    def keyframe(self, frame: Frame) -> None:
        """Keeps a keyframe, unless the daily rate is exceeded."""
        if self._rate.allows:
            self._pictured.append((frame.camera, frame.stamp_ns))
            self._add(Episode(frame.camera, frame.stamp_ns, _frame_id(frame.header)), frame.rgb)
        else:
            self.skipped += 1

    def caption(self, outcome: Outcome) -> None:
        """Keeps a caption and its objects; they complete the episode of their frame."""
        frame, grounding = outcome.frame, outcome.answer.grounding
        key, rgb = (outcome.camera, frame.stamp_ns), None
        if key not in self._pictured and self._rate.allows:
            self._pictured.append(key)
            rgb = outcome.pixels
        self._add(Episode(*key, _frame_id(frame.header), grounding.text, grounding.objects), rgb)

    def settle(self, wait_s: float = _POSE_S) -> None:
        """Adds the pose to what waits for it; what has waited for `wait_s` goes without."""
        while self._waiting and self._poses is not None:
            arrived_s, episode, rgb = self._waiting[0]
            pose = self._poses.at(episode.frame_id, episode.stamp_ns)
            if pose is None and monotonic() - arrived_s < wait_s:
                return
            self._waiting.popleft()
            if pose is None:
                self.without_pose += 1
                text = f"an episode of {episode.camera} has no pose: {shortened(self._poses.reason)}"
                self._node.get_logger().warning(text, once=True)
            self.store.add(replace(episode, pose=pose), rgb)

    def close(self) -> None:
        """Passes on what waits for a pose; the store is closed by its owner."""
        self.settle(0.0)
        if self._poses is not None:
            self._poses.close()

    def values(self) -> dict[str, Any]:
        """Returns the state of the store by name, for diagnostics."""
        status = self.store.status
        return {
            "store": self.store.name,
            "episodes written": status.written,
            "episodes waiting": status.waiting + len(self._waiting),
            "episodes lost": status.lost,
            "keyframes skipped by episodes.mb_per_day": self.skipped,
            "episodes without a pose": self.without_pose,
            "written [bytes]": status.bytes,
            "problem": status.problem,
        }

    def _add(self, episode: Episode, rgb: UInt8Array | None) -> None:
        if self._poses is not None and episode.frame_id and len(self._waiting) < _MAX_WAITING:
            self._waiting.append((monotonic(), episode, rgb))
        else:
            self.without_pose += 1
            self.store.add(episode, rgb)


def _frame_id(header: Any) -> str:
    return header.frame_id if header is not None else ""
