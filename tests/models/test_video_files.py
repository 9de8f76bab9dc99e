"""Video files of every kind become the frames that a player shows."""

import math
import re
import struct
from fractions import Fraction
from itertools import pairwise, product

import av
import numpy as np
import pytest
from av.filter import Graph
from av.stream import Disposition

from penguin_models import video_files
from penguin_models.errors import MediaError
from penguin_models.media import VideoFile

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 30), (30, 30, 220), (255, 255, 255)
MS = Fraction(1, 1000)
HOUR, YEAR = 3_600_000, 365 * 24 * 3_600_000  # ms


@pytest.fixture
def video(tmp_path):
    """Returns a function (frames, fps) -> path that writes a video whose n-th frame has grey level 8 n."""

    def write(frames, rate, name="video.mkv"):
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=rate)
            stream.width, stream.height, stream.pix_fmt = 32, 24, "bgr0"
            for i in range(frames):
                rgb = np.full((24, 32, 3), 8 * i % 256, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
            container.mux(stream.encode())
        return path

    return write


def levels(clip):
    return [(round(f.time_s, 3), int(f.rgb[0, 0, 0]) // 8) for f in clip]


def test_sampling_equals_the_released_code(video):
    """ffmpeg's fps filter, rounding down, gives the last frame of each second the time of the second's start."""
    assert levels(VideoFile(video(12, 4))) == [(0.0, 3), (1.0, 7), (2.0, 11)]
    assert levels(VideoFile(video(12, 4), fps=2)) == [(0.0, 1), (0.5, 3), (1.0, 5), (1.5, 7), (2.0, 9), (2.5, 11)]


def test_frames_repeat_if_the_video_is_slower_than_fps(video):
    assert [level for _, level in levels(VideoFile(video(2, 1), fps=2))] == [0, 0, 1, 1]


def test_too_many_frames_are_thinned_evenly(video):
    path = video(24, 4)
    everything = levels(VideoFile(path, fps=4))
    assert len(everything) == 24
    chosen = np.linspace(0, 23, 5, dtype=int)
    assert levels(VideoFile(path, fps=4, max_frames=5)) == [everything[i] for i in chosen]


def test_a_clip_can_be_read_again(video):
    clip = VideoFile(video(12, 4))
    assert levels(clip) == levels(clip)
    next(iter(clip))  # abandoned early
    assert len(levels(clip)) == 3


def test_pixels_are_exact(video):
    frame = next(iter(VideoFile(video(4, 4))))
    assert frame.rgb.shape == (24, 32, 3) and frame.rgb.dtype == np.uint8 and (frame.rgb == 24).all()


def write_bytes(path, data):
    path.write_bytes(data)
    return path


def test_files_that_are_not_videos_are_refused(video, tmp_path):
    with pytest.raises(MediaError, match=r"text.mp4 cannot be opened: Invalid data .*; it is damaged, or not a video"):
        VideoFile(write_bytes(tmp_path / "text.mp4", b"hello" * 100))
    with pytest.raises(MediaError, match=r"fps 0 .* must be above 0"):
        VideoFile(video(4, 4), fps=0)


def test_a_sound_file_is_refused(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(MediaError, match="has no video stream, and no image"):
        VideoFile(path)


def test_a_video_shorter_than_one_sample_gives_one_frame(video):
    assert levels(VideoFile(video(1, 4))) == [(0.0, 0)]
    assert levels(VideoFile(video(3, 4))) == [(0.0, 2)]


def test_a_video_without_frames_is_refused(video):
    path = video(12, 4)
    with av.open(str(path)) as container:
        first = next(packet.pos for packet in container.demux(video=0))
    path.write_bytes(path.read_bytes()[:first])
    with pytest.raises(MediaError, match=r"has no frames|cannot be|breaks off"):
        list(VideoFile(path))


@pytest.mark.parametrize("name", ["video.mkv", "video.avi", "video.mp4"])
def test_a_truncated_video_is_refused(video, name):
    path = video(40, 4, name)
    assert len(levels(VideoFile(path, fps=4))) == 40
    if name.endswith("mp4"):  # its header must come first, or the file could not be opened
        whole, path = path, path.with_name("front.mp4")
        with av.open(str(whole)) as stored, av.open(str(path), "w", options={"movflags": "faststart"}) as front:
            stream = front.add_stream_from_template(stored.streams.video[0])
            for packet in stored.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    front.mux(packet)
    content = path.read_bytes()
    for share in (0.6, 0.75):
        with pytest.raises(MediaError, match=r"breaks off after .*; copy it again"):
            list(VideoFile(write_bytes(path, content[: int(share * len(content))]), fps=4))


@pytest.mark.parametrize("name", ["gaps.mkv", "gaps.webm", "gaps.avi", "gaps.mp4", "gaps.ts"])
def test_a_complete_video_with_gaps_is_read(tmp_path, name):
    """Frames are far apart, the first is late and the last is shown for long, but none is missing."""
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx" if name.endswith("webm") else "mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 10)
        for place in (30, 31, 50, 51, 52, 90):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts, frame.duration = place, 50
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert list(VideoFile(path))


FAST_VPX = {"deadline": "realtime", "cpu-used": "8", "threads": "1"}
"""Options with which libvpx encodes twenty times as fast; its threads would wait for each other in loops."""


def write(
    path,
    parts,
    rate=25,
    codec="mpeg4",
    time_base=None,
    size=(64, 48),
    prepare=lambda stream: None,
    options=None,
    **tags,
):
    """Writes a video of coloured parts, each (picture or colour, timestamps in units of the time base)."""
    time_base = time_base or Fraction(1, rate)
    with av.open(str(path), "w", options=options or {}) as container:
        container.metadata.update(tags)
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base, stream.bit_rate = time_base, 2_000_000
        if codec == "libvpx":
            stream.codec_context.options = FAST_VPX
        prepare(stream)
        for picture, stamps in parts:
            rgb = np.broadcast_to(np.array(picture, np.uint8), (size[1], size[0], 3))
            for stamp in stamps:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
                frame.pts, frame.time_base = stamp, time_base
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def join(path, *parts):
    return write_bytes(path, b"".join(part.read_bytes() for part in parts))


def told(clip, sentence):
    """Whether a clip that was read twice tells this once, and nothing else."""
    list(clip)
    return len(clip.notes) == 1 and sentence in clip.notes[0]


def colour(pixel):
    names = {"R": RED, "G": GREEN, "B": BLUE, "W": WHITE}
    return min(names, key=lambda name: np.abs(np.array(names[name]) - pixel.astype(int)).sum())


def colours(clip):
    """Returns the colours of a clip as letters, and checks that its times increase by the same step."""
    frames = list(clip)
    steps = np.diff([frame.time_s for frame in frames])
    assert (steps > 0).all() and (len(steps) == 0 or np.ptp(steps) < 1e-6), steps
    return "".join(colour(frame.rgb[frame.rgb.shape[0] // 2, frame.rgb.shape[1] // 2]) for frame in frames)


def b_frames(stream):
    stream.codec_context.max_b_frames = 2


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        *(("mpeg2video", name) for name in ("x.mpg", "x.vob", "x.ts", "x.m2v")),
        *(("libx264", name) for name in ("x.ts", "x.m2ts", "x.h264")),
        *(("mpeg1video", "x.mpg"), ("mpeg4", "x.ts"), ("mjpeg", "x.mjpeg")),
        *(("mpeg4", name) for name in ("x.mp4", "x.mov", "x.mkv", "x.avi", "x.nut")),  # joined byte by byte
        *(("libx264", "x.flv"), ("libvpx", "x.ogv"), ("libvpx", "x.webm"), ("libvpx", "x.ivf")),
        *(("msmpeg4v3", "x.wmv"), ("rawvideo", "x.y4m"), ("rv10", "x.rm")),
    ],
)
def test_joined_segments_are_all_shown(tmp_path, codec, name):
    """The timestamps of each segment start anew, or there are none."""
    prepare = b_frames if codec.startswith(("mpeg2", "libx264")) else lambda stream: None
    segments = [
        write(tmp_path / f"{place}{name}", [(picture, range(125))], codec=codec, prepare=prepare)
        for place, picture in enumerate((RED, GREEN, BLUE))
    ]
    joined = join(tmp_path / name, *segments)
    assert colours(VideoFile(joined)) == "RRRRRGGGGGBBBBB"
    assert [colour(frame.rgb[24, 32]) for frame in VideoFile(joined, max_frames=5)] == list("RRGBB")


@pytest.mark.parametrize("name", ["x.flv", "x.mp4"])
def test_a_joined_file_that_ends_in_its_header_is_named(tmp_path, name):
    whole = write(tmp_path / name, [(RED, range(50))], codec="libx264" if name == "x.flv" else "mpeg4")
    content = whole.read_bytes()
    cut = write_bytes(tmp_path / f"cut_{name}", content + content[:60])
    message = rf"cut_{name} consists of joined files, of which the one from byte {len(content)} cannot be opened: "
    with pytest.raises(MediaError, match=message):
        list(VideoFile(cut))


def test_joined_ogg_files_with_sound_are_all_shown(tmp_path):
    """Each begins with the first pages of all its streams."""
    segments = []
    for picture in (RED, BLUE):
        segments.append(tmp_path / f"{picture[0]}.ogv")
        with av.open(str(segments[-1]), "w") as container:
            stream, sound = container.add_stream("libvpx", rate=25), container.add_stream("libopus", rate=48_000)
            stream.width, stream.height, stream.pix_fmt, sound.layout = 64, 48, "yuv420p", "mono"
            stream.codec_context.options = FAST_VPX
            for _ in range(75):
                rgb = np.full((48, 64, 3), picture, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
            container.mux(stream.encode())
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 144_000), np.int16), format="s16", layout="mono")
            samples.sample_rate = 48_000
            container.mux(sound.encode(samples))
            container.mux(sound.encode())
    assert colours(VideoFile(segments[0])) == "RRR"
    assert colours(VideoFile(join(tmp_path / "x.ogv", *segments))) == "RRRBBB"


@pytest.mark.parametrize(
    ("start_s", "jump"),
    [
        (4.5, r"jump back by \d\.\d s"),
        (20, r"jump by 1\d\.\d s"),
        (3600, r"jump by 359\d\.\d s"),
        (20 * 3600, "restart"),
        (-50, r"jump back by 5\d\.\d s"),
    ],
)
@pytest.mark.parametrize("name", ["x.ts", "x.mpg"])
def test_a_joined_segment_may_start_anywhere(tmp_path, name, start_s, jump):
    """With some overlap, later, or earlier, where ffmpeg takes the restart for a wrap of the 33-bit counter."""
    first = 50 if start_s < 0 else 0
    parts = (RED, first), (BLUE, first + start_s)
    segments = [
        write(
            tmp_path / f"{picture[0]}{name}",
            [(picture, range(int(start * 25), int(start * 25) + 125))],
            codec="mpeg2video",
        )
        for picture, start in parts
    ]
    clip = VideoFile(join(tmp_path / name, *segments))
    assert colours(clip) == "RRRRRBBBBB"
    assert len(clip.notes) == 1
    assert re.match(rf"video {tmp_path / name}: timestamps {jump} after 5\.0 s; the parts are joined", clip.notes[0])


@pytest.mark.parametrize(("count", "more"), [(2, ""), (3, ", and once more"), (4, ", and 2 more times")])
def test_restarts_long_after_the_start_are_told(tmp_path, count, more):
    """ffmpeg takes them for a wrap of the counter, and reports 26 hours."""
    late = write(tmp_path / "late.ts", [(RED, [*range(600 * 25, 605 * 25)])], codec="mpeg2video")
    early = write(tmp_path / "early.ts", [(BLUE, range(125))], codec="mpeg2video")
    clip = VideoFile(join(tmp_path / "x.ts", *[late, early, early, early][:count]))
    assert colours(clip) == ("RRRRR" + "BBBBB" * 3)[: 5 * count]
    assert told(clip, f"x.ts: timestamps restart after 5.0 s{more}; the parts are joined without gaps")


def test_a_wrap_of_the_counter_is_no_jump(tmp_path):
    before = int((2**33 / 90000 - 5) * 25)
    parts = [(RED, range(before, before + 125)), (BLUE, range(before + 125, before + 250))]
    clip = VideoFile(write(tmp_path / "x.ts", parts, codec="mpeg2video"))
    assert colours(clip) in ("RRRRRBBBBB", "RRRRRRBBBBB") and not clip.notes


def test_timestamps_below_zero_count_from_zero(tmp_path):
    parts = [(RED, range(-75, 0)), (BLUE, range(50))]
    path = write(tmp_path / "x.ts", parts, options={"avoid_negative_ts": "disabled"})
    with av.open(str(path)) as container:
        assert container.streams.video[0].start_time < 0
    assert colours(VideoFile(path)) == "RRRBB" and next(iter(VideoFile(path))).time_s == 0


def steps(start, count, step=100):
    return range(start, start + count * step, step)


@pytest.mark.parametrize(
    ("name", "codec"), [("x.mkv", "mpeg4"), ("x.mp4", "mpeg4"), ("x.ts", "mpeg4"), ("x.flv", "flv")]
)
@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([(RED, steps(0, 20)), (BLUE, steps(32 * HOUR, 20))], "R+B+"),
        ([(RED, steps(0, 5)), (BLUE, steps(32 * HOUR, 5)), (GREEN, steps(64 * HOUR, 5))], "R+B+G+"),
        ([(RED, [0]), (BLUE, steps(32 * HOUR, 20))], "R+B+"),
        ([(RED, steps(0, 20)), (BLUE, [2 * HOUR])], "R+B+"),
        ([(RED, steps(0, 20)), (BLUE, steps(2 * HOUR, 5)), (GREEN, steps(5 * HOUR, 5))], "R+B+G+"),
    ],
)
def test_both_sides_of_a_jump_are_shown(tmp_path, name, codec, parts, expected):
    path = write(tmp_path / name, parts, rate=10, codec=codec, time_base=MS)
    frames = list(VideoFile(path, max_frames=20))
    assert re.fullmatch(expected, "".join(colour(frame.rgb[24, 32]) for frame in frames)) and len(frames) <= 20
    assert (np.diff([frame.time_s for frame in frames]) > 0).all()


