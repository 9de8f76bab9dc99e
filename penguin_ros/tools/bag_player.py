"""Publishes the image topics of a bag at the times of their recording; the pictures are not decoded."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from time import monotonic

import rclpy
from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.validate_full_topic_name import validate_full_topic_name
from rclpy.validate_topic_name import validate_topic_name
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

try:
    from ffmpeg_image_transport_msgs.msg import FFMPEGPacket
except ImportError:
    FFMPEGPacket = None

from penguin_models.errors import MediaError
from penguin_models.media import duration
from penguin_ros.bag_storage.bag import Bag
from penguin_ros.convert import ns_to_stamp
from penguin_ros.message_types import IMAGE_TYPES, ros1_image_to_cdr
from penguin_ros.nodes.context import RosArgumentsError, start_ros
from penguin_ros.nodes.rcl_errors import middleware_errors
from penguin_ros.recording import Recording, choose_topic, image_topics, read_recording
from penguin_ros.stopping import StopFlag

_TYPES = dict(zip(IMAGE_TYPES, (Image, CompressedImage, FFMPEGPacket), strict=True))
_LATE_S, _LONG_WAIT_S = 0.1, 60.0
_LAST_NS = 2**31 * 10**9 - 1  # seconds of ROS times are int32
_MAX_NAME = 200  # characters of a topic that is renamed; the middleware allows 247


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


@middleware_errors()
def play(
    path: Path,
    topics: Sequence[str] = (),
    playback: Playback | None = None,
    remaps: Sequence[str] = (),
    namespace: str = "/",
    stop: StopFlag | None = None,
    on_message: Callable[[Played], None] = lambda played: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Played:
    """Plays a bag to its end, or until it is stopped.

    Args:
        path: A bag folder, or a single .mcap, .db3 or ROS 1 .bag file.
        topics: Image topics; all of the bag's if empty. One without a leading slash is played in the namespace, and
            may be in the bag there or without it.
        playback: Rate, loops, start.
        remaps: Rules from:=to that rename topics.
        namespace: Of topics without a leading slash.
        stop: Ends the playback early.
        on_message: Called after each message.
        on_note: Called with each sentence about what is unusual.

    Raises:
        MediaError: The bag cannot be read, or holds nothing to play.
        RosArgumentsError: A rule cannot be parsed, or names an invalid topic.
        MiddlewareError: The middleware refuses the node or a topic.
    """
    _check_names(remaps)
    playback, stop, played = playback or Playback(), stop or StopFlag(), Played()
    full_names = {topic: topic if topic[:1] == "/" else str(PurePosixPath("/", namespace, topic)) for topic in topics}

    def choose(bag: Bag) -> list[str]:
        return [choose_topic(bag, _in_bag(bag, *item)) for item in full_names.items()] or _all_topics(bag, on_note)

    recording = read_recording(path, choose, for_replay=True)
    moves = [f"/{topic}:={name}" for topic, name in full_names.items() if name not in recording.cameras]
    names, rules, notes = _names(recording.cameras, [*remaps, *moves])
    for note in (*recording.notes, *notes):
        on_note(note)
    start_ros(["--ros-args", *(part for rule in rules for part in ("-r", rule))])
    node = rclpy.create_node("bag_player")
    began = monotonic()
    try:
        player = _Player(node, recording, names, playback, stop)
        if note := player.long_wait():
            on_note(note)
        player.wait()
        loop = 0
        while not stop.is_set() and (playback.loops == 0 or loop < playback.loops):
            for late in player.once():
                played.messages += 1
                played.late += late
                played.seconds = monotonic() - began
                on_message(played)
            player.check(on_note if loop == 0 else None)
            loop += 1
        player.flush()
    finally:
        node.destroy_node()
        rclpy.shutdown()
    return played


def _in_bag(bag: Bag, topic: str, name: str) -> str:
    """Returns the name that a topic has in the bag: its full name, or its relative name as recorded in no namespace."""
    names = {connection.topic for connection in bag.connections}
    return f"/{topic}" if name not in names and f"/{topic}" in names else name


def _all_topics(bag: Bag, on_note: Callable[[str], None]) -> list[str]:
    topics = image_topics(bag) or [choose_topic(bag, None)]
    unknown = {c.topic: c.msgtype for c in bag.connections if _TYPES.get(c.msgtype, Image) is None}
    if unknown and unknown.keys() < set(topics):
        on_note(f"not played, because ffmpeg_image_transport_msgs is not installed: {', '.join(sorted(unknown))}")
        topics = [topic for topic in topics if topic not in unknown]
    unreadable = {
        c.topic: c.description for c in bag.connections if c.topic not in {*topics, *unknown} and "Image" in c.msgtype
    }
    if unreadable:
        listing = ", ".join(f"{name} ({kind})" for name, kind in sorted(unreadable.items()))
        on_note(f"not played, because only sensor_msgs images in CDR or ROS 1 encoding can be: {listing}")
    return topics


def _names(topics: Sequence[str], remaps: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Returns the name under which each topic is played, the rules left for ROS, and notes about renamed topics.

    Bags of ROS 1 and of other loggers have names that ROS 2 refuses, also in rules.
    """
    rules = dict(rule.split(":=", 1) for rule in remaps if ":=" in rule)
    names: dict[str, str] = {}
    notes = []
    for topic in topics:
        if _is_valid(topic):
            names[topic] = topic
        elif topic in rules:
            names[topic] = rules.pop(topic)
        else:
            names[topic] = _valid_name(topic, {*topics, *names.values()})
            invalid = f"{topic!r:.200} is not a valid topic name, so it is played as {names[topic]}"
            notes.append(f"{invalid}; choose a name with --remap {shlex.quote(f'{topic:.200}:=NAME')}")
    return names, [rule for rule in remaps if ":=" not in rule or rule.split(":=", 1)[0] in rules], notes


