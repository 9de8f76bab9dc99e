"""What a segmentation mask says about every patch: the words for what it shows, and where that object lies.

Words, not classes, so that a red cube and a red ball share what they have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from penguin_models.types import Size, UInt8Array
from penguin_training.model.tiny_teacher import EDGE_STEPS

NO_EDGE = -1
_COVERED = 0.2
"""Edges are learnt where an object covers at least this share of a patch."""
_UNNAMED = ("nothing", "any")
"""Words in names of classes that say nothing."""


def words_of(classes: Sequence[str]) -> tuple[list[str], Tensor]:
    """The words of the classes' names in alphabetical order, and which class has which: float32 [classes, words]."""
    split = [[word for word in name.split() if word not in _UNNAMED] for name in classes]
    words = sorted({word for name in split for word in name})
    table = torch.tensor([[float(word in name) for word in words] for name in split])
    return words, table


def class_shares(mask: UInt8Array, size: Size, patch_size: int, classes: int) -> Tensor:
    """Share of each class in every patch.

    Args:
        mask: uint8 [H, W], class numbers; whole patches.
        size: of the mask in pixels.
        patch_size: side of a patch.
        classes: number of classes.

    Returns:
        float32 [N, classes], rows in the order of the patches of a picture with merge size 1.
    """
    return _count(mask, size, patch_size, classes) / patch_size**2


def edge_classes(mask: UInt8Array, size: Size, patch_size: int) -> Tensor:
    """Where in the picture the object lies that covers most of each patch.

    An object is a connected piece of one class: things of one class that touch are one.

    Args:
        mask: uint8 [H, W], class numbers; whole patches.
        size: of the mask in pixels.
        patch_size: side of a patch.

    Returns:
        int64 [N, 4], left, upper, right, lower edge in `EDGE_STEPS` of the picture's side; -1 in patches that show too
        little of an object.
    """
    pieces, boxes = _pieces(mask)
    counts = _count(pieces, size, patch_size, len(boxes))
    counts[:, 0] = 0
    most, piece = counts.max(1)
    sides = torch.tensor([size.width, size.height, size.width, size.height])
    edges = (torch.from_numpy(boxes)[piece] / sides * EDGE_STEPS).round().long()
    return torch.where((most >= _COVERED * patch_size**2)[:, None], edges, NO_EDGE)


def _pieces(mask: UInt8Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Connected pieces by number from 1, and their boxes (x1, y1, x2, y2) in pixels; number 0 is nothing."""
    pieces, boxes = np.zeros(mask.shape, np.int32), [np.zeros((1, 4), np.float32)]
    for number in np.unique(mask[mask > 0]):
        count, labels, figures, _ = cv2.connectedComponentsWithStats((mask == number).astype(np.uint8))
        pieces[labels > 0] = labels[labels > 0] + sum(map(len, boxes)) - 1
        left_top, sides = figures[1:, :2], figures[1:, 2:4]
        boxes.append(np.hstack((left_top, left_top + sides)).astype(np.float32).reshape(count - 1, 4))
    return pieces, np.concatenate(boxes)


def _count(values: npt.NDArray[Any], size: Size, patch_size: int, kinds: int) -> Tensor:
    """How many pixels of each patch have each value: float32 [N, kinds]."""
    assert values.shape == tuple(size)
    rows, columns = size.height // patch_size, size.width // patch_size
    patches = np.arange(rows * columns).reshape(rows, columns)
    patch_of_pixel = patches.repeat(patch_size, 0).repeat(patch_size, 1)
    counts = np.bincount((patch_of_pixel * kinds + values).ravel(), minlength=rows * columns * kinds)
    return torch.from_numpy(counts.reshape(-1, kinds).astype(np.float32))
