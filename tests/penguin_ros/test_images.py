"""Image messages to RGB: every encoding against pixels computed by hand, and refused input."""

from __future__ import annotations

import array
import io
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import EpsImagePlugin, Image
from sensor_msgs.msg import CompressedImage as RosCompressedImage
from sensor_msgs.msg import Image as RosImage

from penguin_models.errors import MediaError
from penguin_ros import images
from penguin_ros.compressed_depth import compressed_depth
from penguin_ros.images import Decoding, compressed_to_rgb, message_to_rgb, raw_to_rgb
from penguin_ros.raw_images import known_encoding

CHANNELS = {
    "rgb8": "rgb", "bgr8": "bgr", "8UC3": "bgr", "rgba8": "rgba", "bgra8": "bgra", "8UC4": "bgra",
    "rgb16": "rgb", "bgr16": "bgr", "rgba16": "rgba", "bgra16": "bgra",
}  # fmt: skip
MONO = ("mono8", "8UC1", "mono16")
YUV = {"yuv422": "uyvy", "uyvy": "uyvy", "yuv422_yuy2": "yuyv", "yuyv": "yuyv", "yuy2": "yuyv", "yvyu": "yvyu"}
BAYER = ("rggb", "bggr", "gbrg", "grbg")
DEPTH = {"16UC1": np.uint16, "16SC1": np.int16, "32SC1": np.int32, "32FC1": np.float32, "64FC1": np.float64}


def padded(stored, padding=0, big_endian=False):
    """Returns height, width, step and data of an image whose rows end with `padding` arbitrary bytes."""
    order = ">" if big_endian else "<"
    rows = stored.astype(stored.dtype.newbyteorder(order)).reshape(len(stored), -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xA5)
    return *stored.shape[:2], rows.shape[1], rows.tobytes()


def random_values(encoding, *shape):
    dtype = np.uint16 if encoding.endswith("16") else np.uint8
    return np.random.default_rng(7).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def eight_bit(values):
    return values if values.dtype == np.uint8 else np.round(values / 257).astype(np.uint8)


def byte_orders(encodings):
    """Parametrises a test with each encoding in both byte orders, which must not matter for 8-bit values."""
    return pytest.mark.parametrize(("encoding", "big_endian"), [(e, b) for e in encodings for b in (False, True)])


@byte_orders(CHANNELS)
@pytest.mark.parametrize("padding", [0, 5])
def test_colour_images_are_converted(encoding, big_endian, padding):
    planes = dict(zip("rgba", random_values(encoding, 4, 5, 7), strict=True))
    stored = np.stack([planes[channel] for channel in CHANNELS[encoding]], axis=-1)
    got = raw_to_rgb(encoding, *padded(stored, padding, big_endian), big_endian)
    np.testing.assert_array_equal(got, eight_bit(np.stack([planes[channel] for channel in "rgb"], axis=-1)))
    assert got.dtype == np.uint8


@byte_orders(MONO)
@pytest.mark.parametrize("padding", [0, 3])
def test_grey_images_are_converted(encoding, big_endian, padding):
    stored = random_values(encoding, 5, 7)
    got = raw_to_rgb(encoding, *padded(stored, padding, big_endian), big_endian)
    np.testing.assert_array_equal(got, np.repeat(eight_bit(stored)[..., None], 3, axis=-1))


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (128, 0), (129, 1), (257, 1), (32768, 128), (65535, 255)])
def test_sixteen_bit_values_are_scaled_and_rounded(value, expected):
    assert raw_to_rgb("mono16", 1, 1, 2, struct.pack("<H", value)).tolist() == [[[expected] * 3]]


def mono16(stored, way, scaling="percentiles"):
    """Converts 16-bit grey that arrives as a message of this kind, and returns its grey levels."""
    if way == "png":
        rgb = compressed_to_rgb(compress(stored, "png"), "mono16; png compressed ", scaling)
    else:
        rgb = raw_to_rgb("mono16", *padded(stored, 0, way == "big"), way == "big", scaling)
    assert (rgb == rgb[..., :1]).all()
    return rgb[..., 0]


