"""Packets of H.264 and H.265 as encoders on robots send them, of pictures whose brightness is their number."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from typing import NamedTuple

import av
import numpy as np

_FAST = {"preset": "ultrafast", "tune": "zerolatency"}
_B_FRAMES = "threads=1:scenecut=0:b-pyramid=none"  # no other picture refers to them
_X265 = "log-level=0:pools=1:keyint=10:min-keyint=10"
STREAMS = {  # codec, encoder, options, number of B-frames
    "h264": ("h264", "libx264", {**_FAST, "x264-params": "threads=1"}, 0),
    "h264 with B-frames": ("h264", "libx264", {"preset": "fast", "x264-params": _B_FRAMES}, 2),
    "h264 that refreshes": ("h264", "libx264", {**_FAST, "x264-params": "threads=1:intra-refresh=1:keyint=10"}, 0),
    "h265": ("hevc", "libx265", {**_FAST, "x265-params": _X265}, 0),
    "h265 with open groups": ("hevc", "libx265", {"preset": "fast", "x265-params": f"{_X265}:scenecut=0"}, 2),
}  # fmt: skip


class Packet(NamedTuple):
    number: int  # of its picture
    data: bytes


@cache
def packets(stream, count=30, size=(64, 48)):
    """Returns the packets of a stream in the order of decoding, with a keyframe for every ten pictures."""
    _, encoder, options, b_frames = STREAMS[stream]
    context = av.CodecContext.create(encoder, "w")
    context.width, context.height = size
    context.pix_fmt, context.gop_size, context.max_b_frames = "yuv420p", 10, b_frames
    context.time_base, context.framerate, context.options = Fraction(1, 30), Fraction(30), options
    made = []
    for number in range(count):
        rgb = np.full((size[1], size[0], 3), 10 + 6 * number, np.uint8)
        rgb[8:16, number : number + 8] = 255 - rgb[0, 0, 0]
        picture = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format="yuv420p")
        picture.pts = number
        made += context.encode(picture)
    return tuple(Packet(packet.pts, bytes(packet)) for packet in (*made, *context.encode(None)))


def number_of(rgb):
    """Returns the number of a decoded picture."""
    return round((float(np.median(rgb)) - 10) / 6)