def _check_names(remaps: Sequence[str]) -> None:
    for rule in remaps:
        topic, _, name = rule.partition(":=")
        try:
            if ":=" in rule and not topic.startswith("__"):  # __ns and __node are no topics
                validate_topic_name(name)
        except InvalidTopicNameException as err:
            raise RosArgumentsError(
                f"--remap {rule}: {name!r} is not a valid topic name; use letters, _, / and digits, but not after a /"
            ) from err


def _is_valid(topic: str) -> bool:
    try:
        return bool(validate_full_topic_name(topic if topic.startswith("/") else f"/{topic}"))
    except InvalidTopicNameException:
        return False


def _valid_name(topic: str, taken: Collection[str]) -> str:
    parts = (re.sub(r"\W", "_", part, flags=re.ASCII) for part in topic.split("/") if part)
    name = "".join(f"/_{part}" if part[0].isdigit() else f"/{part}" for part in parts) or "/image"
    name = name[:_MAX_NAME].rstrip("/")
    while name in taken:
        name += "_"
    return name


class _Player:
    """A recording and its publishers."""

    def __init__(self, node: Node, recording: Recording, names: dict[str, str], playback: Playback, stop: StopFlag):
        self._node, self._recording, self._names = node, recording, names
        self._playback, self._stop = playback, stop
        self.skipped: dict[int, str] = {}  # number of a message that is damaged -> reason
        self._publishers: dict[tuple[str, str], Publisher] = {}
        for camera, msgtype in recording.types:
            self._publisher(camera, msgtype)
        self._clock = node.create_publisher(Clock, "/clock", 10) if playback.clock else None
        first_ns, last_ns = recording.images[0].stamp_ns, recording.images[-1].stamp_ns
        self._first_ns, self._start_ns = first_ns, first_ns + round(playback.start_s * 1e9)
        self._refs = [ref for ref in recording.images if ref.stamp_ns >= self._start_ns]
        if not self._refs:
            length_s = (last_ns - first_ns) * 1e-9
            raise MediaError(f"there is no image after {playback.start_s} s; the bag ends at {length_s:.1f} s")

    def long_wait(self) -> str:
        """Returns a note if nothing will be played for more than a minute."""
        stamps_ns = [self._start_ns, *(ref.stamp_ns for ref in self._refs)]
        pause_ns, end_ns = max((after - before, after) for before, after in pairwise(stamps_ns))
        if pause_ns * 1e-9 / self._playback.rate < _LONG_WAIT_S:
            return ""
        end = f"{math.floor((end_ns - self._first_ns) * 1e-8) / 10:.1f}"  # rounded up, --start would skip the image
        return f"no image was recorded for {duration(pause_ns * 1e-9)} before {end} s; --start {end} begins there"

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
        began = None
        for image in self._recording.read(self._refs):
            try:
                image.message.deserialize()
            except MediaError as err:  # a subscriber would fail
                self.skipped[image.ref.number] = str(err)
                continue
            began = began or monotonic()  # everything is loaded now
            due_s = began + (image.ref.stamp_ns - self._start_ns) * 1e-9 / self._playback.rate
            if self._stop.wait(max(0.0, due_s - monotonic())):
                return
            if self._clock is not None:
                self._clock.publish(Clock(clock=ns_to_stamp(min(image.ref.stamp_ns, _LAST_NS))))
            connection, data = image.message.connection, image.message.data
            if connection.encoding == "ros1":
                data = ros1_image_to_cdr(connection.msgtype, data)
            self._publisher(image.ref.camera, connection.msgtype).publish(data)
            yield monotonic() - due_s > _LATE_S

    def check(self, on_note: Callable[[str], None] | None) -> None:
        """Reports skipped messages after a loop; raises MediaError if nothing else was there."""
        if self.skipped:
            counts = f"{len(self.skipped)} of {len(self._refs)} messages"
            text = f"{counts} cannot be played; of the first, {next(iter(self.skipped.values()))}"
            if len(self.skipped) == len(self._refs):
                raise MediaError(text)
            if on_note is not None:
                on_note(text)

    def flush(self) -> None:
        """Waits up to a second until reliable subscribers have the last messages."""
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=1.0))

    def _publisher(self, camera: str, msgtype: str) -> Publisher:
        key = (camera, msgtype)
        if _TYPES[msgtype] is None:
            raise MediaError(
                f"{camera} has messages of the type {msgtype}, which is not installed; install the ROS package "
                "ffmpeg_image_transport_msgs, or choose other topics"
            )
        if key not in self._publishers:
            self._publishers[key] = self._node.create_publisher(_TYPES[msgtype], self._names[camera], 10)
        return self._publishers[key]
