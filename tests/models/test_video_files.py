"""Images and videos from files."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, features

from penguin_models.errors import MediaError
from penguin_models.media import VideoFile, load_image


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


def test_files_that_are_not_videos_are_refused(video, tmp_path, reference):
    with pytest.raises(MediaError, match="does not exist"):
        VideoFile(tmp_path / "none.mp4")
    with pytest.raises(MediaError, match="cannot be opened"):
        VideoFile(write_bytes(tmp_path / "text.mp4", b"hello" * 100))
    with pytest.raises(MediaError, match="cannot be opened"):
        VideoFile(write_bytes(tmp_path / "empty.mp4", b""))
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
    with pytest.raises(MediaError, match="has no video stream"):
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


@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), 3), ((0, -1, 1, 0), 1), ((-1, 0, 0, -1), 2)])
def test_the_rotation_of_phone_videos_is_applied(tmp_path, matrix, turns):
    """Phones store pixels in sensor orientation, and a rotation matrix in the track's header."""
    upper, lower = np.array([200, 60]), np.array([20, 120])  # grey of the four quarters
    stored = np.repeat(np.repeat([upper, lower], 24, axis=0), 32, axis=1).astype(np.uint8)
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 8_000_000
        for _ in range(8):
            picture = np.repeat(stored[..., None], 3, axis=2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    a, b, c, d = (value * 2**16 for value in matrix)
    header = data.index(b"tkhd") + 44  # the matrix follows version, times, identity, duration, layer and volume
    data[header : header + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    path.write_bytes(data)
    frames = list(VideoFile(path))
    assert len(frames) == 2
    for frame in frames:
        assert frame.rgb.flags.c_contiguous
        np.testing.assert_allclose(frame.rgb[..., 1], np.rot90(stored, turns), atol=25)
