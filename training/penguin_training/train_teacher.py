"""Trains the small teacher on segmentation masks: which classes does each patch show, and how much of each?

Samples of the annotation file have `image` and `masks`, lists of equal length: for each picture one of the same size
whose 8-bit values are class numbers, 0 where there is nothing. Samples without masks are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from penguin_models.config import EncoderConfig, ImageConfig
from penguin_models.encoder import FrameShape
from penguin_models.errors import DataError, MediaError
from penguin_models.images import patch_image
from penguin_models.media import DECODING_ERRORS, load_image
from penguin_models.types import PatchedImage, Size
from penguin_training.optimisation import rate_share
from penguin_training.settings import Schedule
from penguin_training.tiny_teacher import TinyTeacher
from penguin_training.worker_processes import worker_options

_INITIALIZER_RANGE = 0.02


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe:
    """How a teacher is trained.

    Attributes:
        hidden_size: width of its features.
        layers: transformer layers.
        steps: optimiser steps.
        images: of a step.
        rate: highest learning rate.
        smallest: pictures are shrunk to between this share of their width and all of it, as stages of low resolution
            will show them.
        seed: of weights, order and sizes.
        workers: processes that read images.
    """

    hidden_size: int = 192
    layers: int = 4
    steps: int = 2000
    images: int = 16
    rate: float = 1e-3
    smallest: float = 0.5
    seed: int = 0
    workers: int = 2


def train_teacher(
    files: Sequence[Path],
    classes: int,
    recipe: TeacherRecipe,
    device: str = "cpu",
    report: Callable[[int, float, float], None] = lambda step, loss, accuracy: None,
) -> TinyTeacher:
    """Trains a teacher from nothing.

    Args:
        files: annotation files with images and masks.
        classes: class numbers in the masks run from 0 to this, itself excluded.
        recipe: sizes and steps.
        device: where to train.
        report: called after each step with the loss and the share of patches whose main class is right.

    Raises:
        DataError: a file is missing or has no masks, or a mask shows a class beyond `classes`.
        MediaError: an image or a mask cannot be read.
    """
    data = _Masked(files, classes)
    torch.manual_seed(recipe.seed)
    config = EncoderConfig(
        recipe.hidden_size, 2 * recipe.hidden_size, recipe.layers, max(1, recipe.hidden_size // 64), 1, 64
    )
    model = TinyTeacher(config, classes)
    _initialise(model)
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=0.0)
    schedule = Schedule(steps=recipe.steps)
    for step, (images, wanted) in enumerate(_batches(data, recipe)):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * rate_share(step, recipe.steps, schedule)
        patches = torch.cat([torch.from_numpy(image.patches) for image in images]).to(device)
        target = wanted.to(device)
        logits = model(patches, [FrameShape(image.grid, image.merge_size) for image in images])
        loss = F.cross_entropy(logits, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        right = (logits.argmax(-1) == target.argmax(-1)).float().mean()
        report(step + 1, loss.item(), right.item())
    return model.cpu().eval()


def count_classes(files: Sequence[Path]) -> int:
    """How many classes the masks beside annotation files have, as the `settings.json` there says.

    Raises:
        DataError: there is no such file, or it lists no classes.
    """
    counts = []
    for file in files:
        settings = file.parent / "settings.json"
        try:
            counts.append(len(json.loads(settings.read_text(encoding="utf-8"))["classes"]))
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise DataError(f"{settings} does not list the classes of the masks ({err}); give --classes") from err
    if not counts or min(counts) < 2:
        raise DataError(f"the settings.json beside {files[0]} lists no classes: it was written without masks")
    return max(counts)


def class_shares(mask: Any, size: Size, patch_size: int, classes: int) -> Tensor:
    """Share of each class in every patch.

    Args:
        mask: uint8 [H, W], class numbers.
        size: of the patched image in pixels; the mask is brought to it by taking the nearest pixel.
        patch_size: side of a patch.
        classes: number of classes.

    Returns:
        float32 [N, classes], rows in the order of the patches of a picture with merge size 1.
    """
    if mask.shape != tuple(size):
        mask = np.asarray(Image.fromarray(mask).resize((size.width, size.height), Image.Resampling.NEAREST))
    rows, columns = size.height // patch_size, size.width // patch_size
    patches = np.arange(rows * columns).reshape(rows, columns)
    patch_of_pixel = patches.repeat(patch_size, 0).repeat(patch_size, 1)
    counts = np.bincount((patch_of_pixel * classes + mask).ravel(), minlength=rows * columns * classes)
    return torch.from_numpy((counts.reshape(-1, classes) / patch_size**2).astype(np.float32))


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=_INITIALIZER_RANGE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class _Masked(Dataset[tuple[PatchedImage, Tensor]]):
    """Patches of pictures and the classes in them, by row and scale."""

    def __init__(self, files: Sequence[Path], classes: int):
        self._classes, self._config = classes, ImageConfig()
        self._pairs = [pair for file in files for pair in _read_pairs(file)]

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, drawn: tuple[int, float]) -> tuple[PatchedImage, Tensor]:
        row, scale = drawn
        image_path, mask_path = self._pairs[row]
        rgb, mask = load_image(image_path), _load_mask(mask_path)
        if mask.shape != rgb.shape[:2]:
            raise DataError(f"mask {mask_path} is {mask.shape}, its image {rgb.shape[:2]}")
        if (largest := int(mask.max())) >= self._classes:
            raise DataError(f"mask {mask_path} shows class {largest}, there are {self._classes}; give --classes")
        p = self._config.patch_size
        size = Size(*(max(p, round(scale * side / p) * p) for side in rgb.shape[:2]))
        return patch_image(rgb, size, 1, self._config), class_shares(mask, size, p, self._classes)


def _read_pairs(file: Path) -> list[tuple[Path, Path]]:
    try:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as err:
        raise DataError(f"annotation file {file} cannot be read: {err}") from err
    pairs = []
    for row in rows:
        images, masks = row.get("image"), row.get("masks")
        if isinstance(images, list) and isinstance(masks, list) and len(images) == len(masks):
            pairs += [(file.parent / image, file.parent / mask) for image, mask in zip(images, masks, strict=True)]
    if not pairs:
        raise DataError(f"annotation file {file} has no sample with as many masks as images; write it with masks")
    return pairs


def _load_mask(path: Path) -> Any:
    try:
        with Image.open(path) as image:
            return np.array(image.convert("L") if image.mode not in ("L", "P") else image)
    except DECODING_ERRORS as err:
        raise MediaError(f"mask {path} cannot be read: {err}") from err


def _batches(data: _Masked, recipe: TeacherRecipe) -> Iterator[tuple[list[PatchedImage], Tensor]]:
    random, count = torch.Generator().manual_seed(recipe.seed), recipe.steps * recipe.images
    rows = torch.randint(len(data), (count,), generator=random)
    scales = recipe.smallest + (1 - recipe.smallest) * torch.rand(count, generator=random)
    loader = DataLoader(
        data,
        sampler=list(zip(rows.tolist(), scales.tolist(), strict=True)),  # type: ignore[arg-type]
        batch_size=recipe.images,
        collate_fn=_collate,
        **worker_options(recipe.workers),
    )
    yield from loader


def _collate(pairs: list[tuple[PatchedImage, Tensor]]) -> tuple[list[PatchedImage], Tensor]:
    return [image for image, _ in pairs], torch.cat([shares for _, shares in pairs])
