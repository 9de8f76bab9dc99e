"""Teachers: encoders whose features a student learns to reconstruct, behind one small interface.

A teacher reads the very patches that the student reads, and gives one feature vector for each visual token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from penguin_models.checkpoint import empty_model, load_pretrained, open_checkpoint, resolve_checkpoint
from penguin_models.config import read_json
from penguin_models.encoder import FrameShape, PenguinEncoder
from penguin_models.errors import CheckpointError, SettingError
from penguin_models.tensor_files import index_tensors
from penguin_training.model.stage_model import Reading
from penguin_training.model.tiny_teacher import TinyTeacher
from penguin_training.settings.blueprint import is_local, penguin_config
from penguin_training.settings.stage import Teacher as TeacherSettings

_SIGLIP_TYPES = ("videollama3_vision_encoder", "video_llama_3_vision")
_SIGLIP_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_channels",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
)


class Teacher(Protocol):
    """What training needs of a teacher."""

    width: int
    """Of its features."""
    patch_size: int
    """Side of its patches in pixels."""

    @property
    def reading(self) -> Reading | None:
        """A loss of what its classifiers read off a student's features; None where it has no classifiers."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights."""
        ...

    def features(self, patches: Tensor, frames: Sequence[FrameShape]) -> Tensor:
        """Features of frames, without gradients.

        Args:
            patches: [N, C*P*P], normalised, each frame in block order.
            frames: their shapes.

        Returns:
            [V, width], one row for each visual token: the mean over each merge_size x merge_size block.
        """
        ...

    def to(self, device: torch.device, dtype: torch.dtype) -> Teacher:
        """Moves the weights."""
        ...


class PenguinTeacher:
    """The encoder of a Penguin-VL model: a larger one teaches a smaller one that will run on a device."""

    reading = None

    def __init__(self, encoder: PenguinEncoder):
        self._encoder = encoder.eval().requires_grad_(False)
        self.width = encoder.config.hidden_size
        self.patch_size = encoder.config.patch_size

    @torch.no_grad()
    def features(self, patches: Tensor, frames: Sequence[FrameShape]) -> Tensor:
        """See `Teacher`."""
        return self._encoder(patches, frames)  # type: ignore[no-any-return]

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights."""
        return self._encoder.parameters()

    def to(self, device: torch.device, dtype: torch.dtype) -> PenguinTeacher:
        """Moves the weights."""
        self._encoder.to(device=device, dtype=dtype)
        return self


class SiglipTeacher:
    """VL3-SigLIP-NaViT, the paper's teacher: transformers' VideoLLaMA3 vision model, which merges as ours does."""

    reading = None

    def __init__(self, model: nn.Module):
        self._model = model.eval().requires_grad_(False)
        self.width = int(model.config.hidden_size)  # type: ignore[union-attr,arg-type]
        self.patch_size = int(model.config.patch_size)  # type: ignore[union-attr,arg-type]

    @torch.no_grad()
    def features(self, patches: Tensor, frames: Sequence[FrameShape]) -> Tensor:
        """See `Teacher`."""
        grids = torch.tensor([[1, *frame.grid] for frame in frames], device=patches.device)
        merges = torch.tensor([frame.merge_size for frame in frames], device=patches.device)
        return self._model(patches, grid_thw=grids, merge_sizes=merges).last_hidden_state  # type: ignore[no-any-return]

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights."""
        return self._model.parameters()

    def to(self, device: torch.device, dtype: torch.dtype) -> SiglipTeacher:
        """Moves the weights."""
        self._model.to(device=device, dtype=dtype)
        return self


def load_teacher(settings: TeacherSettings) -> Teacher:
    """Loads a teacher on the CPU.

    Raises:
        CheckpointError: its checkpoint is missing or of another kind.
    """
    if settings.kind == "tiny":
        return TinyTeacher.from_pretrained(settings.path)
    if settings.kind == "penguin":
        model, _ = load_pretrained(settings.path)
        return PenguinTeacher(model.vision_encoder)
    return SiglipTeacher(_load_siglip(settings.path))


def empty_teacher(settings: TeacherSettings) -> Teacher:
    """A teacher of which only sizes are to be known: its weights are found where its folder is here, but not read.

    Raises:
        CheckpointError: as `load_teacher`, but what lies on the hub is not looked for there.
    """
    if settings.kind == "tiny":
        return TinyTeacher.from_pretrained(settings.path)  # it is small
    if settings.kind == "penguin":
        if is_local(settings.path):
            return PenguinTeacher(open_checkpoint(settings.path)[0].vision_encoder)
        return PenguinTeacher(empty_model(penguin_config(settings.path)[1]).vision_encoder)
    from transformers import VideoLlama3VisionConfig, VideoLlama3VisionModel

    folder = resolve_checkpoint(settings.path, weights=False)
    config = VideoLlama3VisionConfig(**_siglip_config(folder))
    if is_local(settings.path):
        index_tensors(folder)
    with torch.device("meta"):
        return SiglipTeacher(VideoLlama3VisionModel(config))


def check_teacher(teacher: Teacher, patch_size: int) -> None:
    """Raises SettingError where a teacher cannot read the student's patches."""
    if teacher.patch_size != patch_size:
        raise SettingError(
            f"the teacher reads patches of {teacher.patch_size} pixels, the student of {patch_size}; "
            "choose a teacher with the student's patch size"
        )


def _load_siglip(path: str | Path) -> nn.Module:
    """The teacher in the layout of its authors' repository or of transformers; its own code is never run."""
    from transformers import VideoLlama3VisionConfig, VideoLlama3VisionModel

    folder = resolve_checkpoint(path)
    config = VideoLlama3VisionConfig(**_siglip_config(folder))
    index_tensors(folder)  # names what is missing or cut short
    model, report = VideoLlama3VisionModel.from_pretrained(
        folder, config=config, dtype=torch.float32, output_loading_info=True
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(f"{folder} lacks {len(missing)} tensors of the teacher, first {missing[0]}")
    return model  # type: ignore[no-any-return]


def _siglip_config(folder: Path) -> dict[str, Any]:
    raw = read_json(folder / "config.json")
    if raw.get("model_type") not in _SIGLIP_TYPES:
        raise CheckpointError(
            f"{folder} is a {raw.get('model_type')!r} model; a teacher of kind siglip is one of "
            f"{', '.join(_SIGLIP_TYPES)}"
        )
    for name in _SIGLIP_FIELDS[:4]:
        if not isinstance(raw.get(name), int):
            raise CheckpointError(f"{folder / 'config.json'}: {name} is {raw.get(name)!r}, not a whole number")
    return {name: raw[name] for name in _SIGLIP_FIELDS if name in raw}
