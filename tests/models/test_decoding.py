"""What is not decoded: images and videos that are too large, too costly, or of formats that nobody needs."""

import io
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, features

from penguin_models.decoding import MAX_IMAGE_PIXELS, opened
from penguin_models.errors import MediaError
from penguin_models.image_files import FORMATS
from penguin_models.media import VideoFile, load_image, open_image

LARGE_WEBP = bytes.fromhex("524946461e000000574542505650384c110000002ffeffa40a0750e42ad4a3ff8188e87f0000")
"""A picture of 16383x10900 pixels in one colour."""


def encoded(kind, size=(11, 10), mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, size, 0).save(file, kind, **options)
    return file.getvalue()


def png_header(width, height):
    """A PNG of which only the header is there."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I4s", 9, b"IDAT")
    )


def refused(data, kind, message):
    with pytest.raises(MediaError, match=message), opened(data, "image", [kind], MAX_IMAGE_PIXELS):
        pass


def status_mb(field):
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


@pytest.mark.parametrize("kind", [name for name in FORMATS if name != "HEIF"])
def test_every_format_is_read_up_to_the_limit(tmp_path, kind):
    if not features.check({"AVIF": "avif", "JPEG2000": "jpg_2000"}.get(kind, "zlib")):
        pytest.skip("this Pillow reads no " + kind)
    path = tmp_path / "image"
    path.write_bytes(encoded(kind))
    assert load_image(path, 110).shape == (10, 11, 3)
    with pytest.raises(
        MediaError, match=r"has 11x10 = 110 pixels, the limit is 109; scale it down, or raise max_image"
    ):
        load_image(path, 109)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux reports it")
def test_a_refused_image_takes_no_memory_and_a_large_one_gives_it_back():
    large = encoded("PNG", (3600, 2800), compress_level=1)
    with opened(large, "image", ["PNG"], MAX_IMAGE_PIXELS) as image:
        image.load()  # afterwards, what earlier tests left is given back, too
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = status_mb("VmRSS")
    refused(LARGE_WEBP, "WEBP", "image cannot be decoded: it has 16383x10900 = 178574700 pixels, the limit is 50000000")
    assert status_mb("VmHWM") - before < 10
    with opened(large, "image", ["PNG"], MAX_IMAGE_PIXELS) as image:
        image.load()
        assert status_mb("VmRSS") - before > 30
    assert status_mb("VmRSS") - before < 20


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png_header(1, 65_536), "has 1x65536 pixels, the limit of a side is 65535; scale it down or cut it"),
        (png_header(65_536, 1), "the limit of a side is 65535"),
        (png_header(60_000, 60_000), "has 3600000000 pixels, the limit is 50000000; scale it down, or raise"),
        (encoded("JPEG").replace(struct.pack(">HH", 10, 11), b"\xff" * 4), "65535x65535|4294836225 pixels"),
    ],
)
def test_a_header_of_an_enormous_size_is_refused(tmp_path, data, message):
    path = tmp_path / "image"
    path.write_bytes(data)
    with pytest.raises(MediaError, match=message):
        load_image(path)


def test_the_limit_may_be_higher_than_pillows(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    path = tmp_path / "phone.png"
    path.write_bytes(png_header(16_320, 12_240))  # of a camera with 200 megapixels
    with open_image(path, 200_000_000) as image:
        assert image.size == (16_320, 12_240)


def test_a_tile_larger_than_its_image_is_refused():
    values = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 40_000, 323: 40_000, 324: 200, 325: 9}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    data = b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + bytes(100)
    refused(data, "TIFF", "its tile has 40000x40000 = 1600000000 pixels, the limit is 50000000")


def test_a_jpeg_of_many_scans_is_refused():
    """Each scan of a few bytes costs a pass over the whole picture."""
    data = encoded("JPEG", (64, 64), progressive=True)
    start = data.rindex(b"\xff\xda")
    with opened(data, "image", ["JPEG"], MAX_IMAGE_PIXELS) as image:
        image.load()
    many = data[:start] + data[start:-2] * 200 + data[-2:]
    refused(many, "JPEG", r"progressive JPEG of 20\d scans, the limit is 200; save it again")


@pytest.mark.parametrize("kind", ["EPS", "SPIDER", "ICNS", "SGI", "PCX", "MSP", "TGA", "ICO", "DDS"])
def test_formats_that_nobody_needs_are_not_opened(tmp_path, monkeypatch, kind):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *values: started.append(values))
    path = tmp_path / f"image.{kind.lower()}"
    mode = {"SPIDER": "F", "MSP": "1"}.get(kind, "RGB")
    path.write_bytes(encoded(kind, (16, 16), mode))
    with pytest.raises(
        MediaError, match=r"is not an image of a format that is read \(JPEG, PNG, .*; convert it to PNG"
    ):
        load_image(path)
    assert not started


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("data", [b"no TIFF at all", b"MM\0*\0\0\0\x08\xff\xff", b"II*\0" + b"\xff" * 30])
def test_damaged_exif_data_leave_the_picture_readable(tmp_path, caplog, kind, data):
    path = tmp_path / "image"
    path.write_bytes(encoded(kind, exif=b"Exif\0\0" + data))
    assert load_image(path).shape == (10, 11, 3)
    if kind != "JPEG" and data.startswith(b"no"):  # of the others, Pillow takes what it can
        assert "image has damaged EXIF data (SyntaxError) and is shown without rotation" in caplog.text


def write_h264(path, sizes, aspect=1):
    """Writes a stream whose frames have these sizes, which only their own headers say."""
    with path.open("wb") as file:
        for width, height in sizes:
            encoder = av.CodecContext.create("libx264", "w")
            encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, "yuv420p", 1
            encoder.sample_aspect_ratio = aspect
            frame = av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8), format="rgb24")
            for packet in (*encoder.encode(frame.reformat(format="yuv420p")), *encoder.encode(None)):
                file.write(bytes(packet))
    return path


@pytest.mark.parametrize(
    ("sizes", "aspect", "message"),
    [
        (
            [(64, 64)],
            1,
            r"video .*x.h264 has 64x64 = 4096 pixels, the limit is 4000; scale it down, or raise max_image",
        ),
        ([(32, 32)], 5, r"video .*x.h264 has 160x32 = 5120 pixels, the limit is 4000"),
        ([(32, 32), (128, 128)], 1, "x.h264 (has 128x128|cannot be decoded to its end)"),
    ],
)
def test_a_video_with_large_frames_is_refused(tmp_path, sizes, aspect, message):
    path = write_h264(tmp_path / "x.h264", sizes, aspect)
    assert next(iter(VideoFile(path))).rgb.size
    with pytest.raises(MediaError, match=message):
        list(VideoFile(path, max_pixels=4000))