@pytest.mark.parametrize("way", ["little", "big", "png"])
@pytest.mark.parametrize(("low", "high"), [(7000, 7500), (0, 4095), (40000, 40100)])
def test_narrow_sixteen_bit_grey_is_stretched(way, low, high):
    """As from thermal and 12-bit cameras; a dead and a hot pixel among thousands do not matter."""
    stored = np.tile(np.linspace(low, high, 96, dtype=np.uint16), (64, 1))
    got = mono16(stored, way)
    assert got.min() == 0 and got.max() == 255 and (np.diff(got.astype(int), axis=1) >= 0).all()
    stored[0, 0], stored[5, 5] = 65535, 0
    assert np.abs(mono16(stored, way)[10].astype(int) - got[10]).max() <= 1
    np.testing.assert_array_equal(mono16(stored, way, "full_range"), eight_bit(stored))


@pytest.mark.parametrize("way", ["little", "big", "png"])
@pytest.mark.parametrize("size", [(1, 8), (64, 96)])
def test_sixteen_bit_grey_that_uses_the_scale_or_is_uniform_stays_as_it_is(way, size):
    noise = 7000 + np.arange(size[0] * size[1]).reshape(size) % 32
    for stored in (np.linspace(0, 65535, noise.size).reshape(size), np.full(size, 7000), np.zeros(size), noise):
        np.testing.assert_array_equal(mono16(stored.astype(np.uint16), way), eight_bit(stored.astype(np.uint16)))


@pytest.mark.parametrize("encoding", YUV)
@pytest.mark.parametrize(("u", "v"), [(128, 128), (90, 200), (160, 90), (54, 34), (240, 110)])
def test_yuv_is_bt601(encoding, u, v):
    """Two pixels with their own Y share U and V: R = 1.164 (Y - 16) + 1.596 (V - 128) etc."""
    pair, luma = {"u": [u], "v": [v], "y": [60, 180]}, np.array([60, 180])
    values = {name: list(own) for name, own in pair.items()}
    data = bytes(values[name].pop(0) for name in YUV[encoding])
    expected = [
        1.164 * (luma - 16) + 1.596 * (v - 128),
        1.164 * (luma - 16) - 0.392 * (u - 128) - 0.813 * (v - 128),
        1.164 * (luma - 16) + 2.017 * (u - 128),
    ]
    # Three rows of two such pairs with two bytes of padding.
    got = raw_to_rgb(encoding, 3, 4, 10, (data * 2 + b"\xa5\xa5") * 3)
    np.testing.assert_allclose(got, np.tile(np.clip(expected, 0, 255).T, (3, 2, 1)), atol=2)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (3, 3)])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", BAYER)
@pytest.mark.parametrize("big_endian", [False, True])
def test_a_mosaic_of_one_colour_gives_that_colour(pattern, bits, size, big_endian):
    colour = {"r": 10, "g": 120, "b": 230}
    mosaic = np.empty(size, np.uint16 if bits == 16 else np.uint8)
    for place, channel in enumerate(pattern):
        mosaic[place // 2 :: 2, place % 2 :: 2] = colour[channel] * (257 if bits == 16 else 1)
    got = raw_to_rgb(f"bayer_{pattern}{bits}", *padded(mosaic, 4, big_endian), big_endian)
    np.testing.assert_array_equal(got, np.broadcast_to([*colour.values()], (*size, 3)))


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 8), (8, 2)])
def test_a_mosaic_too_small_to_interpolate_is_refused(size):
    """OpenCV would return a black image without an error."""
    with pytest.raises(MediaError, match="bayer_rggb8"):
        raw_to_rgb("bayer_rggb8", *padded(np.full(size, 200, np.uint8)))


@given(
    encoding=st.sampled_from(["rgb8", "bgr8", "mono8"]),
    pixels=st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda size: arrays(np.uint8, (*size, 3))),
    padding=st.integers(0, 9),
)
def test_any_size_and_padding_round_trips(encoding, pixels, padding):
    stored = {"rgb8": pixels, "bgr8": pixels[..., ::-1], "mono8": pixels[..., 0]}[encoding]
    height, width, step, data = padded(stored, padding)
    buffer = bytearray(data)
    got = raw_to_rgb(encoding, height, width, step, buffer)
    buffer[:] = bytes(len(buffer))  # the result must be a copy
    np.testing.assert_array_equal(got, np.repeat(pixels[..., :1], 3, axis=-1) if encoding == "mono8" else pixels)


@pytest.mark.parametrize("container", [bytes, bytearray, memoryview, lambda d: array.array("B", d)])
def test_data_may_be_any_buffer(container):
    assert raw_to_rgb("rgb8", 1, 2, 6, container(bytes(range(6)))).tolist() == [[[0, 1, 2], [3, 4, 5]]]


