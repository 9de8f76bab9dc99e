"""What a configured node publishes: the worker's listener, which turns its events into messages and log lines."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from penguin_vl.msg import GroundedCaption, MemoryState
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage

from penguin_engine.scene.answer import Answer
from penguin_engine.scene.camera_state import CameraState
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.requests import Outcome
from penguin_models.errors import PenguinError, RemoteServerError
from penguin_models.types import Frame
from penguin_ros import convert
from penguin_ros.nodes.annotations import ANNOTATIONS, annotations_message
from penguin_ros.nodes.episode_recorder import EpisodeRecorder
from penguin_ros.nodes.outputs_3d import Outputs3d

_LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


class Outputs:
    """The publishers of a configured node, and what its worker reported. A `Listener` of the worker.

    Every `on_` method is called from the worker's thread.

    Attributes:
        answers: Latencies of complete answers.
        captions: Latencies of captions.
        errors: Number of unexpected errors.
        last_error: The last of them.
    """

    def __init__(
        self,
        node: LifecycleNode,
        cameras: Sequence[str],
        age_s: Callable[[str, int], float],
        pace: Pace | None,
        episodes: EpisodeRecorder | None = None,
        has_depth: bool = False,
    ):
        """Creates the publishers, silent until the node is active; each camera has a latched memory topic.

        Args:
            node: The node.
            cameras: Names of the cameras.
            age_s: Returns the age in seconds of a camera's frame with a stamp in nanoseconds.
            pace: The worker's pace.
            episodes: Keeps keyframes and captions; None if nothing does.
            has_depth: Whether objects may have positions.
        """
        self.answers, self.captions = Latencies(), Latencies()
        self.errors, self.last_error = 0, ""
        self._node, self._age_s, self._pace, self._episodes = node, age_s, pace, episodes
        self._publishers: list[LifecyclePublisher] = []
        self._captions = self._advertise(GroundedCaption, "~/captions", 10)
        self._memory = {name: self._advertise(MemoryState, f"~/memory{name}", _LATCHED) for name in cameras}
        self._overlay = self._advertise(CompressedImage, "~/annotated/compressed", 1)
        self._detections = None
        if convert.DETECTIONS is not None:
            self._detections = self._advertise(convert.DETECTIONS, "~/detections", 10)
        self._annotations = {}
        if ANNOTATIONS is not None:
            topics = {name: f"~/annotations{name if len(cameras) > 1 else ''}" for name in cameras}
            self._annotations = {name: self._advertise(ANNOTATIONS, topic, 10) for name, topic in topics.items()}
        self._outputs_3d = Outputs3d(self._advertise) if has_depth else None

    def destroy(self) -> None:
        """Withdraws all topics."""
        for publisher in self._publishers:
            self._node.destroy_lifecycle_publisher(publisher)

    def on_memory(self, camera_state: CameraState) -> None:
        """Publishes the state of a camera's memory."""
        self._memory[camera_state.camera].publish(convert.memory_message(camera_state, self._pace))

    def on_keyframe(self, frame: Frame) -> None:
        """Keeps a keyframe."""
        if self._episodes is not None:
            self._episodes.keyframe(frame)

    def on_bad_frame(self, camera_state: CameraState) -> None:
        """Logs a warning, at most one per second."""
        text = f"an image of {camera_state.camera} cannot be read: {camera_state.last_error}"
        self._node.get_logger().warning(text, throttle_duration_sec=1.0)

    def on_pace(self, pace: Pace) -> None:
        """Logs how frames are taken from now on."""
        text = pace.reason or "frames are taken at full size and at the sampling rate"
        self._node.get_logger().info(text, throttle_duration_sec=10.0)

    def on_caption(self, outcome: Outcome) -> None:
        """Keeps and publishes a caption, its detections and annotations, and its overlay if somebody subscribes."""
        self.captions.add(outcome.answer)
        if self._episodes is not None:
            self._episodes.caption(outcome)
        caption = convert.caption_message(outcome, self._age_s(outcome.camera, outcome.frame.stamp_ns))
        self._captions.publish(caption)
        if self._detections is not None:
            self._detections.publish(convert.detections_message(caption))
        if outcome.camera in self._annotations:
            self._annotations[outcome.camera].publish(annotations_message(caption))
        if self._outputs_3d is not None:
            self._outputs_3d.publish(caption, outcome)
        if self._overlay.get_subscription_count():
            self._overlay.publish(convert.overlay_message(outcome))

    def on_answer(self, outcome: Outcome) -> None:
        """Counts a complete answer."""
        if outcome.answer.ended_by != "cancelled":
            self.answers.add(outcome.answer)

    def on_failure(self, doing: str, error: Exception) -> None:
        """Counts and logs an error that no question reports; those of a remote server are counted elsewhere."""
        if isinstance(error, RemoteServerError):
            self._node.get_logger().warning(f"{doing}: {error}", throttle_duration_sec=1.0)
            return
        self.errors += 1
        self.last_error = f"{doing}: {describe(error)}"
        self._node.get_logger().error(f"{self.last_error}{trace_of(error)}", throttle_duration_sec=1.0)

    def _advertise(self, message: type, topic: str, qos: QoSProfile | int) -> LifecyclePublisher:
        publisher = self._node.create_lifecycle_publisher(message, topic, qos)
        self._publishers.append(publisher)
        return publisher


def describe(error: Exception) -> str:
    """Returns the message of one of the package's errors, and for others their type as well."""
    return str(error) if isinstance(error, PenguinError) else f"{type(error).__name__}: {error}"


def trace_of(error: Exception) -> str:
    """Returns the traceback of an error that the package does not raise itself, for the log."""
    return "" if isinstance(error, PenguinError) else "\n" + "".join(traceback.format_exception(error))


class Latencies:
    """Latencies of the last hundred answers; `count` is the number of answers since the start."""

    def __init__(self) -> None:
        self.count = 0
        self._first_token_s: deque[float] = deque(maxlen=100)
        self._total_s: deque[float] = deque(maxlen=100)

    def add(self, answer: Answer) -> None:
        """Adds an answer."""
        self.count += 1
        self._first_token_s.append(answer.first_token_s)
        self._total_s.append(answer.total_s)

    def percentiles(self) -> dict[str, float]:
        """Returns the 50th and 95th percentiles in seconds; empty before the first answer."""
        return {
            f"{name} p{share} [s]": float(np.percentile([*times], share))
            for name, times in (("first token", self._first_token_s), ("total", self._total_s))
            for share in (50, 95)
            if times
        }

    @property
    def first_token_p95_s(self) -> float:
        """The 95th percentile of the seconds to the first token; 0 before the first answer."""
        return self.percentiles().get("first token p95 [s]", 0.0)
