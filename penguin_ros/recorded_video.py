"""Video in a bag: finds keyframes, and decodes the pictures that are asked for, from the keyframe before them.

Packets that nobody needs are not decoded: a group of pictures without a sampled one costs nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penguin_models.errors import MediaError
from penguin_ros.bag_storage.bag import BagMessage
from penguin_ros.video_decoder import VideoDecoder
from penguin_ros.video_packets import FFMPEG_PACKET, PacketReader, VideoPacket, video_packet

if TYPE_CHECKING:
    import av


_MAX_PICTURES = 16
"""Decoded pictures that are kept: those that came out together with the one that is asked for."""
_MAX_HEAD = 8


class KeyframeIndex:
    """Notes which cameras are video, and where their keyframes are, while a bag is read for the first time."""

    def __init__(self) -> None:
        self._readers: dict[str, PacketReader | None] = {}  # of each camera; None if it is not video
        self._parameters: dict[str, int] = {}  # number of the message with parameters before the next picture
        self.starts: dict[str, list[int]] = {}
        """For each camera that is video, the numbers of messages at which decoding can start without earlier ones."""

    def add(self, message: BagMessage, number: int) -> None:
        """Looks at a message; of a camera whose first readable message is an image at that one only."""
        camera, msgtype = message.connection.topic, message.connection.msgtype
        if msgtype.endswith("/Image") or self._readers.get(camera, True) is None:
            return
        try:
            packet = video_packet(message.deserialize())
        except MediaError:
            return  # decoding reports it
        if packet is None and msgtype != FFMPEG_PACKET:
            self._readers.setdefault(camera, None)
        if packet is None:
            return
        reader = self._readers.setdefault(camera, PacketReader())
        assert reader is not None
        info, starts = reader.read(packet), self.starts.setdefault(camera, [])
        if info.has_parameters:
            self._parameters.setdefault(camera, number)
        if info.has_picture:
            start = self._parameters.pop(camera, None)
            if info.is_keyframe and start is not None:
                starts.append(start)


def first_needed(starts: Mapping[str, Sequence[int]], wanted: Mapping[str, int]) -> int:
    """Returns the number of the message at which reading must begin.

    Args:
        starts: See `KeyframeIndex`.
        wanted: Number of the first wanted message of each camera.
    """
    return min(_start(starts.get(camera, ()), number) for camera, number in wanted.items())


def _start(starts: Sequence[int], number: int) -> int:
    """Returns the start before the last one: pictures directly after a keyframe may refer to those before it."""
    place = bisect_left(starts, number + 1)
    return starts[max(0, place - 2)] if place else number


@dataclass(eq=False)
class _Group:
    """A keyframe and the packets up to the next one."""

    head: tuple[VideoPacket, ...]  # with the parameters for the keyframe, if it comes without; maybe a picture of old
    packets: list[tuple[int, VideoPacket]] = field(default_factory=list)
    before: _Group | None = None
    lost: tuple[int, str] | None = None  # from which number on nothing can be decoded, and why


class VideoTrack:
    """The video of one camera, while its bag is read."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._reader, self._decoder = PacketReader(), VideoDecoder(max_pixels)
        self._group: _Group | None = None
        self._head: list[VideoPacket] = []  # the last parameters
        self._place: tuple[_Group, int] | None = None  # of the last packet that was decoded
        self._pictures: dict[int, av.VideoFrame] = {}  # decoded, not asked for yet

    def add(self, number: int, packet: VideoPacket) -> RecordedPicture:
        """Takes the next packet; returns the picture that will be decoded if it is asked for."""
        info = self._reader.read(packet)
        if info.is_keyframe:
            before = self._group
            if before is not None:
                before.before = None
            self._group = _Group(() if info.has_parameters else tuple(self._head), before=before)
        if info.has_parameters:
            self._head = [packet]
        elif not info.has_picture:
            self._head = [*self._head[-_MAX_HEAD:], packet]
        if self._group is not None:
            self._group.packets.append((number, packet))
        return RecordedPicture(self, self._group, number)

    def picture(self, group: _Group | None, number: int) -> av.VideoFrame:
        """Returns a picture; raises MediaError if it cannot be decoded."""
        if group is None:
            raise MediaError("the packet of the video comes before the first keyframe")
        if group.lost is not None and number >= group.lost[0]:
            raise MediaError(f"the packet of the video cannot be decoded: {group.lost[1]}")
        problem = ""
        for first in (group, group.before):  # a picture directly after a keyframe may refer to those before it
            if number in self._pictures or first is None or problem:
                break
            self._lead(first, group, number)
            problem = self._decoder.problem
            if number not in self._pictures:  # it may wait for earlier ones
                self._keep(self._decoder.drain())
                self._place = None
        picture = self._pictures.pop(number, None)
        if picture is None:
            if problem:  # holds for the pictures after it, too
                group.lost = number, problem
            reason = problem or "pictures that it refers to are missing"
            raise MediaError(f"the packet of the video cannot be decoded: {reason}")
        return picture

    def _lead(self, first: _Group, group: _Group, number: int) -> None:
        """Decodes up to a packet: from the last decoded one if it leads there without a gap, else from a group."""
        fed, last = self._place if self._place is not None else (None, 0)
        if fed is group and group.packets[last][0] < number:
            self._feed(group, last + 1, number)
            return
        if fed is None or fed is not group.before or last < len(fed.packets) - 1:
            self._restart(first)
            if first is not group:
                self._feed(first, 0, None)
        self._feed(group, 0, number)

    def _restart(self, group: _Group) -> None:
        self._decoder, self._place = VideoDecoder(self._max_pixels), (group, -1)
        for packet in group.head:
            self._decoder.decode(packet, None)
        self._pictures.clear()

    def _feed(self, group: _Group, first: int, number: int | None) -> None:
        for place in range(first, len(group.packets)):
            own, packet = group.packets[place]
            if number is not None and own > number:
                break
            self._keep(self._decoder.decode(packet, own))
            self._place = group, place

    def _keep(self, done: list[tuple[int | None, av.VideoFrame]]) -> None:
        self._pictures.update((number, picture) for number, picture in done if number is not None)
        for number in list(self._pictures)[:-_MAX_PICTURES]:
            del self._pictures[number]


@dataclass(frozen=True)
class RecordedPicture:
    """A picture of a video that has not been decoded."""

    track: VideoTrack
    group: _Group | None
    number: int

    def decode(self) -> av.VideoFrame:
        """Returns the picture; raises MediaError if it cannot be decoded."""
        return self.track.picture(self.group, self.number)
