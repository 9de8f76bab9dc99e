"""The images of a bag in the order of their times, even if they were recorded in another order.

A bag is read once for its times and again for each use, so that no images are held in memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

from penguin_models.errors import MediaError
from penguin_models.types import Frame, UInt8Array
from penguin_ros.bag_storage.bag import MAX_NS, Bag, BagMessage, open_bag
from penguin_ros.bag_storage.decompression import MAX_HELD_BYTES
from penguin_ros.bag_storage.messages import READABLE_ENCODINGS, Connection
from penguin_ros.image_times import image_times, without_jumps
from penguin_ros.images import DEFAULT_DECODING, Decoding, message_to_rgb
from penguin_ros.message_types import IMAGE_TYPES
from penguin_ros.recorded_video import KeyframeIndex, RecordedPicture, VideoTrack, first_needed
from penguin_ros.video_decoder import picture_to_rgb
from penguin_ros.video_packets import video_packet

_MAX_LISTED = 20
_VIDEO_TYPES = ("CompressedVideo", "H264Packet")


@dataclass(frozen=True)
class ImageRef:
    """One image of a recording."""

    camera: str  # image topic
    stamp_ns: int  # when it was taken
    recorded_ns: int  # recording time
    number: int  # index among the images that are read, in the order of recording times


@dataclass(frozen=True)
class RecordedImage:
    """An image of a recording that has not been decoded."""

    ref: ImageRef
    message: BagMessage
    path: Path  # of the bag, for errors
    decoding: Decoding = DEFAULT_DECODING
    picture: RecordedPicture | None = None  # if it is a packet of a video

    def decode(self) -> UInt8Array:
        """Returns the pixels, [height, width, 3]; raises MediaError if the image is damaged."""
        return self._decoded(self.message.deserialize())

    def load(self) -> Frame:
        """Returns the image with its time; raises MediaError, which names bag and image, if it is damaged."""
        ref = self.ref
        try:
            message = self.message.deserialize()
            return Frame(self._decoded(message), ref.stamp_ns, ref.camera, message.header)
        except MediaError as err:
            raise MediaError(f"bag {self.path}, an image of {ref.camera} with stamp {ref.stamp_ns}: {err}") from err

    def _decoded(self, message: Any) -> UInt8Array:
        if self.picture is None:
            return message_to_rgb(message, self.decoding)
        return picture_to_rgb(self.picture.decode())


@dataclass(frozen=True)
class Recording:
    """The images of a bag, without their pixels."""

    path: Path
    cameras: tuple[str, ...]  # image topics that are read
    types: tuple[tuple[str, str], ...]  # each image topic with its message type
    images: tuple[ImageRef, ...]  # of all cameras, in the order of their times
    unstamped: dict[str, int]  # number of images without a stamp of their own, by topic
    checksum: int  # CRC-32 of all messages, in recording order; 0 if it was not computed
    notes: tuple[str, ...] = ()  # what is unusual about the bag, in sentences
    fault: str = ""  # one sentence if times do not identify images, because time jumps back or does not pass
    decoding: Decoding = DEFAULT_DECODING
    video_starts: Mapping[str, Sequence[int]] = field(default_factory=dict)  # see `recorded_video.KeyframeIndex`

    @property
    def name(self) -> str:
        """Name by which questions refer to the bag."""
        return bag_name(self.path)

    def span_ns(self, camera: str) -> tuple[int, int]:
        """Returns the times of a camera's first and last image."""
        stamps = [ref.stamp_ns for ref in self.images if ref.camera == camera]
        return stamps[0], stamps[-1]

    def read(self, refs: Sequence[ImageRef] | None = None) -> Iterator[RecordedImage]:
        """Yields these images, or all, in the order of their times; `refs` must be in this order.

        Raises MediaError if the bag cannot be read to its end.
        """
        pending = deque(self.images if refs is None else refs)
        if not pending:
            return
        wanted = {ref.number: ref for ref in pending}
        recorded_ns = sorted(ref.recorded_ns for ref in self.images)  # in the order of their numbers
        first = {
            camera: min(n for n, ref in wanted.items() if ref.camera == camera)
            for camera in {r.camera for r in pending}
        }
        start_ns = recorded_ns[first_needed(self.video_starts, first)]
        tracks = {camera: VideoTrack(self.decoding.max_pixels) for camera in self.video_starts}
        ahead: dict[int, RecordedImage] = {}  # images that were recorded before one with an earlier time
        ahead_bytes = 0
        with open_bag(self.path) as bag:
            messages = bag.messages(_image_connections(bag, self.cameras), start_ns)
            for number, message in enumerate(messages, start=bisect_left(recorded_ns, start_ns)):
                picture = _next_picture(tracks, message, number)
                if number in wanted:
                    ahead[number] = RecordedImage(wanted[number], message, self.path, self.decoding, picture)
                    ahead_bytes += len(message.data)
                while pending and pending[0].number in ahead:
                    image = ahead.pop(pending.popleft().number)
                    ahead_bytes -= len(image.message.data)
                    yield image
                if not pending:
                    return
                if ahead_bytes > MAX_HELD_BYTES:
                    raise MediaError(
                        f"bag {self.path} has more than {MAX_HELD_BYTES >> 20} MiB of images that were recorded before "
                        "earlier ones; record them in the order of their stamps"
                    )
        raise MediaError(f"bag {self.path} has other images than when it was opened, or its index is wrong")


