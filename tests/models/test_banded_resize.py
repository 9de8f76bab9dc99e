"""The resize of the key-frame rule against torch's own, bit by bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguin_models.banded_resize import BAND_ROWS, BandedResize, resize
from penguin_models.reference_policy import comparison_size
from penguin_models.types import Size


def pictures(size, seed):
    """Noise, and flat blocks, whose sums lie next to whole numbers: there the order of sums decides."""
    random = np.random.default_rng(seed)
    yield random.integers(0, 256, (*size, 3), dtype=np.uint8)
    blocks = random.integers(0, 256, (size.height // 9 + 1, size.width // 9 + 1, 3), dtype=np.uint8)
    yield np.ascontiguousarray(np.kron(blocks, np.ones((9, 9, 1), np.uint8))[: size.height, : size.width])
    yield np.full((*size, 3), random.integers(0, 256, 3), np.uint8)


def check(source_size, size, seed):
    banded = BandedResize(source_size, size)
    for picture in pictures(source_size, seed):
        bands = [band.copy() for band in banded(picture)]
        assert all(len(band) == BAND_ROWS for band in bands[:-1])
        np.testing.assert_array_equal(np.concatenate(bands), resize(picture, size))


@pytest.mark.parametrize(
    "source_size", [Size(1080, 1920), Size(720, 1280), Size(480, 640), Size(1200, 1920), Size(376, 672), Size(84, 126)]
)
def test_the_same_bits_at_sizes_of_cameras(source_size):
    size = comparison_size(source_size)
    assert BandedResize.suits(source_size, size)
    check(source_size, size, seed=0)


@given(st.data(), st.integers(70, 220), st.integers(70, 220), st.integers(0, 99))
def test_the_same_bits_at_any_sizes_that_suit(data, height, width, seed):
    def near(side):
        return data.draw(st.integers(-(-side * 10 // 11), side * 11 // 10))

    source_size, size = Size(height, width), Size(near(height), near(width))
    assert BandedResize.suits(source_size, size)
    check(source_size, size, seed)


@pytest.mark.parametrize(
    ("source_size", "size"), [((2160, 3840), (1050, 1876)), ((48, 64), (42, 70)), ((5, 9), (42, 70))]
)
def test_sides_that_change_much_do_not_suit(source_size, size):
    assert not BandedResize.suits(Size(*source_size), Size(*size))


def test_values_are_truncated():
    """As the released code does: 255 and 0 in equal parts are 127, not 128."""
    stripes = np.zeros((28, 28, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.unique(resize(stripes, Size(28, 14))[:, 1:-1]).tolist() == [127]
