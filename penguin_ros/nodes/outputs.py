"""What a configured node publishes: the worker's listener, which turns its events into messages and log lines."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from penguin_vl.msg import GroundedCaption, MemoryState
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage

from penguin_engine.scene.camera_state import CameraState
from penguin_engine.scene.requests import Outcome
from penguin_ros import convert
from penguin_ros.nodes.latencies import Latencies

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

    def __init__(self, node: LifecycleNode, cameras: Sequence[str]):
        """Creates the publishers, which are silent until the node is active.

        Args:
            node: The node they belong to.
            cameras: Full names of the image topics; each has a latched memory topic of its own.
        """
        self.answers, self.captions = Latencies(), Latencies()
        self.errors, self.last_error = 0, ""
        self._node = node
        self._publishers: list[LifecyclePublisher] = []
        self._captions = self._advertise(GroundedCaption, "~/captions", 10)
        self._memory = {name: self._advertise(MemoryState, f"~/memory{name}", _LATCHED) for name in cameras}
        self._overlay = self._advertise(CompressedImage, "~/annotated/compressed", 1)
        self._detections = None
        if convert.DETECTIONS is not None:
            self._detections = self._advertise(convert.DETECTIONS, "~/detections", 10)

    def destroy(self) -> None:
        """Withdraws all topics."""
        for publisher in self._publishers:
            self._node.destroy_lifecycle_publisher(publisher)

    def on_memory(self, camera_state: CameraState) -> None:
        """Publishes the state of a camera's memory."""
        self._memory[camera_state.camera].publish(convert.memory_message(camera_state))

    def on_bad_frame(self, camera_state: CameraState) -> None:
        """Logs a warning, at most one per second."""
        text = f"an image of {camera_state.camera} cannot be read: {camera_state.last_error}"
        self._node.get_logger().warning(text, throttle_duration_sec=1.0)

    def on_caption(self, outcome: Outcome) -> None:
        """Publishes a caption, its detections, and its overlay if somebody subscribes to it."""
        self.captions.add(outcome.answer)
        age_s = (self._node.get_clock().now().nanoseconds - outcome.frame.stamp_ns) * 1e-9
        caption = convert.caption_message(outcome, age_s)
        self._captions.publish(caption)
        if self._detections is not None:
            self._detections.publish(convert.detections_message(caption))
        if self._overlay.get_subscription_count():
            self._overlay.publish(convert.overlay_message(outcome))

    def on_answer(self, outcome: Outcome) -> None:
        """Counts a complete answer."""
        if outcome.answer.ended_by != "cancelled":
            self.answers.add(outcome.answer)

    def on_failure(self, doing: str, error: Exception) -> None:
        """Counts and logs an error that no question reports."""
        self.errors += 1
        self.last_error = f"{doing}: {type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
        self._node.get_logger().error(f"{self.last_error}\n{trace}", throttle_duration_sec=1.0)

    def _advertise(self, message: type, topic: str, qos: QoSProfile | int) -> LifecyclePublisher:
        publisher = self._node.create_lifecycle_publisher(message, topic, qos)
        self._publishers.append(publisher)
        return publisher
