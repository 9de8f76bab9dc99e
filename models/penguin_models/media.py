"""Image and video files -> RGB frames.

A video is read as a `Clip`: it can be iterated more than once, decodes anew each time, and never holds more than one
frame. Sampling is that of the released code: ffmpeg's fps filter rounding down, then evenly spread frames if there
are more than max_frames. PyAV is imported only when a video is opened.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from penguin_models.errors import MediaError
from penguin_models.types import UInt8Array

if TYPE_CHECKING:
    import av

_T = TypeVar("_T")

FPS = 1.0
MAX_FRAMES = 180
DECODING_ERRORS = (OSError, SyntaxError, ValueError, OverflowError, RuntimeError)
"""Errors that Pillow's decoders raise for damaged files."""
_MATROSKA_SEGMENT = bytes.fromhex("18538067")


class ClipFrame(NamedTuple):
    """One sampled frame: its time in seconds as the container counts it, and its pixels, uint8 [H, W, 3]."""

    time_s: float
    rgb: UInt8Array


Clip: TypeAlias = Iterable[ClipFrame]
"""Sampled frames, one at a time; they can be read more than once."""


def check_sampling(fps: float, max_frames: int) -> None:
    """Raises MediaError if fps or max_frames is not positive and finite."""
    if not 0 < fps < math.inf or max_frames <= 0:
        raise MediaError(f"fps {fps} and max_frames {max_frames} must be above 0 and finite")


def sample_uniformly(frames: Sequence[_T], most: int) -> Sequence[_T]:
    """Returns all frames, or `most` of them spread evenly from the first to the last."""
    if len(frames) <= most:
        return frames
    return [frames[i] for i in np.linspace(0, len(frames) - 1, most, dtype=int)]


def load_image(path: str | Path) -> UInt8Array:
    """Reads an image file with its EXIF orientation applied: uint8 [H, W, 3].

    Raises:
        MediaError: The file is missing, empty, truncated or not an image.
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
    """Converts any Pillow image to uint8 [H, W, 3]; 16-bit grey is scaled to 8 bits, which Pillow would clip."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.array(image.convert("RGB"))


class VideoFile:
    """A video file as a `Clip`."""

    def __init__(self, path: str | Path, fps: float = FPS, max_frames: int = MAX_FRAMES):
        """Opens any file that ffmpeg reads; a sequence of more than `max_frames` frames is thinned evenly.

        Raises:
            MediaError: The file is missing or broken, or has no video; fps or max_frames is not positive; or PyAV is
                not installed.
        """
        check_sampling(fps, max_frames)
        self._path = Path(path)
        self._fps = Fraction(fps).limit_denominator(1001)
        if not self._path.is_file():
            raise MediaError(f"video {path} {'is not a file' if self._path.exists() else 'does not exist'}")
        with _open(self._path) as container:
            stream = _video_stream(self._path, container)
            self._start_s = float((stream.start_time or 0) * (stream.time_base or 0))
            duration_s = container.duration / 1e6 if container.duration else None
        self._indices: set[int] | None = None
        # Decode once to count the samples, but only if there may be too many.
        if duration_s is None or duration_s * fps > max_frames - 2:
            count = sum(1 for _ in self._samples())
            if count > max_frames:
                self._indices = set(sample_uniformly(range(count), max_frames))

    def __iter__(self) -> Iterator[ClipFrame]:
        """Decodes and yields the sampled frames; raises MediaError if the file breaks off or holds none."""
        empty = True
        for index, frame in enumerate(self._samples()):
            empty = False
            if self._indices is None or index in self._indices:
                yield ClipFrame(self._start_s + float(index / self._fps), _upright(frame))
        if empty:
            raise MediaError(f"video {self._path} has no frames")

    def _samples(self) -> Iterator[av.VideoFrame]:
        with _open(self._path) as container:
            from av.error import FFmpegError

            stream = _video_stream(self._path, container)
            stream.thread_type = "AUTO"
            try:
                yield from _sample(_decode_whole(container, stream), self._fps)
            except FFmpegError as err:
                raise MediaError(f"video {self._path} cannot be decoded to its end: {err}") from err


def _open(path: Path) -> Any:
    try:
        import av
    except ModuleNotFoundError as err:
        raise MediaError("reading videos needs PyAV, which is not installed: pip install av") from err
    try:
        return av.open(str(path))
    except (av.error.FFmpegError, OSError) as err:
        raise MediaError(f"video {path} cannot be opened: {err}") from err


def _video_stream(path: Path, container: Any) -> Any:
    if not container.streams.video:
        raise MediaError(f"{path} has no video stream")
    return container.streams.video[0]


def _decode_whole(container: Any, stream: Any) -> Iterator[av.VideoFrame]:
    """Yields all frames of a video; raises MediaError if the file was cut short.

    ffmpeg takes the end of the file for the end of the video. A cut shows only in a damaged last packet or in the
    length that the file's header announces; the header of a transport stream announces nothing.
    """
    kind, file = container.format.name, Path(container.name)
    end_s, last = 0.0, None
    for packet in container.demux(stream):
        if packet.is_corrupt and kind != "mpegts":  # there, gaps are flagged as well
            raise MediaError(f"video {file} is damaged or breaks off after {end_s:.2f} s; copy it again")
        if packet.size and packet.pts is not None:
            end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        last = packet.dts if packet.dts is not None else last
        yield from packet.decode()
    # The header of an AVI counts frames, including those that only repeat the one before.
    short = kind == "avi" and last is not None and stream.frames - (last + 1) > (stream.average_rate or 1)
    if short or (kind.startswith("matroska") and _announced_bytes(file) > file.stat().st_size):
        raise MediaError(f"video {file} breaks off after {end_s:.2f} s, its header announces more; copy it again")


def _announced_bytes(file: Path) -> int:
    """Returns the length that a Matroska or WebM file announces (RFC 8794, RFC 9559), or 0 if it does not."""
    with file.open("rb") as opened:
        head = opened.read(4096)
    at = 0
    while at + 12 <= len(head):
        size_at = at + 9 - head[at].bit_length()
        length = 9 - head[size_at].bit_length()
        unknown = (1 << 7 * length) - 1
        size = int.from_bytes(head[size_at : size_at + length], "big") & unknown
        end = size_at + length + size
        if head[at:size_at] == _MATROSKA_SEGMENT:
            return 0 if size == unknown else end
        at = end
    return 0


def _sample(frames: Iterable[av.VideoFrame], fps: Fraction) -> Iterator[av.VideoFrame]:
    """Applies ffmpeg's fps filter, rounding down; a video shorter than 1/fps yields its last frame."""
    graph, last, sampled = None, None, False
    for frame in chain(frames, (None,)):  # None flushes the filter
        if graph is None:
            if frame is None:
                return
            graph = _fps_filter(frame, fps)
        graph.push(frame)
        try:
            while True:
                yield graph.pull()
                sampled = True
        except (BlockingIOError, EOFError):  # nothing more for now, or at all
            last = frame or last
    if not sampled and last is not None:
        yield last  # the filter drops a frame that does not last long enough


def _fps_filter(first: av.VideoFrame, fps: Fraction) -> Any:
    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(width=first.width, height=first.height, format=first.format, time_base=first.time_base)
    rate = graph.add("fps", f"fps={fps.numerator}/{fps.denominator}:round=down")
    source.link_to(rate)
    rate.link_to(graph.add("buffersink"))
    graph.configure()
    return graph


def _upright(frame: av.VideoFrame) -> UInt8Array:
    """Applies the rotation that phones store next to the pixels."""
    rgb = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb
