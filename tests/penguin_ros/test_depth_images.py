"""Depth messages in every form that cameras and transports publish."""

import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from penguin_models.errors import MediaError
from penguin_ros.depth_images import message_to_depth

METRES = np.array([[0.5, 0.0, 1.25], [2.0, 0.75, 0.0]], np.float32)
KNOWN = np.where(METRES > 0, METRES, np.nan)


def raw(encoding, values, bigendian=False, padding=0):
    data = [row.tobytes() + bytes(padding) for row in values.astype(values.dtype.newbyteorder("<>"[bigendian]))]
    step = values.shape[1] * values.itemsize + padding
    return SimpleNamespace(encoding=encoding, height=2, width=3, step=step, is_bigendian=bigendian, data=b"".join(data))


def compressed(image_format, body, scale=0.0, offset=0.0):
    return SimpleNamespace(format=image_format, data=struct.pack("<iff", 0, scale, offset) + body)


def png(values):
    return cv2.imencode(".png", values.astype(np.uint16))[1].tobytes()


def rvl(values):
    """Codes an image pixel by pixel, after the paper."""
    numbers, position, last, flat = [], 0, 0, [int(value) for value in values.ravel()]
    while position < len(flat):
        empty = next((n for n, value in enumerate(flat[position:]) if value), len(flat) - position)
        filled = next((n for n, v in enumerate(flat[position + empty :]) if not v), len(flat) - position - empty)
        numbers += [empty, filled]
        for value in flat[position + empty : position + empty + filled]:
            delta, last = value - last, value
            numbers.append(2 * delta if delta >= 0 else -2 * delta - 1)
        position += empty + filled
    nibbles = []
    for number in numbers:
        while number > 7:
            nibbles.append(8 | number & 7)
            number >>= 3
        nibbles.append(number)
    nibbles += [0] * (-len(nibbles) % 8)
    words = [int("".join(f"{n:x}" for n in nibbles[i : i + 8]), 16) for i in range(0, len(nibbles), 8)]
    return struct.pack(f"<ii{len(words)}I", values.shape[1], values.shape[0], *words)


MM = (METRES * 1000).astype(np.uint16)
FLOATS = np.where(METRES > 0, METRES, [[np.nan, np.inf, -1.0], [np.nan, np.nan, np.inf]]).astype(np.float32)
INVERSE = np.where(METRES > 0, np.round(2000.0 / np.where(METRES > 0, METRES, 1) + 100), 0)


@pytest.mark.parametrize(
    "message",
    [
        raw("16UC1", MM),
        raw("16UC1", np.where(MM == 0, 65535, MM).astype(np.uint16), bigendian=True, padding=5),
        raw("mono16", MM, padding=2),
        raw("32FC1", FLOATS, padding=3),
        raw("32FC1", FLOATS, bigendian=True),
        raw("64FC1", FLOATS.astype(np.float64)),
        compressed("16UC1; compressedDepth", png(MM)),
        compressed("16UC1; compressedDepth png", png(MM)),
        compressed("16UC1; compressedDepth rvl", rvl(MM)),
        compressed("32FC1; compressedDepth png", png(INVERSE), 2000.0, 100.0),
        compressed("32FC1; compressedDepth rvl", rvl(INVERSE), 2000.0, 100.0),
        SimpleNamespace(format="16UC1; png compressed", data=png(MM)),
    ],
)
def test_every_form_of_depth_becomes_metres_with_nan_where_there_is_no_value(message):
    np.testing.assert_allclose(message_to_depth(message), KNOWN, rtol=1e-3)


def test_rvl_codes_large_images_with_long_runs():
    depth = np.random.default_rng(0).integers(0, 60000, (120, 160)).astype(np.uint16)
    depth[20:90] = 0
    message = compressed("16UC1; compressedDepth rvl", rvl(depth))
    np.testing.assert_allclose(np.nan_to_num(message_to_depth(message)), depth / 1000, rtol=1e-5)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (SimpleNamespace(encoding="rgb8", height=2, width=3, step=9, data=b""), "'rgb8' is not depth; supported are"),
        (raw("16UC1", MM[:1]), "has 6 bytes in rows of 6"),
        (SimpleNamespace(encoding="32FC1", height=2, width=3, step=6, is_bigendian=0, data=bytes(12)), "rows need 12"),
        (SimpleNamespace(encoding="16UC1", height=0, width=3, step=6, is_bigendian=0, data=b""), "is empty: 3x0"),
        (compressed("16UC1; compressedDepth png", png(MM)[:40]), "cannot be decoded|damaged|truncated"),
        (
            compressed("16UC1; compressedDepth png", cv2.imencode(".png", MM.astype(np.uint8))[1].tobytes()),
            "not 16-bit grey",
        ),
        (compressed("16UC1; compressedDepth rvl", rvl(MM)[:-4]), "damaged after"),
        (compressed("16UC1; compressedDepth rvl", struct.pack("<iiI", 3, 2, 0)), "damaged after"),
        (compressed("16UC1; compressedDepth rvl", struct.pack("<iiI", 1 << 20, 1 << 20, 0)), "the limit is"),
        (compressed("16UC1; compressedDepth rvl", struct.pack("<iiQ", 3, 2, 2**64 - 1)), "damaged after"),
        (compressed("32FC1; compressedDepth png", png(INVERSE), np.nan, 0.0), "nan and 0, not valid"),
        (compressed("rgb8; jpeg compressed", b"\xff\xd8\xff\xe0 picture"), "begin with ff d8 ff e0"),
        (SimpleNamespace(format="16UC1; compressedDepth", data=b"1234"), "it has 4 bytes"),
    ],
)
def test_other_messages_are_refused_with_a_reason(message, reason):
    with pytest.raises(MediaError, match=reason):
        message_to_depth(message)
