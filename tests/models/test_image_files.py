"""Image files of every kind become the RGB that a viewer shows."""

import struct
import sys
import types
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, features

from penguin_models.errors import MediaError
from penguin_models.media import load_image

RAMP = np.linspace(0, 1, 3072).reshape(48, 64)  # mean 0.5
WHITE, BLACK = [255, 255, 255], [0, 0, 0]


def write_bytes(path, data):
    path.write_bytes(data)
    return path


def png(path, colour_type, bits, rows, *chunks):
    """Writes a PNG of a kind that Pillow reads but does not write; rows are bytes, chunks (type, bytes)."""
    width = len(rows[0]) * 8 // (bits * {0: 1, 2: 3, 4: 2, 6: 4}[colour_type])
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")):
        content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return write_bytes(path, content)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGBA", "CMYK", "YCbCr"])
def test_every_kind_of_image_becomes_rgb(tmp_path, mode):
    suffix = {"CMYK": "tif", "PA": "tif", "YCbCr": "jpg"}.get(mode, "png")
    path = tmp_path / f"image.{suffix}"
    Image.new("RGB", (5, 4), "white").convert("P" if mode == "PA" else mode).convert(mode).save(path)
    rgb = load_image(path)
    assert rgb.shape == (4, 5, 3) and rgb.dtype == np.uint8 and (rgb == 255).all()


def grey16_pgm(path):
    return write_bytes(path, b"P5 64 48 65535\n" + (RAMP * 65535).astype(">u2").tobytes())


def grey12_pgm(path):
    return write_bytes(path, b"P5 64 48 4095\n" + (RAMP * 4095).astype(">u2").tobytes())


def saved(dtype, scale=1.0, offset=0.0, byteorder="<"):
    """Returns a function that writes the ramp as a TIFF of this type, without a library in between."""

    def write(path):
        values = (RAMP * scale + offset).astype(np.dtype(dtype).newbyteorder(byteorder))
        kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
        tags = {256: 64, 257: 48, 258: values.itemsize * 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 48, 279: values.nbytes}
        tags[339] = kind
        entries = b"".join(struct.pack(byteorder + "HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
        mark = b"II*\0" if byteorder == "<" else b"MM\0*"
        head = mark + struct.pack(byteorder + "I", 8 + values.nbytes)
        return write_bytes(path, head + values.tobytes() + struct.pack(byteorder + "H", len(tags)) + entries + bytes(4))

    return write


def pfm(path):
    return write_bytes(path, b"Pf\n64 48\n-1.0\n" + RAMP[::-1].astype("<f4").tobytes())


def grey16_plain_pgm(path):
    levels = " ".join(str(level) for level in (RAMP * 65535).astype(int).ravel())
    return write_bytes(path, f"P2 64 48 65535\n{levels}\n".encode())


def png16(path):
    Image.fromarray((RAMP * 65535).astype(np.uint16)).save(path, format="PNG")
    return path


@pytest.mark.parametrize(
    "write",
    [
        *(grey16_pgm, grey16_plain_pgm, grey12_pgm, png16, pfm),
        *(saved("u2", 65535), saved("u2", 65535, byteorder=">"), saved("u4", 65535), saved("u4", 2**32 - 1)),
        *(saved("i4", 65535), saved("i4", 255), saved("i4", 200_000, -100_000), saved("i2", 65535, -32768)),
        *(saved("f4"), saved("f4", 255), saved("f4", 65535), saved("f4", 2, -1), saved("f4", 1e6)),
        *(saved("f4", byteorder=">"), saved("f4", 10), saved("f4", 1000), saved("f4", 4095), saved("f4", 50, 20)),
        *(saved("i4", 1000), saved("i4", 4095), saved("u4", 20_000, 10_000)),
    ],
)
def test_ranges_beyond_8_bits_are_scaled(tmp_path, write):
    """A ramp over the range of its format, or, where the format has none, over a usual range."""
    grey = load_image(write(tmp_path / "ramp.tif"))
    assert grey.min() == 0 and grey.max() == 255 and abs(grey.mean() - 127.5) < 0.6
    assert (np.diff(grey[..., 0].ravel().astype(int)) >= 0).all() and (grey == grey[..., :1]).all()


def test_16_bits_keep_their_range(tmp_path):
    """A dark picture stays dark; 32-bit integers from 0 to 255 are taken for 8 bits, as Pillow takes them."""
    Image.fromarray(np.array([[0, 256, 65535]], np.uint16)).save(tmp_path / "wide.png")
    assert load_image(tmp_path / "wide.png")[0, :, 0].tolist() == [0, 1, 255]
    dark = write_bytes(tmp_path / "dark.pgm", b"P5 2 1 65535\n" + struct.pack(">2H", 0, 200))
    assert load_image(dark).max() == 0
    Image.fromarray(np.array([[0, 7, 200]], np.int32)).save(tmp_path / "int.tif")
    assert load_image(tmp_path / "int.tif")[0, :, 0].tolist() == [0, 7, 200]


def test_values_that_are_no_grey_levels(tmp_path):
    def levels(*values):
        Image.fromarray(np.array([values], np.float32)).save(tmp_path / "float.tif")
        return load_image(tmp_path / "float.tif")[0, :, 0].tolist()

    nan, inf = float("nan"), float("inf")
    assert levels(0, nan, 0.5, inf, -inf, 1) == [0, 0, 128, 255, 0, 255]
    assert levels(0.5, 0.5) == [128, 128]
    assert levels(1e6, 1e6) == [0, 0]
    with pytest.raises(MediaError, match=r"float.tif cannot be decoded: .* NaN or infinite"):
        levels(nan, inf)


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (saved("f8"), "1 channel of 64-bit floats"),
        (saved("f2"), "1 channel of 16-bit floats"),
        (saved("u8", 65535), "1 channel of 64-bit unsigned integers"),
    ],
)
def test_a_tiff_that_pillow_cannot_read_is_named(tmp_path, write, kind):
    with pytest.raises(MediaError, match=rf"x.tif is a TIFF with {kind}, which .*; convert it to PNG with 8 or 16"):
        load_image(write(tmp_path / "x.tif"))
    cut = write_bytes(tmp_path / "cut.tif", (tmp_path / "x.tif").read_bytes()[:-100])
    with pytest.raises(MediaError, match=r"cut.tif is not an image of a format that is read .*, or it is damaged"):
        load_image(cut)


