"""The small teacher of the tiny model: an encoder that was trained to say what is in every patch.

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


class TinyTeacher(nn.Module):
    """An encoder with a classifier of patches; as a teacher it gives the features before the classifier.

    Attributes:
        classes: that a patch can show.
    """

    def __init__(self, config: EncoderConfig, classes: int):
        super().__init__()
        self.config = config
        self.classes = classes
        self.vision_encoder = PenguinEncoder(config)
        self.head = nn.Linear(config.hidden_size, classes)

    @property
    def width(self) -> int:
        """Of the features."""
        return self.config.hidden_size

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.config.patch_size

    def forward(self, patches: Tensor, frames: Sequence[FrameShape]) -> Tensor:
        """Logits of classes: [N, C*P*P] -> [V, classes]."""
        return self.head(self.vision_encoder(patches, frames))  # type: ignore[no-any-return]

    @torch.no_grad()
    def features(self, patches: Tensor, frames: Sequence[FrameShape]) -> Tensor:
        """See `teachers.Teacher`."""
        return self.vision_encoder(patches.to(next(self.parameters()).dtype), frames)  # type: ignore[no-any-return]

    def save_pretrained(self, folder: Path) -> None:
        """Writes `config.json` and `model.safetensors`.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        config = {"model_type": MODEL_TYPE, "classes": self.classes, **asdict(self.config)}
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
        model = cls(EncoderConfig.from_dict(raw), int(raw.get("classes", 0)))
        try:
            model.load_state_dict(load_file(folder / _WEIGHTS))
        except (OSError, SafetensorError, RuntimeError) as err:
            raise CheckpointError(f"{folder / _WEIGHTS} does not fit: {' '.join(str(err).split())[:200]}") from err
        return model.eval().requires_grad_(False)


_WEIGHTS = "model.safetensors"
