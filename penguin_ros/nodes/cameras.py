"""Image subscriptions: each hands the newest message over and returns; the worker converts it when it has time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic

from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from penguin_engine.scene.mailbox import LoadFrame
from penguin_models.types import Frame
from penguin_ros.convert import image_to_rgb, stamp_to_ns

_RATE_WINDOW_S = 5.0


class Camera:
    """The subscription of one image topic.

    Attributes:
        name: full name of the topic.
        unstamped: images without a stamp; they got the time of their arrival.
        arrived_s: when the newest image arrived, on the monotonic clock; None before the first.
    """

    def __init__(self, node: Node, topic: str, reliability: str, offer: Callable[[str, int, LoadFrame], None]):
        """Subscribes.

        Args:
            node: that the subscription belongs to.
            topic: as in the parameter; compressed if it ends in /compressed, here or after remapping.
            reliability: "best_effort" or "reliable".
            offer: takes name, stamp and a function that converts the image.
        """
        self.name = node.resolve_topic_name(topic)
        self.unstamped = 0
        self.arrived_s: float | None = None
        self._arrivals: deque[float] = deque(maxlen=1024)
        self._node, self._offer = node, offer
        qos = QoSProfile(depth=1, reliability=QoSReliabilityPolicy[reliability.upper()])
        # A remapping may give either name.
        compressed = any(name.endswith("/compressed") for name in (topic, self.name))
        message = CompressedImage if compressed else Image
        self._subscription = node.create_subscription(message, topic, self._on_image, qos)

    def rate_hz(self) -> float:
        """Images that arrived in the last five seconds, a second."""
        oldest = monotonic() - _RATE_WINDOW_S
        while self._arrivals and self._arrivals[0] < oldest:
            self._arrivals.popleft()
        return len(self._arrivals) / _RATE_WINDOW_S

    def close(self) -> None:
        """Unsubscribes."""
        self._node.destroy_subscription(self._subscription)

    def _on_image(self, message: Image | CompressedImage) -> None:
        self.arrived_s = monotonic()
        self._arrivals.append(self.arrived_s)
        stamp_ns = stamp_to_ns(message.header.stamp)
        if stamp_ns == 0:
            self.unstamped += 1
            stamp_ns = self._node.get_clock().now().nanoseconds
        self._offer(self.name, stamp_ns, partial(_load, message, stamp_ns, self.name))


def _load(message: Image | CompressedImage, stamp_ns: int, camera: str) -> Frame:
    return Frame(image_to_rgb(message), stamp_ns, camera, message.header)