@pytest.mark.parametrize(("dtype", "kind"), [("f4", "32-bit floats"), ("i4", "32-bit signed"), ("f8", "64-bit floats")])
def test_a_tiff_with_colours_of_many_bits_is_named(tmp_path, dtype, kind):
    cv2.imwrite(str(tmp_path / "x.tif"), np.ones((4, 5, 3), dtype))
    with pytest.raises(MediaError, match=rf"x.tif is a TIFF with 3 channels of {kind}.*; convert it to PNG"):
        load_image(tmp_path / "x.tif")


def test_16_bit_colours_are_scaled(tmp_path):
    colour = np.full((4, 5, 3), (0x1234, 0x8000, 0xFFFF), np.uint16)
    for name in ("colour.png", "colour.tif"):
        cv2.imwrite(str(tmp_path / name), colour)  # BGR
        assert load_image(tmp_path / name)[0, 0].tolist() == [0xFF, 0x80, 0x12]
    ppm = write_bytes(tmp_path / "colour.ppm", b"P6 1 1 65535\n" + struct.pack(">3H", 0xFFFF, 0x8000, 0x1234))
    assert load_image(ppm)[0, 0].tolist() == [0xFF, 0x80, 0x12]


def drawing(mode):
    """A black square on a transparent ground; the colour under the transparency is black too."""
    rgba = np.zeros((24, 24, 4), np.uint8)
    rgba[8:16, 8:16, 3] = 255
    image = Image.fromarray(rgba)
    if mode == "P":
        palette = Image.new("P", (24, 24), 0)
        palette.putpalette([0, 0, 0, 0, 0, 0])
        palette.paste(1, (8, 8, 16, 16))
        return palette
    if mode == "RGB":
        colour = Image.new("RGB", (24, 24), (10, 20, 30))
        colour.paste((0, 0, 0), (8, 8, 16, 16))
        return colour
    return image if mode == "RGBA" else image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "name", "options"),
    [
        *(("RGBA", name, {}) for name in ("x.png", "x.tif", "x.gif")),
        ("RGBA", "x.webp", {"lossless": True, "exact": True}),
        ("LA", "x.png", {}),
        ("LA", "x.tif", {}),
        ("P", "x.png", {"transparency": 0}),
        ("P", "x.png", {"transparency": b"\0\xff"}),
        ("P", "x.gif", {"transparency": 0}),
        ("RGB", "x.png", {"transparency": (10, 20, 30)}),
    ],
)
def test_transparent_pictures_are_laid_on_white(tmp_path, mode, name, options):
    drawing(mode).save(tmp_path / name, **options)
    rgb = load_image(tmp_path / name)
    assert rgb[12, 12].tolist() == BLACK and rgb[2, 2].tolist() == rgb[20, 12].tolist() == WHITE


def test_alpha_of_0_throughout_is_ignored(tmp_path):
    """As cameras write it; a picture that is black besides stays empty."""
    bgra = np.zeros((4, 5, 4), np.uint8)
    cv2.imwrite(str(tmp_path / "empty.png"), bgra)
    assert (load_image(tmp_path / "empty.png") == 255).all()
    bgra[:, :, 0] = 50 * np.arange(5)
    cv2.imwrite(str(tmp_path / "x.png"), bgra)
    assert load_image(tmp_path / "x.png")[0].tolist() == [[0, 0, level] for level in (0, 50, 100, 150, 200)]


