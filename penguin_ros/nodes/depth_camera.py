"""The depth images and the calibration of one camera: subscriptions, and positions of the objects in its frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from penguin_engine.scene.memory import HeldFrame
from penguin_engine.scene.object_position import ObjectPosition
from penguin_models.errors import MediaError
from penguin_models.grounding import GroundedObject
from penguin_models.types import Size
from penguin_ros.camera_model import CameraModel
from penguin_ros.convert import stamp_to_ns
from penguin_ros.depth_buffer import DepthBuffer
from penguin_ros.depth_images import message_to_depth
from penguin_ros.localisation import check_registered, locate
from penguin_ros.nodes.node_time import NodeTime

_TOLERANCE_S = 0.05
_DEPTH_TYPES = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
_INFO_TYPES = {"sensor_msgs/msg/CameraInfo": CameraInfo}


class FollowedTopic:
    """A subscription with the type and QoS of the topic's publishers, once there are any."""

    def __init__(self, node: Node, topic: str, types: Mapping[str, type], on_message: Callable[[Any], None]):
        """Subscribes when `follow_graph` finds a publisher of one of the types."""
        self.name = node.resolve_topic_name(topic)
        self._node, self._topic, self._types, self._on_message = node, topic, types, on_message
        self._link: tuple[str, bool, bool] | None = None  # type, reliable, latched
        self._subscription: Subscription | None = None
        self._foreign = ""  # type that is published instead
        self.follow_graph()

    def follow_graph(self) -> None:
        """Subscribes again if the publishers' type or QoS has changed."""
        publishers = self._node.get_publishers_info_by_topic(self._topic)
        known = [publisher for publisher in publishers if publisher.topic_type in self._types]
        self._foreign = publishers[0].topic_type if publishers and not known else ""
        if not known:
            return
        kind = known[0].topic_type
        offers = [publisher.qos_profile for publisher in known if publisher.topic_type == kind]
        reliable = all(offer.reliability == QoSReliabilityPolicy.RELIABLE for offer in offers)
        latched = all(offer.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
        if self._link == (kind, reliable, latched):
            return
        self.close()
        self._link = kind, reliable, latched
        qos = QoSProfile(
            depth=2,
            reliability=QoSReliabilityPolicy.RELIABLE if reliable else QoSReliabilityPolicy.BEST_EFFORT,
            durability=QoSDurabilityPolicy.TRANSIENT_LOCAL if latched else QoSDurabilityPolicy.VOLATILE,
        )
        self._subscription = self._node.create_subscription(self._types[kind], self._topic, self._on_message, qos)

    def silence(self) -> str:
        """Returns why no message has arrived."""
        if self._foreign:
            return f"{self.name} has the type {self._foreign}, not {' or '.join(self._types)}"
        return f"nobody publishes {self.name}" if self._link is None else f"{self.name} has sent no message yet"

    def close(self) -> None:
        """Unsubscribes."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
        self._subscription = self._link = None


class DepthCamera:
    """Depth images and CameraInfo of a camera.

    Attributes:
        image: Full name of the camera's image topic.
        known: Number of objects whose position was found.
        unknown: Number of objects whose position was not found.
        problem: Why the newest position that was looked for is not known; "" if it is.
    """

    def __init__(self, node: Node, image: str, depth: str, info: str, time: NodeTime):
        """Subscribes to a depth topic and a CameraInfo topic; `time` dates depth images without a stamp."""
        self.image = node.resolve_topic_name(image)
        self.known = self.unknown = 0
        self.problem = ""
        self._time, self._buffer = time, DepthBuffer()
        self._info: CameraInfo | None = None
        self._topics = [
            FollowedTopic(node, depth, _DEPTH_TYPES, self._on_depth),
            FollowedTopic(node, info, _INFO_TYPES, self._on_info),
        ]

    def follow_graph(self) -> None:
        """Subscribes again if publishers have changed."""
        for topic in self._topics:
            topic.follow_graph()

    def close(self) -> None:
        """Unsubscribes."""
        for topic in self._topics:
            topic.close()

    def keep_for(self, stamp_ns: int) -> None:
        """Keeps the depth image of a frame, which may be about to arrive."""
        self._buffer.keep_for(stamp_ns)

    def silence(self) -> str:
        """Returns why no position can be found; "" if depth and CameraInfo have arrived."""
        depth, info = self._topics
        if not self._buffer:
            return f"no depth image: {depth.silence()}"
        return f"no camera_info: {info.silence()}" if self._info is None else ""

    def locate(self, frame: HeldFrame, objects: Sequence[GroundedObject]) -> list[ObjectPosition | None]:
        """Returns the position of each object in the camera's frame, None where it is unknown; any thread may call it.

        Raises:
            MediaError: No position of this frame can be found.
        """
        frame_id = frame.header.frame_id
        if reason := self.silence():
            raise MediaError(reason)
        assert self._info is not None
        message = self._depth_of(frame.stamp_ns)
        for what, header in (("depth image", message.header), ("camera_info", self._info.header)):
            if header.frame_id.lstrip("/") != frame_id.lstrip("/"):
                raise MediaError(
                    f"the {what} is in frame {header.frame_id!r} and the image in {frame_id!r}: it is not registered "
                    "to the image; use the topic that is aligned to it"
                )
        depth = message_to_depth(message)
        check_registered(Size(*depth.shape), frame.source_size)
        model = CameraModel.of(self._info, frame.source_size, is_rectified="image_rect" in self.image)
        found: list[ObjectPosition | None] = []
        for item in objects:
            try:
                found.append(locate(item.box.to_pixels(frame.source_size), depth, model, frame_id))
            except MediaError as err:
                found.append(None)
                self.problem = f"{item.label}: {err}"
        return found

    def _depth_of(self, frame_ns: int) -> Any:
        nearest = self._buffer.nearest(frame_ns)
        assert nearest is not None
        apart_s = (nearest[0] - frame_ns) * 1e-9
        if abs(apart_s) > _TOLERANCE_S:
            side = "after" if apart_s > 0 else "before"
            raise MediaError(
                f"the nearest depth image is {abs(apart_s):.3f} s {side} the image, the limit is {_TOLERANCE_S:g} s: "
                "publish depth at the camera's rate, with the same clock"
            )
        return nearest[1]

    def _on_depth(self, message: Image | CompressedImage) -> None:
        self._buffer.add(stamp_to_ns(message.header.stamp) or self._time.now_ns(), message)

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message
