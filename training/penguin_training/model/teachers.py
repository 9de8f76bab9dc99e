"""Teachers: encoders whose features a student learns to reconstruct.

A teacher reads the same patches as the student, and returns one feature vector for each visual token.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from penguin_models.checkpoint import empty_model, load_pretrained, open_checkpoint, resolve_checkpoint
from penguin_models.config import read_json
from penguin_models.encoder import FrameShape, PenguinEncoder
from penguin_models.errors import CheckpointError, SettingError
from penguin_models.tensor_files import index_tensors
from penguin_training.model.blueprint import is_local, read_penguin_config
from penguin_training.model.tiny_teacher import TinyTeacher
from penguin_training.settings.teacher import TeacherSettings

_SIGLIP_TYPES = ("videollama3_vision_encoder", "video_llama_3_vision")
_SIGLIP_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_SIGLIP_FIELDS = (*_SIGLIP_SIZES, "num_channels", "patch_size", "hidden_act", "layer_norm_eps", "attention_dropout")


class PenguinTeacher(nn.Module):
    """The encoder of a Penguin-VL model: a larger one teaches a smaller one for a device."""

    reading = None

    def __init__(self, encoder: PenguinEncoder):
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.width = encoder.config.hidden_size
        self.patch_size = encoder.config.patch_size

    @torch.no_grad()
    def features(self, patches: Tensor, frames: Sequence[FrameShape]) -> Tensor:
        """Returns features [V, width], see `TinyTeacher.features`."""
        return self.encoder(patches, frames)  # type: ignore[no-any-return]


class SiglipTeacher(nn.Module):
    """VL3-SigLIP-NaViT, the paper's teacher: transformers' VideoLLaMA3 vision model, which merges as ours does."""

    reading = None

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.width = int(encoder.config.hidden_size)  # type: ignore[union-attr,arg-type]
        self.patch_size = int(encoder.config.patch_size)  # type: ignore[union-attr,arg-type]

    @torch.no_grad()
    def features(self, patches: Tensor, frames: Sequence[FrameShape]) -> Tensor:
        """Returns features [V, width], see `TinyTeacher.features`."""
        grids = torch.tensor([[1, *frame.grid] for frame in frames], device=patches.device)
        merges = torch.tensor([frame.merge_size for frame in frames], device=patches.device)
        output = self.encoder(patches, grid_thw=grids, merge_sizes=merges)
        return output.last_hidden_state  # type: ignore[no-any-return]


Teacher = TinyTeacher | PenguinTeacher | SiglipTeacher


def load_teacher(settings: TeacherSettings, weights: bool = True) -> Teacher:
    """Loads a teacher on the CPU; without weights, it only checks their files if the checkpoint is local.

    Raises:
        CheckpointError: its checkpoint is missing or of another kind.
    """
    path = settings.path
    if settings.kind == "tiny":
        return TinyTeacher.from_pretrained(path)  # small enough to load in any case
    if settings.kind == "penguin":
        if weights:
            return PenguinTeacher(load_pretrained(path)[0].vision_encoder)
        model = open_checkpoint(path)[0] if is_local(path) else empty_model(read_penguin_config(path)[1])
        return PenguinTeacher(model.vision_encoder)
    from transformers import VideoLlama3VisionModel

    folder = resolve_checkpoint(path, weights=weights)
    config = _siglip_config(folder)
    if weights or is_local(path):
        index_tensors(folder)  # reports missing and truncated files
    if not weights:
        with torch.device("meta"):
            return SiglipTeacher(VideoLlama3VisionModel(config))
    # The architecture is transformers'; code in the repository is never run.
    model, report = VideoLlama3VisionModel.from_pretrained(
        folder, config=config, dtype=torch.float32, output_loading_info=True
    )
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"{folder} lacks {len(missing)} tensors of the teacher, the first is {missing[0]}")
    return SiglipTeacher(model)


def check_patch_size(teacher: Teacher, patch_size: int) -> None:
    """Raises SettingError if a teacher cannot read the student's patches."""
    if teacher.patch_size != patch_size:
        raise SettingError(
            f"the teacher reads patches of {teacher.patch_size} pixels, the student of {patch_size}; "
            "choose a teacher with the student's patch size"
        )


def _siglip_config(folder: Path) -> Any:
    """Reads the layout of the authors' repository or of transformers."""
    from transformers import VideoLlama3VisionConfig

    raw = read_json(folder / "config.json")
    if raw.get("model_type") not in _SIGLIP_TYPES:
        raise CheckpointError(
            f"{folder} is a {raw.get('model_type')!r} model; a teacher of kind siglip is one of "
            f"{', '.join(_SIGLIP_TYPES)}"
        )
    for name in _SIGLIP_SIZES:
        if not isinstance(raw.get(name), int):
            raise CheckpointError(f"{folder / 'config.json'}: {name} is {raw.get(name)!r}, not an integer")
    return VideoLlama3VisionConfig(**{name: raw[name] for name in _SIGLIP_FIELDS if name in raw})
