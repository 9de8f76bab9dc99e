"""Patches: order, normalisation, and Pillow's resize."""

import numpy as np
import pytest
from PIL import Image

from penguin_models.config import ImageConfig
from penguin_models.images import cut_patches, patch_image, patch_positions
from penguin_models.types import Size


def test_patches_are_ordered_block_by_block_channel_first():
    p, m = 2, 2
    rows, columns = 4, 8  # patches of 2x2 pixels
    image = np.arange(rows * p * columns * p * 3, dtype=np.float32).reshape(rows * p, columns * p, 3)
    patches = cut_patches(image, merge_size=m, patch_size=p)
    expected = []
    for block_row in range(0, rows, m):
        for block_column in range(0, columns, m):
            for row in range(block_row, block_row + m):
                for column in range(block_column, block_column + m):
                    patch = image[row * p : (row + 1) * p, column * p : (column + 1) * p]
                    expected.append(patch.transpose(2, 0, 1).reshape(-1))
    assert np.array_equal(patches, np.stack(expected))


def test_patches_are_resized_and_normalised(picture):
    rgb = picture(50, 70)
    config = ImageConfig(mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2))
    image = patch_image(rgb, Size(28, 56), 1, config)
    resized = np.asarray(Image.fromarray(rgb).resize((56, 28), Image.Resampling.BICUBIC)) / 255
    expected = (resized - np.array(config.mean)) / np.array(config.std)
    assert image.grid == Size(2, 4) and image.tokens == 8
    first = expected[:14, :14].transpose(2, 0, 1).reshape(-1)
    np.testing.assert_allclose(image.patches[0], first, atol=1e-5)


@pytest.mark.parametrize("size", [Size(28, 57), Size(20, 56)])
def test_sizes_off_the_patch_grid_fail_an_assertion(picture, size):
    with pytest.raises(AssertionError):
        patch_image(picture(50, 70), size, 1, ImageConfig())


def test_positions_follow_blocks():
    assert patch_positions(Size(2, 4), 2).tolist() == [
        [0, 0], [0, 1], [1, 0], [1, 1],
        [0, 2], [0, 3], [1, 2], [1, 3],
    ]  # fmt: skip
