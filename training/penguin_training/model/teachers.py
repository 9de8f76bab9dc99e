"""Teachers: encoders whose features a student learns to reconstruct.

A teacher reads the same patches as the student, and returns one feature vector for each visual token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from penguin_models.checkpoint import empty_model, load_pretrained, open_checkpoint, read_config
from penguin_models.config import read_json
from penguin_models.encoder import FrameShape
from penguin_models.errors import CheckpointError, SettingError
from penguin_models.hub import resolve_checkpoint
from penguin_models.tensor_files import index_tensors
from penguin_training.model.blueprint import is_local
from penguin_training.model.tiny_teacher import TinyTeacher
from penguin_training.settings.model import TeacherSettings

_SIGLIP_TYPES = ("videollama3_vision_encoder", "video_llama_3_vision")
_SIGLIP_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_SIGLIP_FIELDS = (*_SIGLIP_SIZES, "num_channels", "patch_size", "hidden_act", "layer_norm_eps", "attention_dropout")


class EncoderTeacher(nn.Module):
    """The encoder of a Penguin-VL model: a larger one teaches a smaller one for a device."""

    reading = None

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder.eval().requires_grad_(False)
        self.width: int = encoder.config.hidden_size  # type: ignore[union-attr,assignment]
        self.patch_size: int = encoder.config.patch_size  # type: ignore[union-attr,assignment]

    @torch.no_grad()
    def features(self, patches: Tensor, frames: Sequence[FrameShape]) -> Tensor:
        """Returns features [V, width], see `TinyTeacher.features`."""
        return self.encoder(patches, frames)  # type: ignore[no-any-return]


class SiglipTeacher(EncoderTeacher):
    """VL3-SigLIP-NaViT, the paper's teacher: transformers' VideoLLaMA3 vision model, which merges as ours does."""

    @torch.no_grad()
    def features(self, patches: Tensor, frames: Sequence[FrameShape]) -> Tensor:
        """Returns features [V, width], see `TinyTeacher.features`."""
        grids = torch.tensor([[1, *frame.grid] for frame in frames], device=patches.device)
        merges = torch.tensor([frame.merge_size for frame in frames], device=patches.device)
        return self.encoder(patches, grid_thw=grids, merge_sizes=merges).last_hidden_state  # type: ignore[no-any-return]


Teacher = TinyTeacher | EncoderTeacher


def load_teacher(settings: TeacherSettings, patch_size: int, weights: bool = True) -> Teacher:
    """Loads a teacher on the CPU; without weights, it only checks their files if the checkpoint is local."""
    loaders: dict[str, Callable[[str, bool], Teacher]]
    loaders = {"tiny": _load_tiny, "penguin": _load_penguin, "siglip": _load_siglip}
    teacher = loaders[settings.kind](settings.path, weights)
    if teacher.patch_size != patch_size:
        raise SettingError(
            f"the teacher reads patches of {teacher.patch_size} pixels, the student of {patch_size}; "
            "choose a teacher with the student's patch size"
        )
    return teacher


def _load_tiny(path: str, weights: bool) -> TinyTeacher:
    return TinyTeacher.from_pretrained(path)  # small enough to load in any case


def _load_penguin(path: str, weights: bool) -> EncoderTeacher:
    if weights:
        model, *_ = load_pretrained(path)
    elif is_local(path):
        model, *_ = open_checkpoint(path)
    else:
        model = empty_model(read_config(resolve_checkpoint(path, weights=False)))
    return EncoderTeacher(model.vision_encoder)


def _load_siglip(path: str, weights: bool) -> SiglipTeacher:
    from transformers import VideoLlama3VisionModel

    folder = resolve_checkpoint(path, weights=weights)
    config = _siglip_config(folder)
    if weights or is_local(path):
        index_tensors(folder)  # reports missing and truncated files
    if not weights:
        with torch.device("meta"):
            return SiglipTeacher(VideoLlama3VisionModel(config))
    # The architecture is transformers'; code in the repository is never run.
    options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    model, report = VideoLlama3VisionModel.from_pretrained(folder, config=config, trust_remote_code=False, **options)
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(f"{folder} lacks {len(missing)} tensors of the teacher, the first is {missing[0]}")
    return SiglipTeacher(model)


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
