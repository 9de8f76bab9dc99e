"""The banded resize of the keyframe rule gives the same bits as torch's resize."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penguin_models.banded_resize import BAND_ROWS, BandedResize, resize
from penguin_models.reference_policy import comparison_size
from penguin_models.types import Size


def make_images(size, seed):
    """Yields noise, and flat blocks whose sums are close to whole numbers, so that the order of summation matters."""
    random = np.random.default_rng(seed)
    yield random.integers(0, 256, (*size, 3), dtype=np.uint8)
    blocks = random.integers(0, 256, (size.height // 9 + 1, size.width // 9 + 1, 3), dtype=np.uint8)
    yield np.ascontiguousarray(np.kron(blocks, np.ones((9, 9, 1), np.uint8))[: size.height, : size.width])
    yield np.full((*size, 3), random.integers(0, 256, 3), np.uint8)


def check(source_size, size, seed):
    banded = BandedResize(source_size, size)
    for image in make_images(source_size, seed):
        bands = [band.copy() for band in banded(image)]
        assert all(len(band) == BAND_ROWS for band in bands[:-1])
        np.testing.assert_array_equal(np.concatenate(bands), resize(image, size))


@pytest.mark.parametrize(
    "source_size", [Size(1080, 1920), Size(720, 1280), Size(480, 640), Size(1200, 1920), Size(376, 672), Size(84, 126)]
)
def test_camera_sizes_give_the_same_bits(source_size):
    size = comparison_size(source_size)
    assert BandedResize.suits(source_size, size)
    check(source_size, size, seed=0)


@given(st.data(), st.integers(70, 220), st.integers(70, 220), st.integers(0, 99))
def test_all_suitable_sizes_give_the_same_bits(data, height, width, seed):
    def near(side):
        return data.draw(st.integers(-(-side * 10 // 11), side * 11 // 10))

    source_size, size = Size(height, width), Size(near(height), near(width))
    assert BandedResize.suits(source_size, size)
    check(source_size, size, seed)


@pytest.mark.parametrize(
    ("source_size", "size"), [((2160, 3840), (1050, 1876)), ((48, 64), (42, 70)), ((5, 9), (42, 70))]
)
def test_sizes_that_change_much_do_not_suit(source_size, size):
    assert not BandedResize.suits(Size(*source_size), Size(*size))


def test_values_are_truncated():
    """The released code truncates: equal parts of 255 and 0 give 127, not 128."""
    stripes = np.zeros((28, 28, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.unique(resize(stripes, Size(28, 14))[:, 1:-1]).tolist() == [127]
