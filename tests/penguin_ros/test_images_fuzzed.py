"""Damaged and strange image messages are converted or refused with one sentence, whatever they hold."""

from random import Random
from types import SimpleNamespace

import numpy as np
from damage import damage
from fuzzing import FUZZ
from hypothesis import given
from hypothesis import strategies as st
from small_images import small_images

from penguin_models.errors import MediaError
from penguin_ros.images import Decoding, message_to_rgb
from penguin_ros.raw_images import _LAYOUTS, DEPTH, MONO16_SCALINGS

_MAX_PIXELS = 5_000
_VALID = small_images()
_FORMATS = (
    *("jpeg", "png", "", "webp", "tiff", "bgr8; jpeg compressed bgr8", "bayer_rggb8; png compressed ", "mono16; png"),
    *("bayer_grbg16; tiff compressed ", "16UC1; compressedDepth png", "h264", "\0\n\x1b[31m" * 99, ";" * 9),
)


def _checked(message, decoding):
    try:
        rgb = message_to_rgb(message, decoding)
    except MediaError as err:
        assert len(str(err)) < 700 and "\n" not in str(err) and " at 0x" not in str(err)
    else:
        assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3
        assert 0 < rgb.shape[0] * rgb.shape[1] <= _MAX_PIXELS


@FUZZ
@given(st.integers(0, 2**64 - 1))
def test_compressed_images(seed):
    random = Random(seed)
    image_format = random.choice(_FORMATS)
    if not random.randrange(10):
        image_format = damage(image_format.encode(), random).decode(errors="replace")
    data = damage(random.choice(_VALID), random)
    scaling = random.choice(MONO16_SCALINGS)
    _checked(SimpleNamespace(format=image_format, data=data), Decoding(scaling, _MAX_PIXELS))


@FUZZ
@given(st.integers(0, 2**64 - 1))
def test_raw_images(seed):
    random = Random(seed)
    encoding = random.choice((*_LAYOUTS, *DEPTH, "", "\n" * 300, "RGB8", "é"))
    height, width = (random.choice((0, 1, 2, 3, 4, 7, 8, 2**16, 2**31, 2**32 - 1)) for _ in range(2))
    step = width * random.choice((0, 1, 1.5, 2, 3, 3, 4, 6, 8)) + random.choice((0, 0, 1, 5))
    length = min(height * int(step) * random.choice((1, 1, 1.5, 2, 3)) + random.choice((0, 0, -1, 7)), 4096)
    message = SimpleNamespace(
        encoding=encoding,
        height=height,
        width=width,
        step=random.choice((int(step), int(step), 0, 2**32 - 1)),
        is_bigendian=random.choice((0, 1, 255)),
        data=random.randbytes(max(0, int(length))),
    )
    _checked(message, Decoding(random.choice(MONO16_SCALINGS), _MAX_PIXELS))