def test_bytes_after_the_last_row_are_ignored():
    assert raw_to_rgb("mono8", 1, 1, 1, b"\x07\x09").tolist() == [[[7, 7, 7]]]


@byte_orders(DEPTH)
@pytest.mark.parametrize("padding", [0, 3])
def test_depth_becomes_grey_without_outliers_and_black_where_nothing_was_measured(encoding, big_endian, padding):
    values = np.tile(np.linspace(600, 6000, 96), (64, 1)).astype(DEPTH[encoding])
    values[0, 0], values[0, 1] = 0, 30000  # no return; a pixel far off
    if values.dtype.kind == "f":
        values[1, :3] = np.nan, np.inf, -np.inf
    got = raw_to_rgb(encoding, *padded(values, padding, big_endian), big_endian)
    assert got[0, 0].tolist() == [0] * 3 and got[0, 1].tolist() == [255] * 3
    assert got[1, :3].max() == (0 if values.dtype.kind == "f" else 6)
    assert (got[5, :, 0] == np.round(np.linspace(1, 255, 96))).mean() > 0.9
    assert not raw_to_rgb(encoding, *padded(np.zeros_like(values))).any()
    if encoding == "16UC1":
        full = raw_to_rgb(encoding, *padded(values), mono16_scaling="full_range")
        np.testing.assert_array_equal(full[..., 0], eight_bit(values))


def test_a_dead_and_a_hot_pixel_of_a_small_thermal_camera_do_not_matter():
    stored = np.tile(np.linspace(7000, 7500, 32).astype(np.uint16), (24, 1))
    stored[3, 3], stored[9, 9] = 0, 65535
    grey = mono16(stored, "little")
    assert grey[0, 0] == 0 and grey[0, -1] == 255 and (np.diff(grey[0].astype(int)) > 4).all()


@pytest.mark.parametrize("encoding", ["", "RGB8", "rgb32"])
def test_an_unknown_encoding_is_refused_with_the_known_ones(encoding):
    with pytest.raises(MediaError, match=f"'{encoding}' is not supported; supported are rgb8, bgr8, .*bayer_grbg16"):
        raw_to_rgb(encoding, 1, 1, 8, bytes(8))


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv16", "nv24", "yuv420", "I420", "yv12"])
def test_planes_of_brightness_and_colour_are_converted(encoding, padding):
    """BT.601 as for yuv422, from a plane of Y and one of U and V; in nv12 and nv21, 2x2 pixels share a colour."""
    luma, colour = np.random.default_rng(7).integers(16, 236, (6, 8), np.uint8), np.array([90, 170], np.uint8)
    tiles = {"nv24": (6, 8), "nv16": (6, 4)}.get(encoding, (3, 4))
    pairs = np.tile(colour[::-1] if encoding in ("nv21", "yv12") else colour, tiles)
    got = raw_to_rgb(known_encoding(encoding), 6, 8, 8 + padding, padded_planes(encoding, luma, pairs, padding))
    y, u, v = 1.164 * (luma - 16.0), float(colour[0]) - 128, float(colour[1]) - 128
    expected = np.stack((y + 1.596 * v, y - 0.391 * u - 0.813 * v, y + 2.018 * u), axis=-1)
    np.testing.assert_allclose(got, np.clip(expected, 0, 255), atol=2)


