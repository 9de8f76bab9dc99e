"""Trains the tiny teacher on segmentation masks: what does each patch show, and where does that object lie?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from penguin_models.encoder import FrameShape
from penguin_models.types import PatchedImage
from penguin_training.data.masks import NO_EDGE, MaskedImages
from penguin_training.data.worker_processes import worker_options
from penguin_training.model.tiny_teacher import TinyTeacher
from penguin_training.run.optimizers import rate_share
from penguin_training.settings.stage import Schedule

_MUON_FACTOR = 6.0  # Learning rate of Muon relative to that of AdamW
_EDGE_WEIGHT = 0.2  # Weight of the edges relative to the words: with equal weights, words are learnt half as fast
_Batch = tuple[list[PatchedImage], Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the tiny teacher is trained."""

    hidden_size: int = 192  # Width of its features
    steps: int = 2000  # Number of optimiser steps
    images: int = 16  # Images per step
    rate: float = 1e-3  # Peak learning rate
    smallest: float = 0.5  # Images are scaled by a random factor between this and 1, as low-resolution stages show them
    seed: int = 0  # Of weights, order and sizes
    workers: int = 2  # Number of processes that read images


def train_tiny_teacher(
    files: Sequence[Path],
    recipe: Recipe,
    device: str = "cpu",
    report: Callable[[int, dict[str, float]], None] = lambda step, mean: None,
) -> TinyTeacher:
    """Trains a teacher from scratch on annotation files with images and masks, see data/masks.py.

    `report` is called after each step with its number and running means over about 100 steps: the loss, and the
    accuracy, the fraction of patches with an object whose words are all right.
    """
    data = MaskedImages(files)
    torch.manual_seed(recipe.seed)
    model = TinyTeacher(recipe.hidden_size, len(data.words))
    model.to(device).train()
    optimizers = _Optimizers(model, recipe.rate)
    schedule = Schedule(steps=recipe.steps)
    mean = {"loss": 0.0, "accuracy": 0.0}
    for step, (images, words, edges) in enumerate(_batches(data, recipe)):
        patches = torch.cat([torch.from_numpy(image.patches) for image in images]).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            word_logits, edge_logits = model(patches, [FrameShape(image.grid, image.merge_size) for image in images])
        word_logits, words, edges = word_logits.float(), words.to(device), edges.to(device)
        loss = _loss(word_logits, edge_logits.float(), words, edges)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizers.step(rate_share(step, recipe.steps, schedule))
        for name, value in (("loss", loss.item()), ("accuracy", _accuracy(word_logits, words))):
            mean[name] += (value - mean[name]) / min(step + 1, 100)
        report(step + 1, mean)
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
        nn.utils.clip_grad_norm_([*self._kernels, *self._rest], 1.0)
        for kernel, matrix in zip(self._kernels, self._matrices, strict=True):
            assert kernel.grad is not None
            matrix.grad, kernel.grad = kernel.grad.reshape(matrix.shape), None
        for optimizer, factor in ((self._muon, _MUON_FACTOR), (self._adamw, 1.0)):
            for group in optimizer.param_groups:
                group["lr"] = factor * self._rate * share
            optimizer.step()  # type: ignore[no-untyped-call]
            optimizer.zero_grad(set_to_none=True)


def _loss(word_logits: Tensor, edge_logits: Tensor, words: Tensor, edges: Tensor) -> Tensor:
    loss = F.binary_cross_entropy_with_logits(word_logits, words, reduction="sum") / len(words)
    if (edges != NO_EDGE).any():
        edge_loss = F.cross_entropy(edge_logits.flatten(0, 1), edges.flatten(), ignore_index=NO_EDGE)
        loss = loss + _EDGE_WEIGHT * edge_loss
    return loss


def _accuracy(word_logits: Tensor, words: Tensor) -> float:
    shown = (words > 0.5).any(1)
    right = ((word_logits > 0) == (words > 0.5)).all(1)[shown]
    return float(right.float().mean()) if len(right) else 1.0


def _batches(data: MaskedImages, recipe: Recipe) -> DataLoader[_Batch]:
    random, count = torch.Generator().manual_seed(recipe.seed), recipe.steps * recipe.images
    rows = torch.randint(len(data), (count,), generator=random)
    scales = recipe.smallest + (1 - recipe.smallest) * torch.rand(count, generator=random)
    return DataLoader(
        data,  # type: ignore[arg-type]
        sampler=list(zip(rows.tolist(), scales.tolist(), strict=True)),
        batch_size=recipe.images,
        collate_fn=_collate,
        **worker_options(recipe.workers),
    )


def _collate(samples: list[tuple[PatchedImage, Tensor, Tensor]]) -> _Batch:
    images, words, edges = zip(*samples, strict=True)
    return list(images), torch.cat(words), torch.cat(edges)
