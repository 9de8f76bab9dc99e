"""What the ROS graph says about an image topic: how to subscribe to it, and why no image arrives."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CompressedImage, Image

from penguin_ros.video_packets import FFMPEG_PACKET

_TYPES: dict[str, Any] = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
try:
    from ffmpeg_image_transport_msgs.msg import FFMPEGPacket
except ImportError:
    pass
else:
    _TYPES[FFMPEG_PACKET] = FFMPEGPacket
_RELIABLE, _LATCHED = QoSReliabilityPolicy.RELIABLE, QoSDurabilityPolicy.TRANSIENT_LOCAL
_SHOWN = 3  # topics or nodes that a message lists
_PACKETS = 30  # messages of a topic that may be video, whose decoder needs all; one second


@dataclass(frozen=True)
class Link:
    """How a topic is subscribed to."""

    type_name: str  # of its messages, such as sensor_msgs/msg/Image
    reliable: bool
    latched: bool  # whether an image that was published before is received

    @property
    def message_type(self) -> Any:
        """Class of the messages."""
        return _TYPES[self.type_name]

    @property
    def qos(self) -> QoSProfile:
        """QoS of the subscription, which keeps the newest image only, or what may be packets of a video."""
        return QoSProfile(
            depth=1 if self.message_type is Image else _PACKETS,
            reliability=_RELIABLE if self.reliable else QoSReliabilityPolicy.BEST_EFFORT,
            durability=_LATCHED if self.latched else QoSDurabilityPolicy.VOLATILE,
        )

    def __str__(self) -> str:
        return f"{self.type_name}, {_reliability(self.reliable)}{', latched' if self.latched else ''}"


def choose_link(
    topics: Iterable[str], publishers: Sequence[TopicEndpointInfo], reliability: str, current: Link | None
) -> Link:
    """Returns the best subscription that is compatible with all publishers of a type.

    Args:
        topics: The topic's name before and after remapping. Its ending decides between two types.
        publishers: The publishers of the topic; those of other types than images are ignored.
        reliability: Parameter image_reliability: auto, reliable or best_effort.
        current: The current subscription, which stays if there is no publisher; None at the start.
    """
    compressed = any(topic.endswith("/compressed") for topic in topics)
    by_name = f"sensor_msgs/msg/{'CompressedImage' if compressed else 'Image'}"
    types = {publisher.topic_type for publisher in publishers if publisher.topic_type in _TYPES}
    if not types:
        # Most publishers are reliable; a single image may be lost if it arrives while the subscription changes.
        return current or Link(by_name, reliability != "best_effort", False)
    type_name = by_name if by_name in types else types.pop()
    offers = [publisher.qos_profile for publisher in publishers if publisher.topic_type == type_name]
    if reliability == "auto":
        reliable = all(offer.reliability == _RELIABLE for offer in offers)
    else:
        reliable = reliability == "reliable"
    return Link(type_name, reliable, all(offer.durability == _LATCHED for offer in offers))


def unreachable(topic: str, publishers: Sequence[TopicEndpointInfo], link: Link) -> list[str]:
    """Returns a message about each kind of publisher whose messages cannot arrive."""
    messages = []
    foreign = [publisher for publisher in publishers if publisher.topic_type != link.type_name]
    if foreign:
        kinds = " and ".join(sorted({publisher.topic_type for publisher in foreign}))
        but = "" if len(foreign) == len(publishers) else f", and the node has subscribed to {link.type_name}"
        remedy = "; install the ROS package ffmpeg_image_transport_msgs" if FFMPEG_PACKET in kinds and not but else ""
        messages.append(f"{_names(foreign)} publishes {kinds} on {topic}{but}{remedy}")
    unreliable = [
        publisher
        for publisher in publishers
        if publisher not in foreign and link.reliable and publisher.qos_profile.reliability != _RELIABLE
    ]
    if unreliable:
        messages.append(
            f"{_names(unreliable)} offers best_effort reliability on {topic}, and image_reliability is reliable: "
            "set it to auto"
        )
    return messages


def silence(node: Node, topic: str, publishers: Sequence[TopicEndpointInfo], link: Link) -> str:
    """Returns why no image arrives, as far as the graph shows it."""
    if not publishers:
        return f"nobody publishes {topic}; {_other_topics(node, topic)}"
    messages = unreachable(topic, publishers, link)
    if all(publisher.topic_type not in _TYPES for publisher in publishers):
        messages.append(_other_topics(node, topic))
    return (
        "; ".join(messages) or f"{_names(publishers)} publishes {topic} with matching type and QoS, but sends no image"
    )


def offers_reliable(publishers: Sequence[TopicEndpointInfo], link: Link) -> bool:
    """Returns whether all publishers of the subscribed type offer reliable images."""
    offers = [publisher.qos_profile for publisher in publishers if publisher.topic_type == link.type_name]
    return bool(offers) and all(offer.reliability == _RELIABLE for offer in offers)


def _other_topics(node: Node, topic: str) -> str:
    own = node.get_fully_qualified_name()
    images = [
        name
        for name, types in node.get_topic_names_and_types()
        if name != topic and not name.startswith(f"{own}/") and _TYPES.keys() & types and node.count_publishers(name)
    ]
    similar = difflib.get_close_matches(topic, images, n=_SHOWN) or images[:_SHOWN]
    if not similar:
        return "no image topic exists in this ROS domain"
    return f"image topics that exist: {', '.join(similar)}{', ...' if len(images) > len(similar) else ''}"


def _names(publishers: Iterable[TopicEndpointInfo]) -> str:
    names = [f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}" for publisher in publishers]
    return ", ".join(list(dict.fromkeys(names))[:_SHOWN])


def _reliability(reliable: bool) -> str:
    return "reliable" if reliable else "best effort"