def test_transparency_of_16_bits_and_in_part(tmp_path):
    h = struct.Struct(">H").pack
    rgba = png(tmp_path / "rgba.png", 6, 16, [h(0) * 4 + (h(0) * 3 + h(65535)) + (h(0) * 3 + h(32768))])
    assert load_image(rgba)[0, :, 0].tolist() == [255, 0, 127]
    grey_alpha = png(tmp_path / "la.png", 4, 16, [h(0) * 2 + h(0) + h(65535)])
    assert load_image(grey_alpha)[0, :, 0].tolist() == [255, 0]
    grey = png(tmp_path / "grey.png", 0, 16, [h(5) + h(6)], (b"tRNS", h(5)))
    assert load_image(grey)[0, :, 0].tolist() == [255, 0]
    colours = [h(0x1234) + h(0x5678) + h(0x9ABC) + h(0) * 3]
    colour = png(tmp_path / "rgb.png", 2, 16, colours, (b"tRNS", colours[0][:6]))
    assert load_image(colour)[0].tolist() == [WHITE, BLACK]
    eight = png(tmp_path / "bits.png", 0, 1, [b"\x80" * 2], (b"tRNS", h(0)))
    assert load_image(eight)[0].tolist() == [WHITE] * 16
    opaque = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(np.dstack((opaque, np.full((8, 8), 255, np.uint8)))).save(tmp_path / "opaque.png")
    assert (load_image(tmp_path / "opaque.png") == opaque).all()


@pytest.mark.parametrize("name", ["x.gif", "x.webp", "x.png", "x.tif"])
def test_an_animation_shows_its_first_frame(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    assert load_image(tmp_path / name)[4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("mode", "name"), [("RGB", "x.png"), ("RGBA", "x.png"), ("I;16", "x.png"), ("F", "x.tif")])
def test_exif_orientation_is_applied(tmp_path, mode, name, orientation):
    levels = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
    values = {"I;16": levels.astype(np.uint16) * 257, "F": levels / np.float32(255)}.get(mode, levels)
    image = Image.fromarray(values) if mode in ("I;16", "F") else Image.fromarray(levels).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / name, exif=exif)
    upright = Image.fromarray(levels)
    upright.getexif()[0x0112] = orientation
    assert (load_image(tmp_path / name)[..., 0] == np.asarray(ImageOps.exif_transpose(upright))).all()


def test_density_is_ignored_as_viewers_do(tmp_path):
    Image.new("RGB", (6, 4)).save(tmp_path / "x.jpg", dpi=(72, 144))
    assert load_image(tmp_path / "x.jpg").shape == (4, 6, 3)


def test_bad_images_are_refused(tmp_path, reference):
    with pytest.raises(MediaError, match="not an image"):
        load_image(write_bytes(tmp_path / "text.png", b"hello"))
    whole = (reference / "media" / "tabletop.png").read_bytes()
    with pytest.raises(MediaError, match="cannot be decoded"):
        load_image(write_bytes(tmp_path / "cut.png", whole[: len(whole) // 2]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"is HEIC .*: pip install pillow-heif$"),
        ("x.jpg", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", r"is HEIC .*: pip install pillow-heif$"),
        ("x.mp4", b"\0\0\0\x18ftypisom\0\0\0\0isommp42", r"is a video; .*--video"),
        ("x.png", b"G" + bytes(187) + b"G" + bytes(187), r"is a video; .*--video"),
        ("x.nef", b"II*\0" + bytes(100), "is a raw file of a camera; develop it"),
        ("x.CR3", b"\0\0\0\x18ftypcrx \0\0\0\x01", "is a raw file of a camera; develop it"),
    ],
)
def test_images_that_need_another_reader_are_named(tmp_path, monkeypatch, name, content, message):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if not installed
    with pytest.raises(MediaError, match=rf"{name} {message}"):
        load_image(write_bytes(tmp_path / name, content))


def test_a_plugin_for_heic_is_used(tmp_path, monkeypatch):
    """A plugin of the same interface, which knows one picture; the real one is an extra."""

    class HeifFile(Image.Image):
        pass

    def register_heif_opener():
        def open_(file, name):
            return Image.new("RGB", (6, 4), (1, 2, 3))

        Image.register_open("HEIF", open_, lambda prefix: prefix[4:12] == b"ftypheic")

    plugin = types.SimpleNamespace(register_heif_opener=register_heif_opener)
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    path = write_bytes(tmp_path / "x.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert load_image(path)[0, 0].tolist() == [1, 2, 3]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_damaged_avif_files_are_refused(tmp_path):
    """The AVIF decoder raises other exceptions than the rest."""
    path = tmp_path / "x.avif"
    Image.new("RGB", (32, 32)).save(path)
    whole = bytearray(path.read_bytes())
    refused = 0
    for place in range(0, len(whole), 4):
        damaged = whole.copy()
        damaged[place] ^= 0xFF
        try:
            load_image(write_bytes(path, damaged))
        except MediaError:
            refused += 1
    assert refused > 10