def test_a_jump_of_years_is_left_out(tmp_path):
    parts = [(RED, steps(0, 5)), (BLUE, steps(54 * YEAR, 20))]
    clip = VideoFile(write(tmp_path / "x.mkv", parts, rate=10, time_base=MS))
    assert [(f.time_s, colour(f.rgb[24, 32])) for f in clip] == [(0, "R"), (1, "B"), (2, "B")]
    assert told(clip, "x.mkv: timestamps jump by 54.0 years after 1.0 s; the parts are joined without gaps")
    far = VideoFile(write(tmp_path / "far.mkv", [(RED, steps(54 * YEAR, 20))], rate=10, time_base=MS))
    assert [f.time_s for f in far] == [0, 1]
    assert told(far, "far.mkv: timestamps start at 54.0 years")


@pytest.mark.parametrize("name", ["x.mp4", "x.mov"])
@pytest.mark.parametrize(
    ("codec", "jump"), [("mpeg4", 48 * HOUR), ("mpeg4", 54 * YEAR), ("libx264", 48 * HOUR), ("libx264", 54 * YEAR)]
)
@pytest.mark.parametrize(("before", "expected"), [(5, "RBB"), (1, "RB+"), (25, "RRBB")])
def test_a_jump_that_mp4_cannot_store_is_told(tmp_path, name, codec, jump, before, expected):
    """The muxer has written the frames after it one tick apart."""

    def prepare(stream):
        stream.codec_context.max_b_frames = 0  # the muxer would refuse them

    parts = [(RED, steps(0, before)), (BLUE, steps(jump, 20))]
    clip = VideoFile(write(tmp_path / name, parts, rate=10, codec=codec, time_base=MS, prepare=prepare))
    assert re.fullmatch(expected, colours(clip))
    assert told(clip, f"{name}: timestamps jump by an unknown time after")
    if before > 1:  # the interval between frames is known
        assert colours(VideoFile(tmp_path / name, fps=10)) == "R" * before + "B" * 20


