"""Pixels -> patches: the resize that checkpoints were trained with, normalisation and patch order.

Axes: H, W pixels; h, w patches; m merge size; P patch size; C colours.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from penguin_models.config import ImageConfig
from penguin_models.decoding import return_memory
from penguin_models.errors import MediaError
from penguin_models.token_allocation import reference_sizes, strict_sizes
from penguin_models.types import Float32Array, FrameKind, Int64Array, PatchedImage, Size, UInt8Array


def resize(rgb: UInt8Array, size: Size) -> UInt8Array:
    """Resizes as Pillow does (bicubic): uint8 [H, W, 3] -> [size.height, size.width, 3]."""
    if rgb.shape[:2] == size:
        return rgb
    resized = np.asarray(Image.fromarray(rgb).resize((size.width, size.height), Image.Resampling.BICUBIC))
    return_memory(rgb.shape[0] * rgb.shape[1])
    return resized


def patch_image(rgb: UInt8Array, size: Size, merge_size: int, config: ImageConfig) -> PatchedImage:
    """Resizes uint8 [H, W, 3] to multiples of patch_size * merge_size and cuts it into normalised patches."""
    assert all(side % (config.patch_size * merge_size) == 0 for side in size), (size, merge_size)
    grid = Size(size.height // config.patch_size, size.width // config.patch_size)
    mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
    normalised = resize(rgb, size).astype(np.float32)  # in place: (x / 255 - mean) / std
    normalised *= 1 / (255 * std)
    normalised -= mean / std
    return PatchedImage(cut_patches(normalised, merge_size, config.patch_size), grid, merge_size)


def patch_whole_image(
    rgb: UInt8Array, config: ImageConfig, max_tokens: int | None = None, merge_size: int = 1
) -> PatchedImage:
    """Cuts an image, uint8 [H, W, 3], into patches as released for an image by itself.

    Small images are enlarged to about 1.5 min_tokens, large ones reduced to at most max_tokens visual tokens, the
    checkpoint's setting if None; each is the mean of merge_size x merge_size patches.

    Raises:
        BudgetError: max_tokens is too small even for the smallest sizes that the rule allows.
        MediaError: The image is no array of this kind, or has no pixels.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        raise MediaError(f"an image is {rgb.dtype} {list(rgb.shape)}, it must be uint8 [H, W, 3] with H, W > 0")
    limit = config.max_tokens if max_tokens is None else max_tokens
    size = Size(rgb.shape[0], rgb.shape[1])
    arguments = (size, (FrameKind.KEY,), merge_size, config.min_tokens, limit, config.patch_size)
    allocation = reference_sizes(*arguments)
    if allocation.tokens(FrameKind.KEY) > limit:  # its rounding may exceed the budget
        allocation = strict_sizes(*arguments)
    return patch_image(rgb, allocation.key, merge_size, config)


def cut_patches(image: Float32Array, merge_size: int, patch_size: int) -> Float32Array:
    """Cuts [H, W, C] into patches [h*w, C*P*P], ordered as in `PatchedImage`."""
    height, width, channels = image.shape
    m, p = merge_size, patch_size
    blocks = image.reshape(height // (m * p), m, p, width // (m * p), m, p, channels)
    ordered = blocks.transpose(0, 3, 1, 4, 6, 2, 5)  # [h/m, w/m, m, m, C, P, P]
    return np.ascontiguousarray(ordered).reshape(-1, channels * p * p)


@lru_cache(maxsize=256)
def patch_positions(grid: Size, merge_size: int) -> Int64Array:
    """Returns row and column of each patch of an image in block order: int64 [h*w, 2], read-only."""
    m = merge_size
    positions = np.indices(grid).transpose(1, 2, 0).reshape(grid.height // m, m, grid.width // m, m, 2)
    ordered = np.ascontiguousarray(positions.swapaxes(1, 2).reshape(-1, 2))
    ordered.flags.writeable = False
    return ordered
