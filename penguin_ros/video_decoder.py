"""Decodes a stream of H.264 or H.265 packets, of which some may be missing or damaged, with PyAV.

A picture that refers to a lost one is not shown with smears: everything up to the next keyframe is skipped and counted.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from penguin_models.decoding import MAX_IMAGE_PIXELS
from penguin_models.displayed_frames import displayed
from penguin_models.types import Size, UInt8Array
from penguin_ros.video_packets import PacketReader, VideoPacket

if TYPE_CHECKING:
    import av

_MAX_PENDING = 256
"""Packets without a picture after which the decoder is restarted; streams that refresh gradually need many."""
_MANY_PENDING = 32
"""More than pictures are reordered."""
NO_KEYFRAME = "waiting for a keyframe"
_LOST = "packets were lost; waiting for the next keyframe"
_NO_PARAMETERS = (
    "the keyframes come without parameter sets (SPS and PPS), which the encoder sent only at its start; make it repeat "
    "them with each keyframe, or restart it"
)


def picture_to_rgb(picture: av.VideoFrame) -> UInt8Array:
    """Converts a decoded picture to uint8 [height, width, 3]."""
    return displayed(picture, Size(picture.height, picture.width))


class VideoDecoder:
    """Decoder of one camera.

    Attributes:
        packets: Number of packets.
        skipped: Number of packets without a picture, because a keyframe or other packets before them were missing.
        damaged: Number of packets that could not be decoded.
        losses: Number of times that packets were missing.
        waiting: Why packets are skipped until the next keyframe; "" if they are decoded.
    """

    def __init__(self, max_pixels: int = MAX_IMAGE_PIXELS) -> None:
        """Prepares for any codec; a packet with a picture of more than `max_pixels` counts as damaged."""
        self._max_pixels = max_pixels
        self.packets = self.skipped = self.damaged = self.losses = 0
        self.waiting = NO_KEYFRAME
        self._reader = PacketReader()
        self._context: Any = None
        self._codec = ""
        self._has_parameters = False
        self._tags: dict[int, Any] = {}  # of the packets whose pictures have not come out yet

    @property
    def problem(self) -> str:
        """Why no picture comes, as far as it is known."""
        if not self.waiting and len(self._tags) > _MANY_PENDING:
            return "the packets refer to pictures that are missing; waiting for the next keyframe"
        return self.waiting

    @property
    def _damage(self) -> str:
        limit = f"its picture has more than max_image_pixels = {self._max_pixels} pixels"
        return f"a packet was damaged, packets before it were lost, or {limit}; waiting for the next keyframe"

    def decode(self, packet: VideoPacket, tag: Any) -> list[tuple[Any, av.VideoFrame]]:
        """Decodes a packet; returns the pictures that are complete, each with the tag of its own packet."""
        import av

        self.packets += 1
        done = []
        if packet.codec != self._codec:
            done = self.interrupt(self.waiting or f"the codec changed to {packet.codec}")
            self._codec, self._context = packet.codec, av.CodecContext.create(packet.codec, "r")
            # Without err_detect, damaged pictures of H.265 are not marked.
            self._context.options = {"err_detect": "explode", "max_pixels": str(self._max_pixels)}
            self._reader, self._has_parameters = PacketReader(), False
        info = self._reader.read(packet)
        self._has_parameters |= info.has_parameters
        if info.is_after_gap and not self.waiting and not info.is_keyframe:
            self.losses += 1
            done += self.interrupt(_LOST)
        if info.has_picture and self.waiting and not self._can_start(info.is_keyframe):
            self.skipped += 1
            return done
        if info.has_picture:
            self._tags[self.packets] = tag
        return done + self._decoded(packet.data)

    def interrupt(self, reason: str) -> list[tuple[Any, av.VideoFrame]]:
        """Waits for the next keyframe, because of an interruption; returns the pictures that were complete before."""
        done = self.drain()
        self.waiting = reason
        return done

    def drain(self) -> list[tuple[Any, av.VideoFrame]]:
        """Returns the pictures that waited for earlier ones; decoding goes on at a keyframe."""
        import av

        done: list[tuple[Any, av.VideoFrame]] = []
        if self._context is not None and self._context.is_open:
            with suppress(av.error.FFmpegError):
                done = self._taken(self._context.decode(None))
            self._context.flush_buffers()
        self.skipped += len(self._tags)
        self._tags.clear()
        self.waiting = self.waiting or NO_KEYFRAME
        self._reader.forget_order()
        return done

    def _can_start(self, is_keyframe: bool) -> bool:
        if not is_keyframe:
            return False
        if not self._has_parameters:
            self.waiting = _NO_PARAMETERS
            return False
        self.waiting = ""
        return True

    def _decoded(self, data: bytes) -> list[tuple[Any, av.VideoFrame]]:
        import av

        packet = av.Packet(data)
        packet.pts = self.packets
        try:
            frames = self._context.decode(packet)
        except av.error.FFmpegError:
            self.damaged += 1
            self._tags.pop(self.packets, None)
            return self.interrupt(self._damage)
        done = self._taken(frames)
        if any(frame.is_corrupt for frame in frames):
            done += self.interrupt(self._damage)
        if len(self._tags) > _MAX_PENDING:
            self.losses += 1
            done += self.interrupt(_LOST)
        return done

    def _taken(self, frames: list[av.VideoFrame]) -> list[tuple[Any, av.VideoFrame]]:
        done = []
        for frame in frames:
            if frame.key_frame:
                self._forget_before(frame.pts)
            tag = self._tags.pop(frame.pts, None)
            if frame.is_corrupt:
                self.damaged += 1
            elif tag is not None:
                done.append((tag, frame))
        return done

    def _forget_before(self, number: int | None) -> None:
        """Counts packets before a keyframe whose pictures did not come out: they refer to lost ones."""
        lost = [pending for pending in self._tags if number is not None and pending < number]
        self.losses += bool(lost)
        self.skipped += len(lost)
        for pending in lost:
            del self._tags[pending]
