"""Image and video files -> RGB frames.

A video is read as a `Clip`: it can be iterated more than once, decodes anew each time, and never holds more than one
frame. Sampling is that of the released code: ffmpeg's fps filter rounding down, then evenly spread frames if there
are more than max_frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import av
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from penguin_models.errors import MediaError
from penguin_models.types import UInt8Array

_T = TypeVar("_T")

FPS = 1.0
MAX_FRAMES = 180
_SEGMENT = bytes.fromhex("18538067")
"""Identifier of the element that holds a Matroska file's streams."""
DECODING_ERRORS = (OSError, SyntaxError, ValueError, OverflowError, RuntimeError)
"""What Pillow's decoders make of damaged files."""


class ClipFrame(NamedTuple):
    """One sampled frame: its time in seconds as the container counts it, and uint8 [H, W, 3]."""

    time_s: float
    rgb: UInt8Array


class Clip(Protocol):
    """A sequence of sampled frames that can be read again."""

    def __iter__(self) -> Iterator[ClipFrame]:
        """Reads the frames from the start, one at a time."""
        ...


def check_sampling(fps: float, max_frames: int) -> None:
    """Raises MediaError where fps or max_frames make no sense."""
    if not 0 < fps < math.inf or max_frames <= 0:
        raise MediaError(f"fps {fps} and max_frames {max_frames} must be above 0 and finite")


def sample_uniformly(frames: Sequence[_T], most: int) -> Sequence[_T]:
    """All frames, or `most` of them, spread evenly from the first to the last."""
    if len(frames) <= most:
        return frames
    return [frames[i] for i in np.linspace(0, len(frames) - 1, most, dtype=int)]


def load_image(path: str | Path) -> UInt8Array:
    """Reads an image file as it is meant to be seen (EXIF orientation applied): uint8 [H, W, 3].

    Raises:
        MediaError: the file is missing, empty, truncated or no image.
    """
    try:
        with Image.open(path) as image:
            return to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as err:
        raise MediaError(f"{path} is not an image that Pillow can read") from err
    except Image.DecompressionBombError as err:
        raise MediaError(f"{path} is too large: {err}") from err
    except FileNotFoundError as err:
        raise MediaError(f"image {path} does not exist") from err
    except DECODING_ERRORS as err:
        raise MediaError(f"image {path} cannot be decoded: {err}") from err


