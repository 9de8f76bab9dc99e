"""Publishes the image topics of a bag at the times of their recording; the messages are not decoded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from penguin_models.errors import MediaError
from penguin_ros.bags import IMAGE_TYPES, choose_topic, open_bag
from penguin_ros.convert import ns_to_stamp
from penguin_ros.nodes.context import start_ros

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

_TYPES = dict(zip(IMAGE_TYPES, (Image, CompressedImage), strict=True))
_LATE_S = 0.1


@dataclass(frozen=True)
class Playback:
    """How a bag is played."""

    rate: float = 1.0  # recorded seconds played per second
    loops: int = 1  # number of times the bag is played; 0 repeats it forever
    start_s: float = 0.0  # start this many seconds after the first image
    clock: bool = False  # whether the recorded time is published on /clock with every message
    wait_s: float = 0.0  # maximum wait for a subscriber on every topic; 0 does not wait


@dataclass
class Played:
    """Count of what was published."""

    messages: int = 0  # number of messages
    late: int = 0  # number of messages more than 0.1 s behind schedule: this machine is too slow for the rate
    seconds: float = 0.0  # duration


def image_topics(path: Path, wanted: Sequence[str] = ()) -> list[str]:
    """Returns the requested image topics of a bag, or all of them.

    Raises:
        MediaError: The bag cannot be read, has no image topic, or lacks a requested one.
    """
    with open_bag(path) as reader:
        if wanted:
            return [choose_topic(path, reader, topic) for topic in wanted]
        topics = sorted({c.topic for c in reader.connections if c.msgtype in IMAGE_TYPES})
        return topics or [choose_topic(path, reader, None)]


def play(
    path: Path,
    topics: Sequence[str] = (),
    playback: Playback | None = None,
    ros_args: Sequence[str] = (),
    stop: threading.Event | None = None,
    on_message: Callable[[Played], None] = lambda played: None,
) -> Played:
    """Plays a bag to its end, or until it is stopped.

    Args:
        path: A bag folder, or a single .mcap, .db3 or ROS 1 .bag file.
        topics: Image topics; all of the bag's if empty.
        playback: Rate, loops, start.
        ros_args: Arguments for rclpy: remappings and the like.
        stop: Ends the playback early.
        on_message: Called after each message.

    Raises:
        MediaError: The bag cannot be read, or holds nothing to play.
        RosArgumentsError: `ros_args` cannot be parsed.
    """
    playback, stop, played = playback or Playback(), stop or threading.Event(), Played()
    topics = image_topics(path, topics)
    start_ros(ros_args)
    node = rclpy.create_node("bag_player")
    began = monotonic()
    try:
        with open_bag(path) as reader:
            player = _Player(node, reader, topics, playback, stop)
            player.wait()
            loop = 0
            while not stop.is_set() and (playback.loops == 0 or loop < playback.loops):
                for late in player.once():
                    played.messages += 1
                    played.late += late
                    played.seconds = monotonic() - began
                    on_message(played)
                loop += 1
            player.flush()
    finally:
        node.destroy_node()
        rclpy.shutdown()
    return played


class _Player:
    """One open bag and its publishers."""

    def __init__(self, node: Node, reader: AnyReader, topics: Sequence[str], playback: Playback, stop: threading.Event):
        self._reader, self._playback, self._stop = reader, playback, stop
        self._connections = [c for c in reader.connections if c.topic in topics]
        self._publishers: dict[str, Publisher] = {
            c.topic: node.create_publisher(_TYPES[c.msgtype], c.topic, 10) for c in self._connections
        }
        self._clock = node.create_publisher(Clock, "/clock", 10) if playback.clock else None
        first = next(iter(reader.messages(self._connections)), None)
        if first is None:
            raise MediaError(f"the bag has no messages on {', '.join(topics)}")
        self._start_ns = first[1] + round(playback.start_s * 1e9)
        if next(iter(reader.messages(self._connections, start=self._start_ns)), None) is None:
            length_s = (reader.end_time - first[1]) * 1e-9
            raise MediaError(f"there is no image after {playback.start_s} s; the bag ends at {length_s:.1f} s")

    def wait(self) -> None:
        """Waits for a subscriber on every topic; raises MediaError if there is none in time."""
        deadline = monotonic() + self._playback.wait_s
        missing = list(self._publishers.values())
        while missing and monotonic() < deadline and not self._stop.wait(0.02):
            missing = [publisher for publisher in missing if publisher.get_subscription_count() == 0]
        if missing and self._playback.wait_s and not self._stop.is_set():
            names = ", ".join(publisher.topic_name for publisher in missing)
            raise MediaError(f"{names} got no subscriber within {self._playback.wait_s} s")

    def once(self) -> Iterable[bool]:
        """Publishes every message at its time; yields whether it was late."""
        began = monotonic()
        for connection, stamp_ns, data in self._reader.messages(self._connections, start=self._start_ns):
            due_s = began + (stamp_ns - self._start_ns) * 1e-9 / self._playback.rate
            if self._stop.wait(max(0.0, due_s - monotonic())):
                return
            if self._clock is not None:
                self._clock.publish(Clock(clock=ns_to_stamp(stamp_ns)))
            self._publishers[connection.topic].publish(self._cdr(connection, data))
            yield monotonic() - due_s > _LATE_S

    def flush(self) -> None:
        """Waits up to a second until reliable subscribers have the last messages."""
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=1.0))

    def _cdr(self, connection: Any, data: bytes) -> bytes:
        if self._reader.is2:
            return bytes(data)
        return bytes(self._reader.typestore.ros1_to_cdr(data, connection.msgtype))
