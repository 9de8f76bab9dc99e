"""The tiny teacher: a convolutional encoder that knows what every patch shows, and where in the image that object lies.

Convolutions learn to see from few images, where a transformer trained from scratch needs many; the student learns it
from their features. Because of their zero padding they also know the distance to the borders of the image: the student
learns that too, although its own positions are only relative. train_tiny_teacher.py trains it on segmentation masks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from penguin_models.atomic_write import atomic_files
from penguin_models.config import read_json
from penguin_models.encoder import FrameShape
from penguin_models.errors import CheckpointError
from penguin_models.images import patch_positions

MODEL_TYPE = "penguin_tiny_teacher"
EDGE_STEPS = 48  # Resolution of object edges: steps per side of the image
PATCH_SIZE = 14
_WEIGHTS = "model.safetensors"
_STRIDE = 16
_NORM_GROUPS = 8
_EMPTY_WEIGHT = 0.25  # Weight in `reading` of a patch without an object, relative to one with an object
_EDGE_WEIGHT = 0.5  # Weight in `reading` of the edges, relative to the words


class TinyTeacher(nn.Module):
    """Convolutions, and classifiers that tell which words (colours, kinds) describe a patch and where its object is."""

    patch_size = PATCH_SIZE

    def __init__(self, width: int, words: int):
        super().__init__()
        self.width, self.words = width, words
        narrow, middle = (max(1, width // share // _NORM_GROUPS) * _NORM_GROUPS for share in (3, 2))
        self.network = nn.Sequential(
            _convolution(3, narrow, kernel=4, stride=4),
            _Residual(narrow),
            _convolution(narrow, middle, kernel=2, stride=2),
            _Residual(middle),
            _Residual(middle),
            _convolution(middle, width, kernel=2, stride=2),
            *(_Residual(width, dilation) for dilation in (1, 2, 4, 1)),
        )
        self.word_head = nn.Linear(width, words)
        self.edge_head = nn.Linear(width, 4 * (EDGE_STEPS + 1))

    def forward(self, patches: Tensor, frames: Sequence[FrameShape]) -> tuple[Tensor, Tensor]:
        """Returns logits of words [V, words], and of the left, upper, right, lower edge [V, 4, steps + 1]."""
        features = self._encode(patches, frames)
        return self.word_head(features), self.edge_head(features).unflatten(1, (4, -1))

    def _encode(self, patches: Tensor, frames: Sequence[FrameShape]) -> Tensor:
        encoded, start = [], 0
        for shape, group in groupby(frames):  # consecutive frames of one shape are computed together
            count, (rows, columns) = len(list(group)), shape.grid
            row, column = torch.tensor(patch_positions(shape.grid, shape.merge_size), device=patches.device).unbind(1)
            own = patches[start : start + count * shape.patches].view(count, shape.patches, -1)
            start += count * shape.patches
            tiles = own.new_empty(count, rows, columns, own.shape[-1])
            tiles[:, row, column] = own
            tiles = tiles.view(count, rows, columns, 3, PATCH_SIZE, PATCH_SIZE).permute(0, 3, 1, 4, 2, 5)
            image = tiles.reshape(count, 3, rows * PATCH_SIZE, columns * PATCH_SIZE)
            image = F.interpolate(image, (rows * _STRIDE, columns * _STRIDE), mode="bilinear")
            features = self.network(image.to(memory_format=torch.channels_last))  # [count, width, rows, columns]
            features = features[:, :, row, column].transpose(1, 2).reshape(-1, shape.merge_size**2, self.width)
            encoded.append(features.mean(1))
        return torch.cat(encoded)

    @torch.no_grad()
    def features(self, patches: Tensor, frames: Sequence[FrameShape]) -> Tensor:
        """Returns features [V, width] of patches [N, C*P*P], without gradients: the mean over each merged block."""
        return self._encode(patches.to(next(self.parameters()).dtype), frames)

    def reading(self, student: Tensor, own: Tensor) -> Tensor:
        """Returns how far the classifiers' predictions from a student's features are from those from the teacher's own.

        Cross-entropy summed over the words, plus that of the four edges. Each patch is weighted by the probability that
        it shows an object (`_EMPTY_WEIGHT` if it certainly does not). Both are [V, width].
        """
        (words, edges), (own_words, own_edges) = (self._classify(features) for features in (student, own))
        expected = own_words.sigmoid()
        shown = 1 - (1 - expected).prod(1)
        word_loss = F.binary_cross_entropy_with_logits(words, expected, reduction="none").sum(1)
        edge_loss = F.cross_entropy(edges.flatten(0, 1), own_edges.softmax(2).flatten(0, 1), reduction="none")
        weight = _EMPTY_WEIGHT + (1 - _EMPTY_WEIGHT) * shown
        return (weight * word_loss + _EDGE_WEIGHT * shown * edge_loss.view(-1, 4).mean(1)).mean()

    def _classify(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Returns logits of words and edges, in float32 whatever the type of the weights."""
        with torch.autocast(features.device.type, enabled=False):
            words, edges = (
                F.linear(features.float(), head.weight.float(), head.bias.float())
                for head in (self.word_head, self.edge_head)
            )
        return words, edges.unflatten(1, (4, -1))  # type: ignore[no-untyped-call]

    def save_pretrained(self, folder: Path) -> None:
        """Writes `config.json` and `model.safetensors`; raises WriteError if the folder cannot be written."""
        config = {"model_type": MODEL_TYPE, "hidden_size": self.width, "patch_size": PATCH_SIZE, "words": self.words}
        with atomic_files(folder) as staging:
            (staging / "config.json").write_text(json.dumps(config, indent=1) + "\n")
            save_file({name: p.detach().contiguous() for name, p in self.named_parameters()}, staging / _WEIGHTS)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> TinyTeacher:
        """Loads a teacher in evaluation mode, frozen; raises CheckpointError if the folder holds no such teacher."""
        folder = Path(folder)
        raw = read_json(folder / "config.json")
        if raw.get("model_type") != MODEL_TYPE:
            raise CheckpointError(
                f"{folder} is a {raw.get('model_type')!r} model, not a teacher made by `penguin-vl prepare teacher`"
            )
        try:
            model = cls(int(raw["hidden_size"]), int(raw["words"]))
            model.load_state_dict(load_file(folder / _WEIGHTS))
        except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as err:
            raise CheckpointError(f"{folder / _WEIGHTS} does not fit: {' '.join(str(err).split())[:200]}") from err
        return model.eval().requires_grad_(False)


class _Residual(nn.Module):
    def __init__(self, channels: int, dilation: int = 1):
        super().__init__()
        self.convolution = _convolution(channels, channels, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolution(x)  # type: ignore[no-any-return]


def _convolution(channels: int, out: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation if kernel == 3 else 0
    convolution = nn.Conv2d(channels, out, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(_NORM_GROUPS, out), nn.ReLU())