def to_rgb(image: Image.Image) -> UInt8Array:
    """Any Pillow image as uint8 [H, W, 3]; 16-bit grey is scaled to 8 bit (Pillow would clip it)."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.array(image.convert("RGB"))


class VideoFile:
    """A video file as a `Clip`."""

    def __init__(self, path: str | Path, fps: float = FPS, max_frames: int = MAX_FRAMES):
        """Checks that the file is a video.

        Args:
            path: any file that ffmpeg reads.
            fps: sampled frames per second of video.
            max_frames: where there would be more, this many are taken evenly from them.

        Raises:
            MediaError: the file is missing or broken, or has no video; or fps or max_frames is not positive.
        """
        check_sampling(fps, max_frames)
        self._path = Path(path)
        self._fps = Fraction(fps).limit_denominator(1001)
        if not self._path.is_file():
            raise MediaError(f"video {path} {'is not a file' if self._path.exists() else 'does not exist'}")
        with _open(self._path) as container:
            stream = _video_stream(self._path, container)
            self._start_s = float((stream.start_time or 0) * (stream.time_base or 0))
            duration_s = container.duration / av.time_base if container.duration else None
        self._indices: set[int] | None = None
        # Only a video that may have too many samples must be counted first, by decoding it once.
        if duration_s is None or duration_s * fps > max_frames - 2:
            count = sum(1 for _ in self._samples())
            if count > max_frames:
                self._indices = set(sample_uniformly(range(count), max_frames))

    def __iter__(self) -> Iterator[ClipFrame]:
        """Decodes the file and yields the sampled frames.

        Raises:
            MediaError: the file breaks off or holds no frame.
        """
        empty = True
        for index, frame in enumerate(self._samples()):
            empty = False
            if self._indices is None or index in self._indices:
                yield ClipFrame(self._start_s + float(index / self._fps), _upright(frame))
        if empty:
            raise MediaError(f"video {self._path} has no frames")

    def _samples(self) -> Iterator[av.VideoFrame]:
        with _open(self._path) as container:
            stream = _video_stream(self._path, container)
            stream.thread_type = "AUTO"
            sampler = None
            try:
                for frame in _decode_whole(container, stream):
                    sampler = sampler or _FpsFilter(frame, self._fps)
                    yield from sampler.push(frame)
                if sampler is not None:
                    yield from sampler.finish()
            except (av.error.FFmpegError, _BreaksOffError) as err:
                raise MediaError(f"video {self._path} cannot be decoded to its end: {err}") from err


def _open(path: Path) -> Any:
    try:
        return av.open(str(path))
    except (av.error.FFmpegError, OSError) as err:
        raise MediaError(f"video {path} cannot be opened: {err}") from err


def _video_stream(path: Path, container: Any) -> Any:
    if not container.streams.video:
        raise MediaError(f"{path} has no video stream")
    return container.streams.video[0]


class _BreaksOffError(Exception):
    """A file ends before its video does."""


def _decode_whole(container: Any, stream: Any) -> Iterator[av.VideoFrame]:
    """All frames of a video.

    ffmpeg takes the end of a file for the end of its video. That it is not shows in a packet that was cut, or in what
    the file's head announces; the head of a transport stream announces nothing.

    Raises:
        _BreaksOffError: there should have been more.
    """
    end_s, last = 0.0, None
    for packet in container.demux(stream):
        if packet.is_corrupt and container.format.name != "mpegts":  # which also says so of a gap
            raise _BreaksOffError(f"the file is damaged or breaks off behind {end_s:.2f} s; copy it again")
        if packet.size and packet.pts is not None:
            end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        last = packet.dts if packet.dts is not None else last
        yield from packet.decode()
    kind, file = container.format.name, Path(container.name)
    # An AVI counts its frames in its head, also those that only repeat the one before.
    short = kind == "avi" and last is not None and stream.frames - (last + 1) > (stream.average_rate or 1)
    if short or (kind.startswith("matroska") and _announced_bytes(file) > file.stat().st_size):
        raise _BreaksOffError(f"the file breaks off behind {end_s:.2f} s, its head announces more; copy it again")


def _announced_bytes(file: Path) -> int:
    """How long a Matroska or WebM file says that it is; 0 where it does not say (RFC 8794, RFC 9559)."""
    with file.open("rb") as opened:
        head = opened.read(4096)
    at = 0
    while at + 12 <= len(head):
        size_at = at + 9 - head[at].bit_length()
        length = 9 - head[size_at].bit_length()
        unknown = (1 << 7 * length) - 1
        size = int.from_bytes(head[size_at : size_at + length], "big") & unknown
        end = size_at + length + size
        if head[at:size_at] == _SEGMENT:
            return 0 if size == unknown else end
        at = end
    return 0


class _FpsFilter:
    """ffmpeg's fps filter, rounding down."""

    def __init__(self, first: av.VideoFrame, fps: Fraction):
        self._graph = av.filter.Graph()
        self._source: Any = self._graph.add_buffer(
            width=first.width, height=first.height, format=first.format, time_base=first.time_base
        )
        rate = self._graph.add("fps", f"fps={fps.numerator}/{fps.denominator}:round=down")
        self._sink: Any = self._graph.add("buffersink")
        self._source.link_to(rate)
        rate.link_to(self._sink)
        self._graph.configure()
        self._only: av.VideoFrame | None = first  # the newest frame, as long as nothing was sampled

    def push(self, frame: av.VideoFrame) -> Iterator[av.VideoFrame]:
        """Takes a frame; yields what is sampled by now."""
        self._only = self._only and frame
        self._source.push(frame)
        yield from self._pull()

    def finish(self) -> Iterator[av.VideoFrame]:
        """Yields what is sampled of the end; of a video shorter than 1/fps, its last frame."""
        self._source.push(None)
        yield from self._pull()
        if self._only is not None:
            yield self._only  # the filter drops a frame that does not last long enough

    def _pull(self) -> Iterator[av.VideoFrame]:
        while True:
            try:
                sample = self._sink.pull()
            except (av.error.BlockingIOError, av.error.EOFError):  # nothing more for now, or at all
                return
            self._only = None
            yield sample


def _upright(frame: av.VideoFrame) -> UInt8Array:
    """The frame as it is meant to be seen: phones store a rotation beside the pixels."""
    rgb = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb
