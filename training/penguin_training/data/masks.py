"""Images with segmentation masks, and what the masks say about every patch: words for its object, and its edges.

Samples of the annotation file have `image` and `masks`, lists of equal length: for each image a mask of the same size
whose 8-bit values are class numbers, 0 for nothing. Samples without masks are skipped. A `settings.json` next to the
file names the classes: {"classes": ["nothing", "red cube", ...]}. Labels are the words of these names, not the
classes, so that a red cube and a red ball share what they have in common.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from penguin_models.config import ImageConfig
from penguin_models.errors import DataError
from penguin_models.images import patch_image
from penguin_models.media import load_image, open_image
from penguin_models.types import PatchedImage, Size, UInt8Array
from penguin_training.data.annotations import AnnotationFile
from penguin_training.model.tiny_teacher import EDGE_STEPS

NO_EDGE = -1
_MIN_COVERED = 0.2  # Edges are learnt in patches of which an object covers at least this fraction
_SKIPPED_WORDS = ("nothing", "any")


class MaskedImages(Dataset[tuple[PatchedImage, Tensor, Tensor]]):
    """Patches, the words for them [N, words] and the edges around them [N, 4], by (row, scale)."""

    def __init__(self, files: Sequence[Path]):
        """Reads class names and paths; raises DataError if they are missing or contradict each other."""
        self._config = ImageConfig()
        self.words, self._words_of_class = words_of(read_classes(files))
        self._pairs = [pair for file in files for pair in _read_pairs(file)]

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, row_and_scale: tuple[int, float]) -> tuple[PatchedImage, Tensor, Tensor]:
        row, scale = row_and_scale
        image_path, mask_path = self._pairs[row]
        rgb, mask = load_image(image_path), _load_mask(mask_path)
        if mask.shape != rgb.shape[:2]:
            raise DataError(f"mask {mask_path} has the size {mask.shape}, its image {rgb.shape[:2]}")
        classes = len(self._words_of_class)
        if (largest := int(mask.max())) >= classes:
            raise DataError(
                f"mask {mask_path} shows class {largest}, but only {classes} are named; list all in settings.json"
            )
        p = self._config.patch_size
        size = Size(*(max(p, round(scale * side / p) * p) for side in rgb.shape[:2]))
        if mask.shape != tuple(size):
            mask = np.asarray(Image.fromarray(mask).resize((size.width, size.height), Image.Resampling.NEAREST))
        words = class_shares(mask, size, p, classes) @ self._words_of_class
        return patch_image(rgb, size, 1, self._config), words, edge_classes(mask, size, p)


def read_classes(files: Sequence[Path]) -> list[str]:
    """Reads the class names from the `settings.json` next to annotation files; raises DataError if they differ."""
    lists = [_listed_classes(file) for file in files]
    if any(other != lists[0] for other in lists):
        raise DataError("the settings.json files next to the annotation files list different classes; train on one")
    return lists[0]


def _listed_classes(file: Path) -> list[str]:
    if not file.is_file():
        raise DataError(f"annotation file {file} does not exist")
    settings = file.parent / "settings.json"
    example = '{"classes": ["nothing", "red cube", ...]}'
    try:
        classes = [str(name) for name in json.loads(settings.read_text(encoding="utf-8"))["classes"]]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise DataError(f"{settings} does not list the classes of the masks ({err}); write it: {example}") from err
    if len(classes) < 2:
        raise DataError(f"{settings} lists no classes; write the data with masks")
    return classes


def words_of(classes: Sequence[str]) -> tuple[list[str], Tensor]:
    """Returns the words of the classes' names in alphabetical order, and which class has which: [classes, words]."""
    split = [[word for word in name.split() if word not in _SKIPPED_WORDS] for name in classes]
    words = sorted({word for name in split for word in name})
    return words, torch.tensor([[float(word in name) for word in words] for name in split])


def class_shares(mask: UInt8Array, size: Size, patch_size: int, classes: int) -> Tensor:
    """Returns the fraction of each class in every patch of a mask [H, W]: float32 [N, classes], in row-major order."""
    return _count(mask, size, patch_size, classes) / patch_size**2


def edge_classes(mask: UInt8Array, size: Size, patch_size: int) -> Tensor:
    """Returns where in the image the object lies that covers most of each patch: int64 [N, 4].

    The columns are its left, upper, right and lower edge in `EDGE_STEPS` of the image's side; `NO_EDGE` in patches that
    show too little of an object. An object is a connected component: touching things of one class count as one.
    """
    components, boxes = _components(mask)
    counts = _count(components, size, patch_size, len(boxes))
    counts[:, 0] = 0
    most, component = counts.max(1)
    sides = torch.tensor([size.width, size.height, size.width, size.height])
    edges = (torch.from_numpy(boxes)[component] / sides * EDGE_STEPS).round().long()
    return torch.where((most >= _MIN_COVERED * patch_size**2)[:, None], edges, NO_EDGE)


def _components(mask: UInt8Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Returns connected components numbered from 1, and their boxes (x1, y1, x2, y2) in pixels; 0 is nothing."""
    components, boxes = np.zeros(mask.shape, np.int32), [np.zeros((1, 4), np.float32)]
    for number in np.unique(mask[mask > 0]):
        count, labels, stats, _ = cv2.connectedComponentsWithStats((mask == number).astype(np.uint8))
        components[labels > 0] = labels[labels > 0] + sum(map(len, boxes)) - 1
        left_top, sides = stats[1:, :2], stats[1:, 2:4]
        boxes.append(np.hstack((left_top, left_top + sides)).astype(np.float32).reshape(count - 1, 4))
    return components, np.concatenate(boxes)


def _count(values: npt.NDArray[Any], size: Size, patch_size: int, kinds: int) -> Tensor:
    """Counts the pixels of each value in each patch: float32 [N, kinds]."""
    assert values.shape == tuple(size)
    rows, columns = size.height // patch_size, size.width // patch_size
    patches = np.arange(rows * columns).reshape(rows, columns)
    patch_of_pixel = patches.repeat(patch_size, 0).repeat(patch_size, 1)
    counts = np.bincount((patch_of_pixel * kinds + values).ravel(), minlength=rows * columns * kinds)
    return torch.from_numpy(counts.reshape(-1, kinds).astype(np.float32))


def _read_pairs(file: Path) -> list[tuple[Path, Path]]:
    pairs = []
    annotations = AnnotationFile(file)
    for row in range(len(annotations)):
        raw = annotations.raw(row)
        if not isinstance(raw, Mapping):
            raise DataError(f"sample {row + 1} of annotation file {file} must be an object, not {raw!r:.60}")
        images, masks = raw.get("image"), raw.get("masks")
        if isinstance(images, list) and isinstance(masks, list) and len(images) == len(masks):
            pairs += [(file.parent / image, file.parent / mask) for image, mask in zip(images, masks, strict=True)]
    if not pairs:
        raise DataError(f"annotation file {file} has no sample with as many masks as images; write the data with masks")
    return pairs


def _load_mask(path: Path) -> Any:
    with open_image(path) as image:
        return np.array(image.convert("L") if image.mode not in ("L", "P") else image)