def test_two_frames_at_one_time_are_no_jump(tmp_path):
    parts = [(RED, [0, 1600, 1601, 3200]), (BLUE, steps(16_000, 10, 1600))]
    clip = VideoFile(write(tmp_path / "x.mp4", parts, rate=10, time_base=Fraction(1, 16_000)))
    assert colours(clip) == "RB" and not clip.notes


def test_clocks_that_were_set_back_are_followed(tmp_path):
    """The clusters of a Matroska file say when they begin; the second is moved to the beginning of time."""
    parts = [(RED, steps(5 * HOUR, 20)), (BLUE, steps(6 * HOUR, 20)), (GREEN, steps(7 * HOUR, 20))]
    path = write(tmp_path / "x.mkv", parts, rate=10, time_base=MS)
    for third in (5 * HOUR, 7 * HOUR):
        content = path.read_bytes()
        for old, new in ((6 * HOUR, 0), (7 * HOUR, third)):
            stamp = b"\xe7\x84" + old.to_bytes(4, "big")
            assert content.count(stamp) == 1
            content = content.replace(stamp, b"\xe7\x84" + new.to_bytes(4, "big"))
        assert colours(VideoFile(write_bytes(tmp_path / "back.mkv", content))) == "RRBBGG"


@pytest.mark.parametrize("name", ["x.mkv", "x.mp4", "x.ts"])
def test_a_slide_show_is_held(tmp_path, name):
    """One picture per minute, as by the fps filter."""
    slides = [(RED, [0]), (GREEN, [60]), (BLUE, [120])]
    shown = colours(VideoFile(write(tmp_path / name, slides, rate=1, time_base=Fraction(1))))
    assert re.fullmatch("R{60}G{60}B+", shown)
    assert colours(VideoFile(tmp_path / name, fps=1 / 60)) == "RGB"


