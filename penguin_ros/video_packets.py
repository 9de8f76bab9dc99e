"""Messages with packets of H.264 and H.265 video, and what their bits say without decoding them.

Reads what a decoder does not report: whether a packet is a keyframe, and whether packets of H.264 before it are missing
(ffmpeg shows pictures with smears then). A packet is one picture in Annex B format, as drivers and encoders send it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from penguin_models.errors import MediaError

FFMPEG_PACKET = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
_CODECS = {"h264": re.compile(r"[hx]\.?264|avc", re.I), "hevc": re.compile(r"[hx]\.?265|hevc", re.I)}
_START = b"\0\0\1"
_PARAMETER_BYTES = 4096  # more than a parameter set has
_HIGH_PROFILES = {100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135}
_SLICE_BYTES = 40  # enough for the fields of a slice header that are read
_RECOVERY_POINT = 6  # type of an SEI message


class VideoPacket(NamedTuple):
    """A packet of a video stream."""

    codec: str  # ffmpeg's name: h264 or hevc
    data: bytes  # Annex B: each unit after a start code


def video_packet(message: Any) -> VideoPacket | None:
    """Returns the packet in an FFMPEGPacket or CompressedImage message of rclpy or rosbags; None if it has an image.

    Raises:
        MediaError: An FFMPEGPacket of another codec.
    """
    if hasattr(message, "pts"):
        name = message.encoding.partition(";")[0]  # of the encoder, and the pixel formats after it
        codec = _codec(name)
        if codec is None:
            raise MediaError(f"video of the encoding {name!r:.80} is not read; use an encoder of H.264 or H.265")
    else:
        is_compressed = hasattr(message, "format")
        codec = (_codec(message.format) or _sniffed(bytes(message.data[:8]))) if is_compressed else None
    return None if codec is None else VideoPacket(codec, bytes(message.data))


def _codec(name: str) -> str | None:
    return next((codec for codec, pattern in _CODECS.items() if pattern.search(name)), None)


def _sniffed(data: bytes) -> str | None:
    start = data.find(_START)
    if start not in (0, 1) or len(data) < start + len(_START) + 2:
        return None
    first, second = data[start + len(_START) :][:2]
    return "hevc" if first >> 1 in (32, 33, 35, 39) and second == 1 else "h264"  # VPS, SPS, delimiter, SEI


class PacketInfo(NamedTuple):
    """What a packet holds."""

    has_parameters: bool  # a sequence parameter set, without which nothing can be decoded
    has_picture: bool  # or only parameters
    is_keyframe: bool  # whether decoding can start here
    is_after_gap: bool  # whether pictures that it refers to were lost before it; known for H.264 only


class PacketReader:
    """Reads the packets of one stream in their order."""

    def __init__(self) -> None:
        self._sequence: _Sequence | None = None
        self._frame_number: int | None = None  # of the last picture that others refer to

    def forget_order(self) -> None:
        """Expects any packet next."""
        self._frame_number = None

    def read(self, packet: VideoPacket) -> PacketInfo:
        """Returns what the packet holds; of damaged packets, anything."""
        units = _h264_units if packet.codec == "h264" else _hevc_units
        has_parameters = recovers = False
        for kind, header, body in units(packet.data):
            if kind == "parameters":
                has_parameters = True
                if packet.codec == "h264":
                    self._sequence = _Sequence.parse(body)
            elif kind == "recovery":
                recovers = True
            else:
                is_after_gap = packet.codec == "h264" and self._counts_on(header, body)
                return PacketInfo(has_parameters, True, recovers or kind == "key", is_after_gap)
        return PacketInfo(has_parameters, False, False, False)

    def _counts_on(self, header: int, body: bytes) -> bool:
        """Returns whether the number of an H.264 picture shows that ones before it are missing."""
        if self._sequence is None:
            return False
        number = self._sequence.frame_number(body)
        before, modulus = self._frame_number, 1 << self._sequence.number_bits
        if header & 31 == 5:  # starts anew
            before, number = None, 0
        if header >> 5 & 3 or before is None:
            self._frame_number = number
        return before is not None and not self._sequence.may_skip and number not in (before, (before + 1) % modulus)


def _h264_units(data: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Yields (kind, header, body) of the units up to the first slice."""
    for start, end in _units(data):
        header = data[start]
        kind = {1: "picture", 2: "picture", 5: "key", 7: "parameters"}.get(header & 31)
        if header & 31 == 6 and data[start + 1 : start + 2] == bytes([_RECOVERY_POINT]):
            kind = "recovery"
        if kind is not None:
            limit = end if kind == "parameters" else min(end, start + _SLICE_BYTES)
            yield kind, header, data[start + 1 : limit].replace(b"\0\0\3", b"\0\0")


