"""Image subscriptions: each leaves the newest message and returns; the worker converts it when it has time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from time import monotonic

from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from penguin_engine.scene.mailbox import LoadFrame
from penguin_models.types import Frame
from penguin_ros.convert import ns_to_stamp, stamp_to_ns
from penguin_ros.images import message_to_rgb
from penguin_ros.raw_images import Mono16Scaling

_RATE_WINDOW_S = 5.0


class Camera:
    """The subscription of one image topic.

    Attributes:
        name: Full name of the topic.
        unstamped: Number of images without a stamp; their time of arrival is used.
        arrived_s: When the newest image arrived, on the monotonic clock; None before the first.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        reliability: str,
        offer: Callable[[str, int, LoadFrame], None],
        mono16_scaling: Mono16Scaling = "percentiles",
    ):
        """Subscribes; `offer` takes name, stamp in nanoseconds, and a function that converts the image."""
        self.name = node.resolve_topic_name(topic)
        self.unstamped = 0
        self.arrived_s: float | None = None
        self._arrivals: deque[float] = deque(maxlen=1024)
        self._node, self._offer, self._scaling = node, offer, mono16_scaling
        qos = QoSProfile(depth=1, reliability=QoSReliabilityPolicy[reliability.upper()])
        compressed = any(name.endswith("/compressed") for name in (topic, self.name))
        message = CompressedImage if compressed else Image
        self._subscription = node.create_subscription(message, topic, self._on_image, qos)

    def rate_hz(self) -> float:
        """Returns the rate at which images arrived during the last five seconds."""
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
        header = message.header
        if stamp_to_ns(header.stamp) == 0:
            self.unstamped += 1
            stamp_ns = self._node.get_clock().now().nanoseconds
            # What is published about this frame carries the stamp that was used.
            header = Header(stamp=ns_to_stamp(stamp_ns), frame_id=header.frame_id)
        self._offer(self.name, stamp_to_ns(header.stamp), partial(_load, message, header, self.name, self._scaling))


def _load(message: Image | CompressedImage, header: Header, camera: str, mono16_scaling: Mono16Scaling) -> Frame:
    return Frame(message_to_rgb(message, mono16_scaling), stamp_to_ns(header.stamp), camera, header)
