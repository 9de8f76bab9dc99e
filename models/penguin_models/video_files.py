"""A video file as a `Clip`: it can be iterated more than once, decodes anew each time, and holds two frames at most.

Of several video streams, that is shown which ffmpeg would choose; `displayed_frames.py` makes pictures of its frames.
PyAV is imported only when a video is opened.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penguin_models.clips import FPS, MAX_FRAMES, ClipFrame, at_first_size, check_sampling, duration, sample_uniformly
from penguin_models.container_layout import read_layout
from penguin_models.decoding import MAX_IMAGE_PIXELS, check_size
from penguin_models.displayed_frames import displayed, square_pixels
from penguin_models.errors import MediaError
from penguin_models.file_checks import check_file
from penguin_models.frame_sampling import LONGEST_GAP_S, MAX_JUMPS, FrameSampler
from penguin_models.types import Size

if TYPE_CHECKING:
    import av

_TS_DISCONT = 0x200  # AVFMT_TS_DISCONT of libavformat: timestamps of the format may restart
_WRAP_S = 2**33 / 90_000  # when timestamps of MPEG-TS and MPEG-PS begin anew
_SHORTEST_INTERVAL_S = Fraction(1, 2000)
_UNKNOWN_JUMP_S = 10**12
_DEFAULT_RATE = 25  # ffmpeg's, where a format has neither timestamps nor a rate
_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_REFERRING = {"concat", "dash", "hls", "imf", "rtsp", "sdp", "webm_dash_manifest"}
"""Formats of ffmpeg that only name other files or addresses, which a stranger's file must not open."""
_DEFAULT_STREAM_PIXELS = 5_000_000  # what ffmpeg adds to the area of a stream that is marked as the default