def _hevc_units(data: bytes) -> Iterator[tuple[str, int, bytes]]:
    for start, _ in _units(data):
        unit = data[start] >> 1 & 63
        if unit == 33:
            yield "parameters", data[start], b""
        elif unit < 32:
            yield "key" if 16 <= unit <= 23 else "picture", data[start], b""


def _units(data: bytes) -> Iterator[tuple[int, int]]:
    """Yields the places of the units, without looking further than asked for."""
    start = data.find(_START)
    while 0 <= start < len(data) - len(_START):
        place = start + len(_START)
        start = data.find(_START, place, place + _PARAMETER_BYTES)  # a slice may be long; where it ends does not matter
        yield place, start if start >= 0 else len(data)
        if start < 0:
            start = data.find(_START, place + _PARAMETER_BYTES - len(_START))


class _Sequence(NamedTuple):
    """The fields of an H.264 sequence parameter set (ITU-T H.264, 7.3.2.1.1) that number pictures."""

    number_bits: int
    separate_planes: bool
    may_skip: bool  # the encoder leaves out numbers on purpose

    @classmethod
    def parse(cls, body: bytes) -> _Sequence | None:
        """Returns None if the set is damaged."""
        try:
            return cls._parse(_Bits(body))
        except ValueError:
            return None

    @classmethod
    def _parse(cls, bits: _Bits) -> _Sequence:
        profile = bits.read(8)
        bits.read(16)
        bits.unsigned()
        separate_planes = False
        if profile in _HIGH_PROFILES:
            chroma = bits.unsigned()
            separate_planes = chroma == 3 and bool(bits.read(1))
            bits.unsigned()
            bits.unsigned()
            bits.read(1)
            if bits.read(1):
                _skip_scaling(bits, 12 if chroma == 3 else 8)
        number_bits = bits.unsigned() + 4
        order = bits.unsigned()
        if order == 0:
            bits.unsigned()
        elif order == 1:
            bits.read(1)
            bits.unsigned()
            bits.unsigned()
            for _ in range(bits.unsigned()):
                bits.unsigned()
        bits.unsigned()
        return cls(number_bits, separate_planes, bool(bits.read(1)))

    def frame_number(self, body: bytes) -> int:
        """Returns the field frame_num of a slice header; 0 if it is damaged."""
        bits = _Bits(body)
        try:
            for _ in range(3):  # first macroblock, type, picture parameter set
                bits.unsigned()
            if self.separate_planes:
                bits.read(2)
            return bits.read(self.number_bits)
        except ValueError:
            return 0


def _skip_scaling(bits: _Bits, count: int) -> None:
    for matrix in range(count):
        last = following = 8
        for _ in range((16 if matrix < 6 else 64) if bits.read(1) else 0):
            if following:
                following = (last + bits.signed()) % 256
            last = following or last


class _Bits:
    """Reads bits and Exp-Golomb codes; raises ValueError at the end."""

    def __init__(self, data: bytes):
        self._bits = "".join(f"{byte:08b}" for byte in data)
        self._place = 0

    def read(self, count: int) -> int:
        """Returns the next bits as a number."""
        self._place += count
        if self._place > len(self._bits):
            raise ValueError("the bits have ended")
        return int(self._bits[self._place - count : self._place] or "0", 2)

    def unsigned(self) -> int:
        """Returns the next code ue(v)."""
        zeros = self._bits.index("1", self._place) - self._place
        self._place += zeros
        return self.read(zeros + 1) - 1

    def signed(self) -> int:
        """Returns the next code se(v)."""
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -(code // 2)
