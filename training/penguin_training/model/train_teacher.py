"""Trains the small teacher on segmentation masks: what does each patch show, and where does that object lie?

Samples of the annotation file have `image` and `masks`, lists of equal length: for each picture one of the same size
whose 8-bit values are class numbers, 0 where there is nothing. Samples without masks are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from penguin_models.config import ImageConfig
from penguin_models.encoder import FrameShape
from penguin_models.errors import DataError, MediaError
from penguin_models.images import patch_image
from penguin_models.media import DECODING_ERRORS, load_image
from penguin_models.types import PatchedImage, Size
from penguin_training.data.annotations import AnnotationFile
from penguin_training.data.patch_labels import NO_EDGE, class_shares, edge_classes, words_of
from penguin_training.data.worker_processes import worker_options
from penguin_training.model.tiny_teacher import TinyTeacher
from penguin_training.run.optimisation import rate_share
from penguin_training.settings.stage import Schedule

_MUON = 6.0
"""Rate of Muon beside that of AdamW."""
_EDGES = 0.2
"""How much edges count beside words: beside edges in full, words are learnt half as fast."""


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe:
    """How a teacher is trained.

    Attributes:
        hidden_size: width of its features.
        steps: optimiser steps.
        images: of a step.
        rate: highest learning rate.
        smallest: pictures are shrunk to between this share of their width and all of it, as stages of low resolution
            will show them.
        seed: of weights, order and sizes.
        workers: processes that read images.
    """

    hidden_size: int = 192
    steps: int = 2000
    images: int = 16
    rate: float = 1e-3
    smallest: float = 0.5
    seed: int = 0
    workers: int = 2


def train_teacher(
    files: Sequence[Path],
    classes: Sequence[str],
    recipe: TeacherRecipe,
    device: str = "cpu",
    report: Callable[[int, float, float], None] = lambda step, loss, accuracy: None,
) -> TinyTeacher:
    """Trains a teacher from nothing.

    Args:
        files: annotation files with images and masks.
        classes: names of the class numbers in the masks, from 0, which is nothing.
        recipe: sizes and steps.
        device: where to train.
        report: called after each step with the loss and the share of patches with an object that are named right.

    Raises:
        DataError: a file is missing or has no masks, or a mask shows a class that has no name.
        MediaError: an image or a mask cannot be read.
    """
    data = MaskedPictures(files, classes)
    torch.manual_seed(recipe.seed)
    model = TinyTeacher(recipe.hidden_size, len(data.words))
    model.to(device).train()
    optimizers = _Optimizers(model, recipe.rate)
    schedule = Schedule(steps=recipe.steps)
    for step, (images, words, edges) in enumerate(_batches(data, recipe)):
        patches = torch.cat([torch.from_numpy(image.patches) for image in images]).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            named, found = model(patches, [FrameShape(image.grid, image.merge_size) for image in images])
        named, found, words, edges = named.float(), found.float(), words.to(device), edges.to(device)
        loss = _loss(named, found, words, edges)
        loss.backward()
        optimizers.step(rate_share(step, recipe.steps, schedule))
        report(step + 1, loss.item(), _accuracy(named, words))
    return model.cpu().eval()


class _Optimizers:
    """Muon for the kernels of convolutions, each as a matrix [out, in * height * width]; AdamW for the rest."""

    def __init__(self, model: TinyTeacher, rate: float):
        self._rate = rate
        self._kernels = [p for p in model.parameters() if p.ndim == 4]
        self._matrices = [p.detach().view(len(p), -1) for p in self._kernels]  # the same memory
        self._rest = [p for p in model.parameters() if p.ndim != 4]
        self._muon = torch.optim.Muon(self._matrices, lr=0.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        self._adamw = torch.optim.AdamW(self._rest, lr=0.0, weight_decay=0.0)

    def step(self, share: float) -> None:
        """Steps by the gradients, which are then gone; `share` is of the highest rate."""
        nn.utils.clip_grad_norm_([*self._kernels, *self._rest], 1.0)
        for kernel, matrix in zip(self._kernels, self._matrices, strict=True):
            assert kernel.grad is not None
            matrix.grad, kernel.grad = kernel.grad.reshape(matrix.shape), None
        for optimizer, factor in ((self._muon, _MUON), (self._adamw, 1.0)):
            for group in optimizer.param_groups:
                group["lr"] = factor * self._rate * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def read_classes(files: Sequence[Path]) -> list[str]:
    """Names of the classes in the masks beside annotation files, as the `settings.json` there says.

    Raises:
        DataError: there is no such file, it lists no classes, or two of them differ.
    """
    lists = []
    for file in files:
        if not file.is_file():
            raise DataError(f"annotation file {file} does not exist")
        settings = file.parent / "settings.json"
        try:
            lists.append([str(name) for name in json.loads(settings.read_text(encoding="utf-8"))["classes"]])
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise DataError(
                f"{settings} does not list the classes of the masks ({err}); write it: "
                '{"classes": ["nothing", "red cube", ...]}'
            ) from err
    if not lists or len(lists[0]) < 2:
        raise DataError(f"the settings.json beside {files[0]} lists no classes: it was written without masks")
    if any(other != lists[0] for other in lists):
        raise DataError("the settings.json beside the annotation files list different classes; train on one of them")
    return lists[0]


def _loss(named: Tensor, found: Tensor, words: Tensor, edges: Tensor) -> Tensor:
    """Cross-entropy of the words of a patch, plus a share of that of its four edges where there is an object."""
    loss = F.binary_cross_entropy_with_logits(named, words, reduction="sum") / len(words)
    if (edges != NO_EDGE).any():
        loss = loss + _EDGES * F.cross_entropy(found.flatten(0, 1), edges.flatten(), ignore_index=NO_EDGE)
    return loss


def _accuracy(named: Tensor, words: Tensor) -> float:
    """Share of the patches with an object in which the words of most of the patch are found, and no others."""
    shown = (words > 0.5).any(1)
    right = ((named > 0) == (words > 0.5)).all(1)[shown]
    return float(right.float().mean()) if len(right) else 1.0


_Batch = tuple[list[PatchedImage], Tensor, Tensor]


class MaskedPictures(Dataset[tuple[PatchedImage, Tensor, Tensor]]):
    """Patches of pictures, the words for them and the edges around them, by row and scale."""

    def __init__(self, files: Sequence[Path], classes: Sequence[str]):
        self._config, self._classes = ImageConfig(), len(classes)
        self.words, self._table = words_of(classes)
        self._pairs = [pair for file in files for pair in _read_pairs(file)]

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, drawn: tuple[int, float]) -> tuple[PatchedImage, Tensor, Tensor]:
        row, scale = drawn
        image_path, mask_path = self._pairs[row]
        rgb, mask = load_image(image_path), _load_mask(mask_path)
        if mask.shape != rgb.shape[:2]:
            raise DataError(f"mask {mask_path} is {mask.shape}, its image {rgb.shape[:2]}")
        if (largest := int(mask.max())) >= self._classes:
            raise DataError(
                f"mask {mask_path} shows class {largest}, {self._classes} have a name; list all in settings.json"
            )
        p = self._config.patch_size
        size = Size(*(max(p, round(scale * side / p) * p) for side in rgb.shape[:2]))
        if mask.shape != tuple(size):
            mask = np.asarray(Image.fromarray(mask).resize((size.width, size.height), Image.Resampling.NEAREST))
        words = class_shares(mask, size, p, self._classes) @ self._table
        return patch_image(rgb, size, 1, self._config), words, edge_classes(mask, size, p)


def _read_pairs(file: Path) -> list[tuple[Path, Path]]:
    pairs = []
    annotations = AnnotationFile(file)
    for number in range(len(annotations)):
        row = annotations.raw(number)
        if not isinstance(row, Mapping):
            raise DataError(f"sample {number + 1} of annotation file {file} must be an object, not {row!r:.60}")
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


def _batches(data: MaskedPictures, recipe: TeacherRecipe) -> Iterator[_Batch]:
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


def _collate(drawn: list[tuple[PatchedImage, Tensor, Tensor]]) -> _Batch:
    images, words, edges = zip(*drawn, strict=True)
    return list(images), torch.cat(words), torch.cat(edges)
