"""Image subscriptions: each leaves the newest message and returns; the worker converts it when it has time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.subscription import Subscription
from rclpy.validate_topic_name import validate_topic_name
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from penguin_engine.scene.mailbox import LoadFrame
from penguin_models.errors import MediaError, SettingError, UnknownCameraError
from penguin_models.quoting import quoted, shortened
from penguin_models.types import Frame
from penguin_ros.convert import ns_to_stamp, stamp_to_ns
from penguin_ros.images import Decoding, message_to_rgb
from penguin_ros.nodes.context import without_places
from penguin_ros.nodes.image_graph import Link, choose_link, offers_reliable, silence, unreachable
from penguin_ros.nodes.node_time import NodeTime
from penguin_ros.nodes.stamps import STEADY_S, Stamps
from penguin_ros.nodes.video_stream import VideoStream
from penguin_ros.settings import NodeSettings
from penguin_ros.video_decoder import picture_to_rgb
from penguin_ros.video_packets import video_packet

if TYPE_CHECKING:
    import av

_MAX_NAME_CHARS = 255
_RATE_WINDOW_S = 5.0
_ENOUGH = 0.8  # of the wanted rate
_MANY_REPEATED = 0.1  # of the images
_MANY_LOST = 0.1  # of the packets of a video


class Camera:
    """The subscription of one image topic, with the type and QoS that its publishers offer.

    Attributes:
        name: Full name of the topic.
        stamps: Dates the images.
        opened_s: When it was subscribed to, on the monotonic clock.
        arrived_s: When the newest image arrived; None before the first.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        settings: NodeSettings,
        time: NodeTime,
        offer: Callable[[str, int, LoadFrame], object],
    ):
        """Subscribes.

        Args:
            node: The node.
            topic: Name of the topic, before remapping.
            settings: The node's parameters.
            time: Dates images without a usable stamp.
            offer: Takes name, stamp in nanoseconds, and a function that converts the image.
        """
        self.name = node.resolve_topic_name(topic)
        self.stamps, self.opened_s = Stamps(settings["memory.jump_back_s"]), monotonic()
        self.arrived_s: float | None = None
        self._arrivals: deque[float] = deque(maxlen=1024)
        self._first_s: float | None = None
        self._node, self._topic, self._settings, self._time, self._offer = node, topic, settings, time, offer
        self._video: VideoStream[Header] | None = None
        self._link: Link | None = None
        self._subscription: Subscription | None = None
        self.follow_graph()

    def follow_graph(self) -> None:
        """Subscribes again if the publishers' type or QoS has changed."""
        self._publishers = self._node.get_publishers_info_by_topic(self._topic)
        link = choose_link((self._topic, self.name), self._publishers, self._settings["image_reliability"], self._link)
        if link == self._link and self._subscription is not None:
            return
        self.close()  # first: a process cannot subscribe to one topic with two types
        self._link, logger = link, self._node.get_logger()
        try:
            self._subscription = self._node.create_subscription(
                link.message_type, self._topic, self._on_image, link.qos
            )
        except RuntimeError as err:  # the middleware's; the next call tries again
            logger.warning(f"cannot subscribe to {self.name} ({link}): {err}", throttle_duration_sec=10.0)
        else:
            logger.info(f"subscribed to {self.name} ({link})")

    def rate_hz(self) -> float:
        """Returns the rate at which images arrived during the last five seconds."""
        oldest = monotonic() - _RATE_WINDOW_S
        while self._arrivals and self._arrivals[0] < oldest:
            self._arrivals.popleft()
        return len(self._arrivals) / _RATE_WINDOW_S

    def silence(self, timeout_s: float) -> str:
        """Returns why no image arrives, as far as the graph shows it; "" if one did within the timeout."""
        assert self._link is not None
        if self.arrived_s is not None and monotonic() - self.arrived_s <= timeout_s:
            return ""
        if self._video is not None and self._video.decoder.problem:
            return f"{self._video.decoder.problem} ({self._video.decoder.skipped} packets skipped)"
        return silence(self._node, self.name, self._publishers, self._link)

    def warnings(self, wanted_hz: float) -> Iterator[str]:
        """Yields what is wrong with the images that arrive; `wanted_hz` is the sampling rate, 0 for any."""
        assert self._link is not None
        yield from unreachable(self.name, self._publishers, self._link)
        yield from self._stamp_warnings()
        yield from self._video_warnings()
        rate_hz = self.rate_hz()
        if self._first_s is not None and monotonic() - self._first_s > _RATE_WINDOW_S and rate_hz < _ENOUGH * wanted_hz:
            yield f"images arrive at {rate_hz:.1f} Hz, less than sample_rate_hz {wanted_hz}: {self._remedy()}"

    def _stamp_warnings(self) -> Iterator[str]:
        stamps, clock_trouble = self.stamps, self._time.trouble()
        if stamps.unstamped:
            yield f"{stamps.unstamped} images had no stamp and were dated by arrival"
        if stamps.broken:
            cleared = f"the memory was cleared {stamps.jumps_back} times, " if stamps.jumps_back else ""
            yield (
                f"{stamps.broken}: {cleared}images are dated by arrival until stamps have advanced for "
                f"{STEADY_S:.0f} s; check the camera driver"
            )
        elif stamps.jumps_often(monotonic()):
            yield (
                f"stamps jumped back in time {stamps.jumps_back} times, and each time the memory was cleared: check "
                "the camera driver, or play a longer bag"
            )
        elif stamps.repeated > _MANY_REPEATED * stamps.images:
            yield f"{stamps.repeated} images had the stamp of the image before, and were not used"
        if clock_trouble:
            yield clock_trouble
        elif stamps.ahead_s:
            side = "ahead of" if stamps.ahead_s > 0 else "behind"
            yield (
                f"stamps are {abs(stamps.ahead_s):.1f} s {side} the node's clock: synchronise the clocks, or set "
                "use_sim_time if a bag is played"
            )

    def _video_warnings(self) -> Iterator[str]:
        if self._video is None:
            return
        decoder, overrun = self._video.decoder, self._video.overrun
        if overrun:
            yield f"{overrun} packets of the video were dropped, as decoding is too slow: lower its rate or size"
        lost = decoder.skipped + decoder.damaged
        if lost > _MANY_LOST * decoder.packets:
            yield (
                f"{lost} of {decoder.packets} packets of the video gave no picture ({decoder.losses} losses, "
                f"{decoder.damaged} damaged): is the network losing packets, or are keyframes rare?"
            )

    def video_values(self) -> dict[str, int]:
        """Returns what diagnostics show about a video: packets, and how many were skipped for which reason."""
        if self._video is None:
            return {}
        decoder = self._video.decoder
        return {
            "video packets": decoder.packets,
            "video packets skipped until a keyframe": decoder.skipped,
            "video packets damaged": decoder.damaged,
            "losses of video packets": decoder.losses,
            "video packets dropped": self._video.overrun,
        }

    def age_s(self, stamp_ns: int) -> float:
        """Returns the age of an image in seconds."""
        return self.stamps.age_s(stamp_ns, self._time.now_ns())

    def close(self) -> None:
        """Unsubscribes."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
        if self._video is not None:
            self._video.close()
            self._video = None

    def _remedy(self) -> str:
        assert self._link is not None
        if not self._link.reliable and offers_reliable(self._publishers, self._link):
            return "set image_reliability to reliable or auto"
        if self._link.message_type is Image:
            return "if the camera is faster, subscribe to compressed images"
        return "if the camera is faster, the network loses images"

    def _on_image(self, message: Any) -> None:
        """Leaves an image to the worker, and a packet of a video to its decoder."""
        packet, error = None, None
        try:
            packet = video_packet(message)
        except MediaError as err:
            error = err
        jumps = self.stamps.jumps_back
        header = self._dated(message.header)
        if packet is None:
            load = partial(_load, message, header, self.name, self._settings.decoding)
            self._arrived(header, load if error is None else partial(_fail, error))
            return
        if self._video is None:
            self._video = VideoStream(self._on_picture, self._settings.decoding.max_pixels)
        jumped = self.stamps.jumps_back > jumps
        self._video.put(packet, header, "time jumped back; waiting for the next keyframe" if jumped else "")

    def _on_picture(self, header: Header, picture: av.VideoFrame) -> None:
        """Runs in the thread of the decoder."""
        self._arrived(header, partial(_load_picture, picture, header, self.name))

    def _arrived(self, header: Header, load: LoadFrame) -> None:
        self.arrived_s = monotonic()
        self._first_s = self._first_s or self.arrived_s
        self._arrivals.append(self.arrived_s)
        self._offer(self.name, stamp_to_ns(header.stamp), load)

    def _dated(self, header: Header) -> Header:
        """Returns the header of a message with a stamp that can be used."""
        broken = self.stamps.broken
        stamp_ns = self.stamps.date(stamp_to_ns(header.stamp), self._time.now_ns(), monotonic())
        if stamp_ns != stamp_to_ns(header.stamp):
            # What is published about this frame carries the stamp that was used.
            header = Header(stamp=ns_to_stamp(stamp_ns), frame_id=header.frame_id)
        if self.stamps.broken and not broken:
            self._node.get_logger().warning(f"{self.name}: {self.stamps.broken}: images are dated by arrival")
        return header


def _load(message: Image | CompressedImage, header: Header, camera: str, decoding: Decoding) -> Frame:
    return Frame(message_to_rgb(message, decoding), stamp_to_ns(header.stamp), camera, header)


def _load_picture(picture: av.VideoFrame, header: Header, camera: str) -> Frame:
    return Frame(picture_to_rgb(picture), stamp_to_ns(header.stamp), camera, header)


def _fail(error: MediaError) -> Frame:
    raise error


def camera_names(node: Node, settings: NodeSettings) -> list[str]:
    """Returns the full names of the image topics; raises SettingError if a topic is not valid or one is repeated."""
    names: list[str] = []
    for parameter in ("camera_info_topics", "depth_topics", "image_topics"):
        try:
            names = [camera_name(node, topic) for topic in settings[parameter] if topic]
        except UnknownCameraError as err:
            raise SettingError(f"{parameter}: {err}; rename it") from err
    if len(set(names)) < len(names):
        raise SettingError(f"image_topics resolves to {shortened(', '.join(names))}; it must name each topic once")
    return names


def camera_name(node: Node, topic: str) -> str:
    """Returns the full name of an image topic after remapping; raises UnknownCameraError if it is not a valid name."""
    if len(topic) > _MAX_NAME_CHARS:
        raise UnknownCameraError(f"{quoted(topic)} has {len(topic)} characters, the limit is {_MAX_NAME_CHARS}")
    try:
        # rclpy takes nothing but Unicode, and reads a name up to its first NUL.
        validate_topic_name(topic.encode("ascii", "replace").replace(b"\0", b"?").decode())
        return str(node.resolve_topic_name(topic))
    except (InvalidTopicNameException, RuntimeError) as err:  # RuntimeError: an unknown substitution
        reason = without_places(str(err)).splitlines()[0].removeprefix("Invalid topic name: ").rstrip(":")
        raise UnknownCameraError(f"{quoted(topic)} is not a valid topic name: {shortened(reason)}") from err