def test_the_last_picture_is_shown_after_a_pause(tmp_path):
    path = write(tmp_path / "x.mkv", [(RED, steps(0, 20)), (BLUE, steps(60_000, 5))], rate=10, time_base=MS)
    assert colours(VideoFile(path)) == 60 * "R" + "B"


def with_duration(path, seconds):
    """Changes the length that the header announces, or removes it (None, Matroska only)."""
    content = bytearray(path.read_bytes())
    if path.suffix == ".mkv":
        at = content.index(b"\x44\x89\x88")  # the element Duration, 8 bytes long
        void = b"\xec\x89" + bytes(9)
        content[at : at + 11] = void if seconds is None else b"\x44\x89\x88" + struct.pack(">d", seconds * 1000)
    elif path.suffix == ".avi":  # number of frames, one per second
        for header, offset in ((b"avih", 24), (b"strh", 40)):
            struct.pack_into("<I", content, content.index(header) + offset, seconds)
    else:
        units_at = content.index(b"mdhd") + 16
        for header, offset, unit in ((b"mvhd", 20, 1000), (b"tkhd", 24, 1000), (b"mdhd", 20, units_at)):
            rate = unit if unit == 1000 else struct.unpack_from(">I", content, units_at)[0]
            struct.pack_into(">I", content, content.index(header) + offset, min(seconds * rate, 2**32 - 1))
    return write_bytes(path, content)


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        *(("x.mkv", seconds) for seconds in (None, 0, 1, 30, 60, 10_000, 10**12)),
        *((name, seconds) for name in ("x.avi", "x.mp4") for seconds in (0, 1, 10_000)),
    ],
)
def test_the_length_in_the_header_is_not_trusted(tmp_path, name, seconds, monkeypatch):
    path = with_duration(write(tmp_path / name, [(RED, range(60))], rate=1), seconds)
    decoded = []
    decode = VideoFile._samples
    monkeypatch.setattr(VideoFile, "_samples", lambda self: decoded.append(1) or decode(self))
    times = [frame.time_s for frame in VideoFile(path, max_frames=20)]
    assert len(times) == 20 and (times[0], times[-1]) == (0, 59) and set(np.diff(times)) <= {3, 4}
    assert len(decoded) == 2
    assert len(list(VideoFile(path, max_frames=70))) == 60 and len(decoded) == 3  # no need to count by decoding