class VideoFile:
    """A video file as a `Clip`."""

    def __init__(
        self, path: str | Path, fps: float = FPS, max_frames: int = MAX_FRAMES, max_pixels: int = MAX_IMAGE_PIXELS
    ):
        """Opens any file that ffmpeg reads; a sequence of more than `max_frames` frames is thinned evenly.

        Raises:
            MediaError: The file is missing or broken, has no video, or has frames of more than `max_pixels` pixels; fps
                or max_frames is not positive; or PyAV is not installed.
        """
        check_sampling(fps, max_frames)
        self.notes: list[str] = []
        """Sentences about what is unusual in the file; complete once the clip has been read."""
        self._path = Path(path)
        self._max_pixels = max_pixels
        self._fps = Fraction(fps).limit_denominator(1001) or Fraction(fps)
        check_file(self._path, "video")
        self._layout = read_layout(self._path)
        with self._opened(0) as (container, stream):
            self._start_s, self._aspect = self._start(stream), stream.sample_aspect_ratio
            self._check_size(Size(stream.height, stream.width))
            self._broadcast = bool(container.format.flags & _TS_DISCONT)
        self._chosen: Sequence[int] = range(max_frames)
        # Headers are often wrong about the length. Decode once to count the samples, but only if there may be too many.
        if self._may_exceed(max_frames):
            count = sum(len(numbers) for _, numbers in self._samples())
            self._chosen = sample_uniformly(range(count), max_frames)

    def __iter__(self) -> Iterator[ClipFrame]:
        """Decodes and yields the sampled frames; raises MediaError if the file breaks off or holds none."""
        return at_first_size(self._frames(), f"video {self._path}", self._note)

    def _frames(self) -> Iterator[ClipFrame]:
        empty, chosen = True, self._chosen
        for frame, numbers in self._samples():
            empty = False
            shown = chosen[bisect_left(chosen, numbers.start) : bisect_left(chosen, numbers.stop)]
            if shown:
                size = square_pixels(Size(frame.height, frame.width), self._aspect)
                self._check_size(size)
                rgb = displayed(frame, size)
                yield from (ClipFrame(self._start_s + float(number / self._fps), rgb) for number in shown)
        if empty:
            raise MediaError(f"video {self._path} has no frames")

    def _samples(self) -> Iterator[tuple[av.VideoFrame, range]]:
        """Decodes the file; yields each sampled frame with the numbers of its samples."""
        from av.error import FFmpegError

        sampler = FrameSampler(self._fps, self._broadcast)
        try:
            yield from sampler.sample(self._timed_frames())
        except FFmpegError as err:
            raise MediaError(f"video {self._path} cannot be decoded to its end: {err.strerror}") from err
        if sampler.jumps:
            self._note(f"video {self._path}: {_describe_jumps(sampler.jumps, self._broadcast)}")

    def _timed_frames(self) -> Iterator[tuple[av.VideoFrame, Fraction, Fraction]]:
        for part in range(len(self._layout.parts)):
            with self._opened(part) as (container, stream):
                yield from _timed(self._decode_whole(container, stream, part), stream, "pts")

    def _may_exceed(self, max_frames: int) -> bool:
        """Whether the video may have more samples, judged by its packets, which are read but not decoded."""
        from av.error import FFmpegError

        def packets() -> Iterator[tuple[av.Packet, Fraction, Fraction]]:
            for part in range(len(self._layout.parts)):
                with self._opened(part) as (container, stream):
                    yield from _timed((packet for packet in container.demux(stream) if packet.size), stream, "dts")

        samples = FrameSampler(self._fps, self._broadcast).sample(packets())
        try:  # In decoding order, so that the last few frames may be missing.
            return any(numbers.stop > max_frames - 4 for _, numbers in samples)
        except (FFmpegError, IndexError):
            return True  # it will be reported by decoding

    @contextmanager
    def _opened(self, part: int) -> Iterator[tuple[Any, Any]]:
        """Opens a part of the file; yields its container and the stream to show."""
        try:
            import av
        except ModuleNotFoundError as err:
            raise MediaError("reading videos needs PyAV, which is not installed: pip install av") from err
        which = "cannot be opened"
        url = f"file:{self._path}"  # or ffmpeg would take 10:00.mp4 for a protocol named 10
        if len(self._layout.parts) > 1:
            start, end = self._layout.parts[part]
            if part:
                which = f"consists of joined files, of which the one from byte {start} cannot be opened"
            url = f"subfile,,start,{start},end,{end},,:{url}"
        try:
            # Titles are often not UTF-8. The option is for the frames that are decoded to find out what is in the file.
            options = {"max_pixels": str(self._max_pixels), "format_whitelist": ",".join(_formats())}
            container = av.open(url, metadata_errors="replace", options=options)
        except (av.error.FFmpegError, OSError) as err:
            reason = f"{err.strerror}; it is damaged, or not a video"
            raise MediaError(f"video {self._path} {which}: {reason}") from err
        with container:
            yield container, self._choose(container)

    def _choose(self, container: Any) -> Any:
        """Returns the video stream that ffmpeg would choose; covers and thumbnails are no videos."""
        from av.stream import Disposition

        pictures = Disposition.attached_pic | Disposition.timed_thumbnails
        videos = [stream for stream in container.streams.video if not stream.disposition & pictures]
        if not videos:
            only = "only a cover image" if container.streams.video else "and no image"
            raise MediaError(f"video {self._path} has no video stream, {only}")
        known = [stream for stream in videos if stream.codec_context is not None]
        if not known:
            raise MediaError(f"video {self._path} has a codec that this ffmpeg does not know; convert it to H.264")
        best = max(known, key=_preference)
        if len(videos) > 1:
            used = f"stream {best.index} ({best.width}x{best.height}) is used"
            self._note(f"video {self._path} has {len(videos)} video streams; {used}")
        return best

    def _decode_whole(self, container: Any, stream: Any, part: int) -> Iterator[av.VideoFrame]:
        """Yields all frames of a part; raises MediaError if the file was cut short.

        ffmpeg takes the end of the file for the end of the video. A cut shows only in a damaged last packet or in the
        length that the file's header announces; the header of a transport stream announces nothing.
        """
        end_s = 0.0
        decoder = self._decoder(stream)
        decoder.thread_type = "AUTO"
        decoder.options = {"max_pixels": str(self._max_pixels)}  # of frames that are larger than the header says
        try:
            for packet in container.demux(stream):
                if packet.is_corrupt and container.format.name != "mpegts":  # there, gaps are flagged as well
                    raise MediaError(f"video {self._path} is damaged or breaks off after {end_s:.2f} s; copy it again")
                if packet.size and packet.pts is not None:
                    end_s = max(end_s, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                yield from decoder.decode(packet)
        except IndexError:  # at the end, PyAV 18.1 flushes streams that it does not know, if new ones have appeared
            yield from decoder.decode(None)
        if self._layout.breaks_off and part == len(self._layout.parts) - 1:
            announced = "its header announces more; copy it again"
            raise MediaError(f"video {self._path} breaks off after {end_s:.2f} s, {announced}")

    def _decoder(self, stream: Any) -> Any:
        """Returns the decoder of a stream; for transparent VP8 and VP9 libvpx, as libavcodec 62's own show no alpha."""
        from av.codec import CodecContext
        from av.codec.codec import UnknownCodecError

        name = _WITH_ALPHA.get(stream.codec_context.name)
        if name and stream.metadata.get("alpha_mode") == "1":
            try:
                return CodecContext.create(name, "r")
            except UnknownCodecError:
                self._note(f"video {self._path}: its transparency is not shown, as this ffmpeg has no {name}")
        return stream.codec_context

    def _check_size(self, size: Size) -> None:
        if size.area:  # 0: unknown before a frame has been decoded
            check_size(f"video {self._path}", size.width, size.height, self._max_pixels)

    def _start(self, stream: Any) -> float:
        """Returns the time of the first frame in seconds; a time before 0 becomes 0."""
        start_s = max(0.0, float((stream.start_time or 0) * (stream.time_base or 0)))
        if start_s <= LONGEST_GAP_S:
            return start_s
        self._note(f"video {self._path}: timestamps start at {duration(start_s)}; times count from its first frame")
        return 0.0

    def _note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def _preference(stream: Any) -> int:
    from av.stream import Disposition

    marked = bool(stream.disposition & Disposition.default)
    return int(stream.width * stream.height) + _DEFAULT_STREAM_PIXELS * marked


def _timed(items: Iterable[Any], stream: Any, clock: str) -> Iterator[tuple[Any, Fraction, Fraction]]:
    """Adds start and duration in seconds to frames or packets; those without timestamps follow the one before.

    libavformat 62 writes frames after a jump of more than 2**31 ticks into MP4 as one tick apart. They are spaced anew,
    after a jump of unknown length.
    """
    rate = stream.guessed_rate or stream.average_rate or Fraction(_DEFAULT_RATE)
    interval = 1 / (stream.codec_context.framerate or Fraction(_DEFAULT_RATE))
    end, shift, last = Fraction(0), Fraction(0), None
    for item in items:
        time_base = item.time_base or stream.time_base
        start = getattr(item, clock)
        if start is None and item.pts is not None:
            continue  # the first packets of a video with B-frames
        duration = (item.duration or 0) * time_base
        start = end if start is None else start * time_base
        tick = time_base if time_base < _SHORTEST_INTERVAL_S else 0
        if last is not None and tick and start - last <= 2 * tick:
            if shift:
                shift += interval - (start - last)
            elif duration == tick:
                shift = Fraction(_UNKNOWN_JUMP_S)
        duration = duration if duration > tick else Fraction(0)
        interval = duration or interval
        last, end = start, start + (duration or 1 / rate)
        yield item, start + shift, duration


def _describe_jumps(jumps: Sequence[tuple[float, float]], broadcast: bool) -> str:
    """Returns a sentence about jumps of timestamps; ffmpeg takes a restart of broadcast timestamps for a wrap."""
    (at_s, by_s), more = jumps[0], len(jumps) - 1
    if broadcast and by_s > _WRAP_S / 2:
        what = "restart"
    elif by_s > _UNKNOWN_JUMP_S / 2:
        what = "jump by an unknown time"
    else:
        what = f"jump {'back ' if by_s < 0 else ''}by {duration(abs(by_s))}"
    counts = {0: "", 1: ", and once more", MAX_JUMPS - 1: ", and many more times"}
    more_jumps = counts.get(more, f", and {more} more times")
    return f"timestamps {what} after {at_s:.1f} s{more_jumps}; the parts are joined without gaps"


def _formats() -> list[str]:
    """Returns the formats that ffmpeg may take a file for."""
    import av

    return sorted(av.formats_available - _REFERRING)