def _next_picture(tracks: Mapping[str, VideoTrack], message: BagMessage, number: int) -> RecordedPicture | None:
    """Passes a message on to the track of its camera; returns None if it is not a packet of a video."""
    track = tracks.get(message.connection.topic)
    if track is None:
        return None
    try:
        packet = video_packet(message.deserialize())
    except MediaError:
        return None  # decoding reports it
    return None if packet is None else track.add(number, packet)


def bag_name(path: Path) -> str:
    """Returns the name of a bag's folder, or of its file without the suffix."""
    return path.resolve().name if path.is_dir() else path.stem


def read_recording(
    path: Path, choose: Callable[[Bag], Sequence[str]], for_replay: bool = False, for_questions: bool = False
) -> Recording:
    """Reads the times of the images on some topics of a bag.

    Args:
        path: Bag folder, or a single .mcap, .db3 or ROS 1 .bag file.
        choose: Returns the image topics.
        for_replay: Images count at their log times rather than at the stamps of their headers, and topics without
            images are left out.
        for_questions: Jumps of the clock remain in the times, and the checksum is computed.

    Raises MediaError if the bag cannot be read, or a topic has no images.
    """
    checksum = 0
    with open_bag(path) as bag:
        by_camera: dict[str, list[_Stamped]] = {camera: [] for camera in choose(bag)}
        notes, connections, index = list(bag.notes), _image_connections(bag, by_camera), KeyframeIndex()
        for number, message in enumerate(bag.messages(connections)):
            checksum = crc32(message.data, checksum) if for_questions else 0
            stamped = _Stamped(message.place, message.log_ns, header_stamp_ns(message), number)
            by_camera[message.connection.topic].append(stamped)
            index.add(message, number)
        notes += [
            f"{camera}: metadata.yaml announces {announced} messages, the files hold {len(images)}; was a file next to "
            "them, such as one that ends with -wal, not copied?"
            for camera, images in by_camera.items()
            if len(images) < (announced := bag.announced.get(camera, 0))
        ]
    empty = [camera for camera, images in by_camera.items() if not images]
    if empty and not (for_replay and len(empty) < len(by_camera)):
        raise MediaError(f"bag {path} has no images on {', '.join(empty)}")
    refs: list[ImageRef] = []
    fault = ""
    for camera in [camera for camera in by_camera if camera not in empty]:
        images = sorted(by_camera[camera])
        times = image_times(camera, [i.log_ns for i in images], [i.header_ns for i in images], for_replay)
        stamps = np.clip(times.ns if for_questions else without_jumps(times.ns), 0, MAX_NS)
        refs += (ImageRef(camera, int(ns), i.log_ns, i.number) for ns, i in zip(stamps, images, strict=True))
        notes += times.notes
        if (stamps != times.ns).any():
            notes.append(f"{camera}: the gap is left out")
        fault = fault or times.fault
    refs.sort(key=lambda ref: (ref.stamp_ns, ref.number))
    unstamped = {camera: n for camera, images in by_camera.items() if (n := sum(not i.header_ns for i in images))}
    cameras = tuple(camera for camera in by_camera if camera not in empty)
    types = tuple(dict.fromkeys((c.topic, c.msgtype) for c in connections if c.topic in cameras))
    return Recording(
        path, cameras, types, tuple(refs), unstamped, checksum, tuple(notes), fault, video_starts=index.starts
    )


class _Stamped(NamedTuple):
    """The times of an image; the order is that of writing."""

    place: tuple[int, int]  # file, and position in it
    log_ns: int
    header_ns: int  # 0 if not set
    number: int  # in the order of log times


_CDR_STAMP, _ROS1_STAMP = {0: Struct(">4xiI"), 1: Struct("<4xiI")}, Struct("<4xII")


def header_stamp_ns(message: BagMessage) -> int:
    """Returns the stamp of a message that begins with a header; 0 if it has none or the message is too short."""
    data = message.data
    if len(data) < 12:
        return 0
    layout = _ROS1_STAMP if message.connection.encoding == "ros1" else _CDR_STAMP[data[1] & 1]
    seconds, nanoseconds = layout.unpack_from(data)
    return min(max(0, int(seconds) * 10**9 + int(nanoseconds)), MAX_NS)


def choose_topic(bag: Bag, topic: str | None, option: str = "--topic") -> str:
    """Returns the requested image topic of an opened bag, or its only one if None is requested.

    Raises MediaError if there is no such image topic, or several and none was requested; the message names the option
    that chooses a topic.
    """
    types = {c.topic: c.description for c in bag.connections}
    images = image_topics(bag)
    if not images:
        listing = listed([f"{name} ({kind})" for name, kind in sorted(types.items())])
        raise MediaError(f"bag {bag.path} has no image topic; its topics: {listing}{_video_remedy(types)}")
    if topic is None:
        if len(images) > 1:
            raise MediaError(f"bag {bag.path} has several image topics, choose one with {option}: {listed(images)}")
        return images[0]
    if topic not in types:
        raise MediaError(f"bag {bag.path} has no topic {topic}; its image topics: {listed(images)}")
    if topic not in images:
        raise MediaError(
            f"topic {topic} of bag {bag.path} is {types[topic]}, not an image; image topics: {listed(images)}"
        )
    return topic


def listed(names: Sequence[str]) -> str:
    """Returns names for a message; of very many, or very long ones, the beginning."""
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(f"{name:.200}" for name in names[:_MAX_LISTED]) + more or "none"


def image_topics(bag: Bag) -> list[str]:
    """Returns the topics with images that can be read."""
    return sorted({c.topic for c in bag.connections if _is_image(c)})


def _is_image(connection: Connection) -> bool:
    return connection.msgtype in IMAGE_TYPES and connection.encoding in READABLE_ENCODINGS


def _image_connections(bag: Bag, topics: Collection[str]) -> list[Connection]:
    return [connection for connection in bag.connections if _is_image(connection) and connection.topic in topics]


def _video_remedy(types: dict[str, str]) -> str:
    videos = [name for name, kind in types.items() if any(video in kind for video in _VIDEO_TYPES)]
    if not videos:
        return ""
    return f"; {videos[0]} is video: convert it to images with `ros2 run image_transport republish`"