QUARTERS = np.repeat(np.repeat([[RED, GREEN], [BLUE, WHITE]], 24, axis=0), 32, axis=1).astype(np.uint8)


def letters(rgb):
    """Returns the colours of the four quarters, row by row."""
    height, width = rgb.shape[:2]
    return "".join(colour(rgb[y, x]) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4))


def autorotated(rgb, a, b, c, d):
    """Returns what ffmpeg makes of a picture with this display matrix: its filters by its rule (ffmpeg_filter.c)."""
    angle = math.degrees(math.atan2(b, a)) % 360
    filters = {
        0: ["vflip"] if d < 0 else [],
        90: [f"transpose={'cclock_flip' if c > 0 else 'clock'}"],
        180: (["hflip"] if a < 0 else []) + (["vflip"] if d < 0 else []),
        270: [f"transpose={'clock_flip' if c < 0 else 'cclock'}"],
    }[angle]
    graph = Graph()
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    frame.pts, frame.time_base = 0, Fraction(1)
    chain = [graph.add_buffer(width=frame.width, height=frame.height, format="rgb24", time_base=Fraction(1))]
    chain += [graph.add(*each.split("=")) for each in filters] + [graph.add("buffersink")]
    for one, next_ in pairwise(chain):
        one.link_to(next_)
    graph.configure()
    graph.push(frame)
    return graph.pull().to_ndarray()


@pytest.mark.parametrize("name", ["phone.mp4", "phone.mov"])
@pytest.mark.parametrize("matrix", [m for x, y in product((1, -1), repeat=2) for m in ((x, 0, 0, y), (0, x, y, 0))])
def test_the_display_matrix_is_applied_as_by_ffmpeg(tmp_path, matrix, name):
    """Phones store pixels in sensor orientation, and a matrix that turns and mirrors them in the track's header."""
    path = write(tmp_path / name, [(QUARTERS, range(8))], rate=4)
    data = bytearray(path.read_bytes())
    a, b, c, d = (value * 2**16 for value in matrix)
    header = data.index(b"tkhd") + 44  # the matrix follows version, times, identity, duration, layer and volume
    data[header : header + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    expected = autorotated(QUARTERS, *matrix)
    frames = list(VideoFile(write_bytes(path, data)))
    assert len(frames) == 2
    for frame in frames:
        assert frame.rgb.flags.c_contiguous and frame.rgb.shape == expected.shape
        assert letters(frame.rgb) == letters(expected)


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.ts", "x.avi"])
@pytest.mark.parametrize(
    ("size", "aspect", "shown"),
    [
        ((720, 576), (64, 45), (576, 1024, 3)),
        ((64, 48), (1, 2), (96, 64, 3)),
        ((64, 48), (1, 1), (48, 64, 3)),
        ((64, 48), (0, 1), (48, 64, 3)),
        ((64, 48), (200, 1), (48, 64, 3)),  # nonsense
    ],
)
def test_pixels_become_square(tmp_path, name, size, aspect, shown):
    def prepare(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(*aspect)

    path = write(tmp_path / name, [(RED, range(20))], rate=20, size=size, prepare=prepare)
    [frame] = VideoFile(path)
    assert frame.rgb.shape == shown and colour(frame.rgb[20, 20]) == "R"


@pytest.mark.parametrize(("first", "second"), [((64, 48), (128, 96)), ((128, 96), (64, 48)), ((64, 48), (48, 64))])
@pytest.mark.parametrize(("codec", "name"), [("mpeg2video", "x.ts"), ("libx264", "x.h264"), ("mpeg2video", "x.mpg")])
def test_a_change_of_size_is_scaled_to_the_first(tmp_path, codec, name, first, second):
    """Up, down and from landscape to portrait."""
    halves = [np.where(np.arange(size[0])[None, :, None] < size[0] // 2, RED, BLUE) for size in (first, second)]
    segments = [
        write(tmp_path / f"{place}{name}", [(half, range(50))], codec=codec, size=size)
        for place, (half, size) in enumerate(zip(halves, (first, second), strict=True))
    ]
    clip = VideoFile(join(tmp_path / name, *segments))
    frames = list(clip)
    assert [frame.rgb.shape for frame in frames] == [(first[1], first[0], 3)] * 4
    assert {letters(frame.rgb) for frame in frames} == {"RBRB"}
    sizes = " to ".join(f"{width}x{height}" for width, height in (first, second))
    assert any(f"{name} changes from {sizes} pixels; all its frames are scaled" in note for note in clip.notes)


def test_a_change_of_pixel_format_is_read(tmp_path):
    segments = []
    for place, (picture, pixel_format) in enumerate(((RED, "yuv420p"), (BLUE, "yuv444p"))):

        def prepare(stream, pixel_format=pixel_format):
            stream.pix_fmt = pixel_format

        segments.append(write(tmp_path / f"{place}.ts", [(picture, range(50))], codec="libx264", prepare=prepare))
    assert colours(VideoFile(join(tmp_path / "x.ts", *segments))) == "RRBB"


@pytest.mark.parametrize(("name", "codec"), [("x.mp3", "mp3"), ("x.flac", "flac"), ("x.m4a", "aac")])
def test_a_cover_is_no_video(tmp_path, name, codec):
    path = tmp_path / name
    with av.open(str(path), "w", format="mp4" if name == "x.m4a" else None) as container:
        sound, cover = container.add_stream(codec, rate=44100, layout="stereo"), container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        for packet in (*cover.encode(av.VideoFrame(32, 32, "yuvj420p")), *cover.encode()):
            container.mux(packet)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 2304), np.int16), format="s16", layout="stereo")
        samples.sample_rate = 44100
        resampler = av.AudioResampler(sound.codec_context.format, "stereo", 44100)
        for packet in (*(p for frame in resampler.resample(samples) for p in sound.encode(frame)), *sound.encode()):
            container.mux(packet)
    with pytest.raises(MediaError, match=rf"{name} has no video stream, only a cover image"):
        VideoFile(path)


NOTHING, DEFAULT, COVER = Disposition(0), Disposition.default, Disposition.attached_pic


@pytest.mark.parametrize(
    ("name", "streams", "shown"),
    [
        ("x.mp4", ((GREEN, (128, 128), COVER), (RED, (64, 48), NOTHING)), "RR"),
        ("x.mp4", ((RED, (128, 96), NOTHING), (BLUE, (64, 48), DEFAULT)), "BB"),
        ("x.mkv", ((RED, (128, 96), NOTHING), (BLUE, (64, 48), DEFAULT)), "BB"),
        ("x.mkv", ((RED, (64, 48), DEFAULT), (BLUE, (128, 96), DEFAULT)), "BB"),
        ("x.ts", ((RED, (64, 48), NOTHING), (BLUE, (128, 96), NOTHING)), "BB"),
    ],
)
def test_the_video_is_chosen_among_streams_as_by_ffmpeg(tmp_path, name, streams, shown):
    """Never a cover; then the stream that is marked as the default, then the largest."""
    with av.open(str(tmp_path / name), "w") as container:
        opened = []
        for picture, size, disposition in streams:
            stream = container.add_stream("mjpeg" if disposition == COVER else "mpeg4", rate=4)
            stream.pix_fmt = "yuvj420p" if disposition == COVER else "yuv420p"
            (stream.width, stream.height), stream.disposition = size, disposition
            rgb = np.full((size[1], size[0], 3), picture, np.uint8)
            opened.append((stream, rgb, 1 if disposition == COVER else 8))
        for stream, rgb, count in opened:
            for _ in range(count):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
            container.mux(stream.encode())
    clip = VideoFile(tmp_path / name)
    assert colours(clip) == shown
    has_cover = any(disposition == COVER for _, _, disposition in streams)
    width, height = streams[1][1]
    assert told(clip, f"{name} has 2 video streams; stream 1 ({width}x{height}) is used") != has_cover


def write_transparent(path, codec, pixel_format, rate=5):
    """Writes 2 s of a black square on the right of a transparent ground, which is black as well."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 64, pixel_format
        stream.options = {"auto-alt-ref": "0"} if codec.startswith("libvpx") else {}
        rgba = np.zeros((64, 64, 4), np.uint8)
        rgba[:, 32:, 3] = 255
        for _ in range(2 * rate):
            frame = av.VideoFrame.from_ndarray(rgba, format="rgba")
            container.mux(stream.encode(frame.reformat(format=pixel_format)))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("codec", "pixel_format", "name"),
    [
        *(("png", "rgba", "x.mov"), ("qtrle", "argb", "x.mov"), ("ffv1", "bgra", "x.mkv")),
        *(("libvpx", "yuva420p", "x.webm"), ("libvpx-vp9", "yuva420p", "x.webm"), ("libvpx-vp9", "yuva420p", "x.mkv")),
    ],
)
def test_transparent_videos_are_laid_on_white(tmp_path, codec, pixel_format, name):
    clip = VideoFile(write_transparent(tmp_path / name, codec, pixel_format))
    frames = list(clip)
    assert [frame.time_s for frame in frames] == [0, 1] and not clip.notes
    for frame in frames:
        assert frame.rgb[32, 16].min() > 240 and frame.rgb[32, 48].max() < 15


def test_transparency_that_cannot_be_decoded_is_told(tmp_path, monkeypatch):
    path = write_transparent(tmp_path / "x.webm", "libvpx-vp9", "yuva420p")
    monkeypatch.setitem(video_files._WITH_ALPHA, "vp9", "libmissing")
    assert told(VideoFile(path), "x.webm: its transparency is not shown, as this ffmpeg has no libmissing")


def test_titles_need_not_be_utf8(tmp_path):
    path = write(tmp_path / "x.mkv", [(RED, range(50))], title="K\u00fcche")
    content = path.read_bytes().replace("K\u00fcche".encode(), "K\u00fcche ".encode("latin-1"))
    assert colours(VideoFile(write_bytes(path, content))) == "RR"


def test_names_with_colons_are_no_protocols(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "2024-01-01T10:00:00 50%.mp4", [(RED, range(50))])
    assert colours(VideoFile("2024-01-01T10:00:00 50%.mp4")) == "RR"


def test_a_file_cannot_name_others(tmp_path):
    """ffmpeg takes this for a description of a stream, which names an address."""
    path = tmp_path / "x.mp4"
    path.write_text("v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 26\n")
    assert "sdp" in av.formats_available
    with pytest.raises(MediaError, match="Invalid argument; it is damaged, or not a video"):
        VideoFile(path)
