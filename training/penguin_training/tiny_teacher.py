"""The small teacher of the tiny model: an encoder that was trained to say what is in every patch and how far it goes.

It has the shape of a Penguin-Encoder and starts from nothing; train_teacher.py trains it on segmentation masks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from penguin_models.config import EncoderConfig, read_json
from penguin_models.encoder import FrameShape, PenguinEncoder
from penguin_models.errors import CheckpointError

MODEL_TYPE = "penguin_tiny_teacher"


EDGE_STEPS = (-0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
"""Distances from the middle of a patch to an edge of the object in it, in patches: what lies between two of these is
one class. Negative where the object begins beyond the middle."""


class TinyTeacher(nn.Module):
    """An encoder with classifiers of patches; as a teacher it gives the features before the classifiers.

    Attributes:
        words: that say what a patch shows, such as colours and kinds; several hold at once.
    """

    def __init__(self, config: EncoderConfig, words: int):
        super().__init__()
        self.config = config
        self.words = words
        self.vision_encoder = PenguinEncoder(config)
        self.word_head = nn.Linear(config.hidden_size, words)
        self.edge_head = nn.Linear(config.hidden_size, 4 * (len(EDGE_STEPS) + 1))

    @property
    def width(self) -> int:
        """Of the features."""
        return self.config.hidden_size

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.config.patch_size

    def forward(self, patches: Tensor, frames: Sequence[FrameShape]) -> tuple[Tensor, Tensor]:
        """Logits of words [V, words], and of the distances to the left, upper, right, lower edge [V, 4, steps]."""
        features = self.vision_encoder(patches, frames)
        return self.word_head(features), self.edge_head(features).unflatten(1, (4, -1))

    @torch.no_grad()
    def features(self, patches: Tensor, frames: Sequence[FrameShape]) -> Tensor:
        """See `teachers.Teacher`."""
        return self.vision_encoder(patches.to(next(self.parameters()).dtype), frames)  # type: ignore[no-any-return]

    def save_pretrained(self, folder: Path) -> None:
        """Writes `config.json` and `model.safetensors`.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        config = {"model_type": MODEL_TYPE, "words": self.words, **asdict(self.config)}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
            save_file({name: p.detach().contiguous() for name, p in self.named_parameters()}, folder / _WEIGHTS)
        except (OSError, SafetensorError) as err:
            raise CheckpointError(f"{folder} cannot be written: {err}") from err

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> TinyTeacher:
        """Loads a teacher for use: evaluation mode, frozen.

        Raises:
            CheckpointError: the folder holds no such teacher, or one whose weights do not fit.
        """
        folder = Path(folder)
        raw = read_json(folder / "config.json")
        if raw.get("model_type") != MODEL_TYPE:
            raise CheckpointError(
                f"{folder} is a {raw.get('model_type')!r} model, not a teacher of `penguin-vl prepare teacher`"
            )
        model = cls(EncoderConfig.from_dict(raw), int(raw.get("words", 0)))
        try:
            model.load_state_dict(load_file(folder / _WEIGHTS))
        except (OSError, SafetensorError, RuntimeError) as err:
            raise CheckpointError(f"{folder / _WEIGHTS} does not fit: {' '.join(str(err).split())[:200]}") from err
        return model.eval().requires_grad_(False)


_WEIGHTS = "model.safetensors"
