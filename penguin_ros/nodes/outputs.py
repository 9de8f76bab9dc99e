"""What the node publishes of its cameras while it is active: captions, detections, pictures, memories."""

from __future__ import annotations

from penguin_vl.msg import GroundedCaption, MemoryState
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage

from penguin_engine.scene.camera_state import CameraState
from penguin_engine.scene.requests import Outcome
from penguin_ros import convert


class Outputs:
    """The publishers of a configured node."""

    def __init__(self, node: LifecycleNode, cameras: int):
        """Creates them.

        Args:
            node: that they belong to; they are silent while it is not active.
            cameras: so many memories are latched.
        """
        self._node = node
        latched = QoSProfile(depth=cameras, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
        self._captions = node.create_lifecycle_publisher(GroundedCaption, "~/captions", 10)
        self._memory = node.create_lifecycle_publisher(MemoryState, "~/memory", latched)
        self._overlay = node.create_lifecycle_publisher(CompressedImage, "~/annotated/compressed", 1)
        self._detections = None
        if convert.Detection2DArray is not None:
            self._detections = node.create_lifecycle_publisher(convert.Detection2DArray, "~/detections", 10)

    def destroy(self) -> None:
        """Withdraws all topics."""
        for publisher in (self._captions, self._memory, self._overlay, self._detections):
            if publisher is not None:
                self._node.destroy_lifecycle_publisher(publisher)

    def memory(self, camera_state: CameraState) -> None:
        """Publishes what a camera's memory holds."""
        self._memory.publish(convert.memory_message(camera_state))

    def caption(self, outcome: Outcome, age_s: float) -> None:
        """Publishes a caption, its detections, and its picture where somebody subscribes to it."""
        caption = convert.caption_message(outcome, age_s)
        self._captions.publish(caption)
        if self._detections is not None:
            self._detections.publish(convert.detections_message(caption))
        if self._overlay.get_subscription_count():
            self._overlay.publish(convert.overlay_message(outcome))