def padded_planes(encoding, luma, pairs, padding):
    """Returns the data: rows of both planes end with padding, those of nv24's colours with twice as much."""
    planes = [(luma, padding), (pairs, 2 * padding if encoding == "nv24" else padding)]
    if "420" in encoding or encoding == "yv12":  # a plane of each colour, whose rows are half as long
        planes[1:] = [(pairs[:, first::2], padding // 2) for first in (0, 1)]
    return b"".join(np.pad(p, ((0, 0), (0, n)), constant_values=0xA5).tobytes() for p, n in planes)


def test_nv12_whose_step_counts_the_plane_of_colour_is_accepted():
    data = bytes(np.random.default_rng(7).integers(16, 236, 6 * 8 * 3 // 2, np.uint8))
    np.testing.assert_array_equal(raw_to_rgb("nv12", 6, 8, 12, data), raw_to_rgb("nv12", 6, 8, 8, data))


@pytest.mark.parametrize(
    ("encoding", "height", "width", "step", "size", "message"),
    [
        ("rgb8", 2, 4, 11, 24, "step 11 is less than the 12 bytes of a row of 4 rgb8 pixels"),
        ("mono16", 2, 4, 7, 24, "step 7 is less than the 8 bytes"),
        ("bgra16", 1, 1, 4, 24, "step 4 is less than the 8 bytes"),
        ("rgb8", 2, 4, 12, 23, r"ends after 23 of 24 bytes \(2 rows of 12\)"),
        ("mono8", 3, 4, 6, 17, "ends after 17 of 18 bytes"),
        ("mono8", 1, 1, 1, 0, "ends after 0 of 1 bytes"),
        ("rgb8", 0, 4, 12, 0, "is empty: 4x0 pixels"),
        ("rgb8", 4, 0, 0, 0, "is empty: 0x4 pixels"),
        ("yuv422", 2, 3, 6, 12, "yuv422 image must have an even width, not 3"),
        ("yuyv", 2, 5, 10, 20, "even width, not 5"),
        ("nv12", 4, 5, 5, 30, "nv12 image must have an even width and height, not 5x4"),
        ("nv21", 3, 4, 4, 20, "even width and height, not 4x3"),
        ("nv12", 4, 4, 3, 24, "step 3 is less than the 4 bytes"),
        ("nv12", 4, 4, 4, 23, r"ends after 23 of 24 bytes \(4 rows of 4, and the colours of nv12\)"),
        ("i420", 4, 4, 5, 30, "step 5 of a i420 image must be even"),
        ("yuv420", 4, 5, 6, 36, "even width and height, not 5x4"),
        ("nv16", 4, 5, 6, 48, "even width, not 5"),
        ("nv24", 3, 3, 3, 26, "ends after 26 of 27 bytes"),
    ],
)
def test_inconsistent_sizes_are_refused(encoding, height, width, step, size, message):
    with pytest.raises(MediaError, match=message):
        raw_to_rgb(encoding, height, width, step, bytes(size))


def compress(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("image_format", ["png", "rgb8; png compressed bgr8", "", "jpeg"])
def test_png_round_trips_with_any_format_string(image_format):
    pixels = random_values("rgb8", 5, 7, 3)
    np.testing.assert_array_equal(compressed_to_rgb(compress(pixels, "png"), image_format), pixels)


def test_jpeg_round_trips_approximately(picture):
    pixels = picture(48, 64)
    got = compressed_to_rgb(compress(pixels, "jpeg", quality=95), "bgr8; jpeg compressed bgr8")
    assert np.abs(got.astype(int) - pixels).mean() < 2


def test_compressed_transparency_is_laid_on_white_and_grey_repeated():
    """A black drawing on (0, 0, 0, 0); a picture whose alpha is 0 throughout keeps its colours."""
    drawing = np.zeros((5, 7, 4), np.uint8)
    drawing[2, 3, 3] = 255
    got = compressed_to_rgb(compress(drawing, "png"), "rgba8; png compressed bgra8")
    assert (got[2, 3] == 0).all() and (got.sum(axis=(0, 1)) == 34 * 255).all()
    rgba = random_values("rgba8", 5, 7, 4)
    rgba[..., 3] = 0
    np.testing.assert_array_equal(compressed_to_rgb(compress(rgba, "png")), rgba[..., :3])
    np.testing.assert_array_equal(compressed_to_rgb(compress(rgba[..., 0], "png")), rgba[..., [0, 0, 0]])


def test_compressed_sixteen_bit_grey_is_scaled_like_raw():
    stored = np.array([[0, 257, 1000, 30000, 65535]], np.uint16)
    got = compressed_to_rgb(compress(stored, "png"), "mono16; png compressed ")
    np.testing.assert_allclose(got, np.repeat(eight_bit(stored)[..., None], 3, axis=-1), atol=1)


@pytest.mark.parametrize("kind", ["jpeg", "png"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_truncated_data_is_refused(picture, kind, share):
    data = compress(picture(48, 64), kind)
    with pytest.raises(MediaError, match=rf"compressed image \({kind}\) cannot be decoded: \S"):
        compressed_to_rgb(data[: int(len(data) * share)], kind)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_opencv_does(picture, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = compress(picture(48, 64), kind, exif=exif)
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert expected.shape == ((64, 48, 3) if orientation > 4 else (48, 64, 3))
    np.testing.assert_allclose(compressed_to_rgb(data, kind), expected, atol=2)


def test_a_picture_with_damaged_exif_is_decoded(picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = compress(picture(48, 64), "jpeg", exif=exif.tobytes()[:17])
    assert compressed_to_rgb(data, "jpeg").shape == (48, 64, 3)


@pytest.mark.parametrize("pattern", BAYER)
@pytest.mark.parametrize(
    ("bits", "kind", "image_format"),
    [
        (8, "jpeg", "bayer_{}8; jpeg compressed "),
        (8, "png", "bayer_{}8; png compressed "),
        (8, "png", "BAYER_{}8; PNG compressed BAYER_{}8"),
        (8, "png", "bayer_{}8"),
        (16, "png", "bayer_{}16; png compressed "),
    ],
)
def test_a_compressed_mosaic_is_interpolated(pattern, bits, kind, image_format):
    """A red left half and a green right half, as OpenCV interpolates the decoded mosaic."""
    name = image_format.format(*[pattern.upper() if "BAYER" in image_format else pattern] * 2)
    mosaic = np.zeros((16, 32), np.uint16 if bits == 16 else np.uint8)
    for place, channel in enumerate(pattern):
        for half, colour in (
            (slice(0, 16), {"r": 220, "g": 30, "b": 30}),
            (slice(16, 32), {"r": 30, "g": 200, "b": 30}),
        ):
            mosaic[:, half][place // 2 :: 2, place % 2 :: 2] = colour[channel] * (257 if bits == 16 else 1)
    options = {"quality": 100, "subsampling": 0} if kind == "jpeg" else {}
    got = compressed_to_rgb(compress(mosaic, kind, **options), name)
    np.testing.assert_allclose(got[2:-2, 2:13], np.broadcast_to((220, 30, 30), (12, 11, 3)), atol=12)
    np.testing.assert_allclose(got[2:-2, 19:-2], np.broadcast_to((30, 200, 30), (12, 11, 3)), atol=12)


@pytest.mark.parametrize("image_format", ["bayer_rggb8; jpeg compressed bgr8", "bayer_rggb8; jpeg compressed "])
def test_bayer_images_that_were_compressed_in_colour_stay_as_they_are(picture, image_format):
    """Newer publishers interpolate before they compress."""
    pixels = picture(48, 64)
    got = compressed_to_rgb(compress(pixels, "jpeg", quality=95), image_format)
    assert np.abs(got.astype(int) - pixels).mean() < 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", r"it is empty \(0 bytes\)"),
        (bytes(100), "its 100 bytes, which begin with 00 00 00 00 00 00 00 00, are not JPEG, PNG, TIFF or WebP"),
        (b"not an image", "its 12 bytes, which begin with 6e 6f 74 20 61 6e 20 69, are not JPEG, PNG, TIFF or WebP"),
        (b"\xff\xd8\xff\xe0" + bytes(20), r"\S"),
    ],
)
def test_garbage_is_refused(data, reason):
    with pytest.raises(MediaError, match=rf"compressed image \(no format\) cannot be decoded: {reason}") as raised:
        compressed_to_rgb(data)
    assert " at 0x" not in str(raised.value)


@pytest.mark.parametrize(
    ("image_format", "data"),
    [
        *((name, b"\x12\x00\x0a\x0b") for name in ("h264", "H.265", "hevc", "av1", "vp9", "libx264; ffmpeg", "avc")),
        ("jpeg", b"\0\0\0\1\x67\x42"),
        ("", b"\0\0\1\x65\x88"),
    ],
)
def test_video_is_named_with_a_remedy(image_format, data):
    with pytest.raises(MediaError, match=r"is a packet of a video, not an image; .*image_transport republish"):
        compressed_to_rgb(data, image_format)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP", None])
def test_messages_are_converted_up_to_the_limit(kind):
    pixels = random_values("rgb8", 10, 11, 3)
    message = raw_message(height=10, width=11, step=33, data=pixels.tobytes())
    if kind:
        message = RosCompressedImage(format=kind.lower(), data=compress(pixels, kind))
    assert message_to_rgb(message, Decoding(max_pixels=110)).shape == (10, 11, 3)
    with pytest.raises(MediaError, match="11x10 = 110 pixels, the limit is 109; scale it down, or raise max_image"):
        message_to_rgb(message, Decoding(max_pixels=109))


@pytest.mark.parametrize("kind", ["EPS", "GIF", "BMP", "PPM", "JPEG2000", "SPIDER", "PDF", "TGA"])
def test_formats_that_no_camera_sends_are_not_opened(monkeypatch, kind):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.exit("Ghostscript was started"))
    pixels = random_values("rgb8", 16, 16, 3)
    data = compress(pixels[..., 0].astype(np.float32) if kind == "SPIDER" else pixels, kind)
    with pytest.raises(MediaError, match=r"bytes, which begin with .*, are not JPEG, PNG, TIFF or WebP"):
        compressed_to_rgb(data, "jpeg")


def rvl(values):
    """Encodes uint16 [height, width] as compressed_depth_image_transport does."""
    nibbles, previous, rest = [], 0, values.ravel().tolist()

    def put(value):
        while value > 7:
            nibbles.append(value & 7 | 8)
            value >>= 3
        nibbles.append(value)

    while rest:
        for runs_of_zeros in (True, False):
            count = next((i for i, value in enumerate(rest) if (value == 0) != runs_of_zeros), len(rest))
            run, rest = rest[:count], rest[count:]
            put(count)
            for value in run if not runs_of_zeros else ():
                put((value - previous) * 2 if value >= previous else (previous - value) * 2 - 1)
                previous = value
    nibbles += [0] * (-len(nibbles) % 8)
    words = [
        sum(nibble << (28 - 4 * i) for i, nibble in enumerate(nibbles[n : n + 8])) for n in range(0, len(nibbles), 8)
    ]
    return struct.pack(f"<{2 + len(words)}I", values.shape[1], values.shape[0], *words)


DEPTH_SCALE, DEPTH_OFFSET = 100.0 * 101, 1 - 100.0 * 101 / 10  # of compressed_depth_image_transport, at most 10 m


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
@pytest.mark.parametrize("compression", ["; compressedDepth png", "; compressedDepth rvl", "; compressedDepth"])
@pytest.mark.parametrize("shape", [(7, 9), (48, 64)])
def test_compressed_depth_is_decoded_and_shown_as_grey(encoding, compression, shape):
    metres = np.tile(np.linspace(0.5, 9, shape[1]), (shape[0], 1)).astype(np.float32)
    metres[:2, 1:3], metres[-1] = 0, 0
    stored = np.round(metres * 1000).astype(np.uint16)
    if encoding == "32FC1":
        stored = np.where(metres > 0, DEPTH_SCALE / np.maximum(metres, 0.1) + DEPTH_OFFSET, 0).astype(np.uint16)
    content = rvl(stored) if "rvl" in compression else compress(stored, "png")
    data = struct.pack("<iff", 0, DEPTH_SCALE, DEPTH_OFFSET) + content
    got = compressed_depth(data, encoding + compression)
    if encoding == "16UC1":
        np.testing.assert_array_equal(got, stored)
    else:
        np.testing.assert_allclose(np.nan_to_num(got), metres, rtol=0.01)
        assert np.isnan(got[metres == 0]).all()
    grey = compressed_to_rgb(data, encoding + compression)[..., 0]
    assert not grey[metres == 0].any() and (np.diff(grey[3].astype(int)) >= 0).all() and grey[3, -1] > 250
    for cut in (0, 5, 15, len(data) // 2):
        with pytest.raises(MediaError, match="cannot be decoded"):
            compressed_to_rgb(data[:cut], encoding + compression)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((4, 4, 0x90000000), "damaged after 1 of 16"),
        ((2**31, 2**31), "limit is"),
        ((0, 4), "is empty"),
        ((4, 4), "damaged"),
        ((4, 4, 2**32 - 1, 2**32 - 1, 0), "damaged"),
    ],
)
def test_a_damaged_rvl_image_is_refused(words, reason):
    with pytest.raises(MediaError, match=reason):
        compressed_depth(bytes(12) + struct.pack(f"<{len(words)}I", *words), "16UC1; compressedDepth rvl")


def test_a_depth_image_as_plain_png_is_grey_too():
    stored = np.tile(np.arange(1000, 1064, dtype=np.uint16), (32, 1))
    grey = compressed_to_rgb(compress(stored, "png"), "16UC1; png compressed ")[..., 0]
    assert grey.min() == 1 and grey.max() == 255


def test_messages_of_rosbags_are_converted(bags):
    pixels = random_values("rgb8", 5, 7, 3)
    np.testing.assert_array_equal(message_to_rgb(bags.raw(pixels)), pixels)
    np.testing.assert_array_equal(message_to_rgb(bags.raw(pixels, "bgr8")), pixels[..., ::-1])
    np.testing.assert_array_equal(message_to_rgb(bags.compressed(compress(pixels, "png"), "png")), pixels)


def test_messages_of_rclpy_are_converted():
    pixels = random_values("rgb8", 5, 7, 3)
    height, width, step, data = padded(pixels, padding=2)
    raw = RosImage(height=height, width=width, step=step, encoding="rgb8", data=data)
    np.testing.assert_array_equal(message_to_rgb(raw), pixels)
    wide = RosImage(height=1, width=1, step=2, encoding="mono16", is_bigendian=1, data=struct.pack(">H", 0x1200))
    assert message_to_rgb(wide).tolist() == [[[18, 18, 18]]]
    png = RosCompressedImage(format="png", data=compress(pixels, "png"))
    np.testing.assert_array_equal(message_to_rgb(png), pixels)


# cv_bridge


class FakeBridge:
    """Returns or raises `result`; faked because cv_bridge may be missing and cannot be made to fail."""

    result = None

    def imgmsg_to_cv2(self, message, encoding):
        assert encoding == "rgb8"
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


@pytest.fixture
def bridge(monkeypatch):
    monkeypatch.setattr(images, "bridge", FakeBridge)
    yield FakeBridge
    FakeBridge.result = None


def raw_message(encoding="rgb8", **changes):
    values = {"encoding": encoding, "height": 8, "width": 10, "step": 30, "data": array.array("B", bytes(240))}
    return RosImage(**(values | changes))


def test_cv_bridge_is_used_only_for_images_it_converts_correctly(bridge):
    bridge.result = np.full((8, 10, 3), 7, np.uint8)
    assert (message_to_rgb(raw_message()) == 7).all()
    for unsupported in (
        raw_message("8UC3"),
        raw_message(is_bigendian=1),
        raw_message(step=31, data=array.array("B", bytes(248))),
    ):
        assert (message_to_rgb(unsupported) == 0).all()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (RuntimeError("no memory"), "cannot convert rgb8 images (RuntimeError), so the package's own conversion"),
        (np.zeros((8, 9, 3), np.uint8), "cannot convert rgb8 images (it returned the shape (8, 9, 3)), so the"),
    ],
)
def test_an_image_on_which_cv_bridge_fails_is_converted_without_it_and_that_is_said_once(
    bridge, caplog, result, message
):
    bridge.result = result
    images.warn_once.cache_clear()
    for value in (1, 2):
        assert (message_to_rgb(raw_message(data=array.array("B", [value] * 240))) == value).all()
    (logged,) = caplog.messages
    assert logged.startswith("cv_bridge ") and message in logged


@pytest.mark.parametrize("encoding", ["BGR8", "Bgr8", "bgr8", "8uc3"])
def test_the_case_of_an_encoding_does_not_matter(encoding):
    data = array.array("B", [1, 2, 3] * 80)
    assert (message_to_rgb(raw_message(encoding, data=data)) == (3, 2, 1)).all()
    planes = raw_message("NV12", step=10, data=array.array("B", [128] * 120))
    assert (message_to_rgb(planes) == 130).all()
    assert (message_to_rgb(raw_message("16uc1")) == 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoding": "32FC1"}, "step 30 is less"),
        ({"encoding": "nonsense"}, "is not supported"),
        ({"step": 3}, "step 3 is less"),
        ({"height": 80}, "ends after 240 of 2400"),
    ],
)
def test_bad_images_are_refused_before_cv_bridge_reads_them(bridge, changes, message):
    bridge.result = AssertionError("cv_bridge was called")
    with pytest.raises(MediaError, match=message):
        message_to_rgb(raw_message(**changes))


def test_the_real_cv_bridge_returns_the_same_pixels():
    pytest.importorskip("cv_bridge", reason="comes with ROS")
    for encoding in (*CHANNELS, *MONO, *YUV):
        step = 10 * images.pixel_bytes(encoding)
        data = np.random.default_rng(0).integers(0, 256, 8 * step, dtype=np.uint8)
        message = raw_message(encoding, step=step, data=array.array("B", data.tobytes()))
        expected = raw_to_rgb(encoding, 8, 10, step, message.data)
        np.testing.assert_array_equal(message_to_rgb(message), expected)
