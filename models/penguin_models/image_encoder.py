"""The vision encoder by itself: images -> features, for retrieval, as a teacher, or in place of a CLIP encoder.

Reads a stand-alone encoder, the encoder inside a Penguin-VL checkpoint, and a text-only LLM, whose layers
initialise a new encoder; writes stand-alone encoders in the released layout.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from penguin_models.atomic_write import atomic_files
from penguin_models.checkpoint import (
    STORED_DTYPES,
    index_checkpoint,
    read_config,
    reserve,
    resolve_dtype,
    usable_device,
)
from penguin_models.config import ENCODER_MODEL_TYPE, MODEL_TYPE, EncoderConfig, ImageConfig, read_json
from penguin_models.encoder import FrameShape, PenguinEncoder
from penguin_models.encoder_from_llm import LLM_MODEL_TYPES, convert_llm_to_encoder
from penguin_models.errors import CheckpointError, oom_as_error
from penguin_models.hub import WEIGHTS, resolve_checkpoint
from penguin_models.images import patch_whole_image
from penguin_models.tensor_files import ENCODER_PREFIX, StoredTensor, check_tensors, copy_tensors, index_tensors
from penguin_models.types import PatchedImage, UInt8Array

_PREPROCESSOR = "preprocessor_config.json"


@dataclass(eq=False)
class ImageEncoder:
    """An encoder with the image settings of its checkpoint."""

    encoder: PenguinEncoder
    images: ImageConfig

    @property
    def hidden_size(self) -> int:
        """Length of a feature vector."""
        return self.encoder.config.hidden_size

    def __call__(
        self, images: Sequence[UInt8Array], max_tokens: int | None = None, merge_size: int = 1
    ) -> list[Tensor]:
        """Returns the features of each image, [tokens, hidden_size], in raster order, without gradients.

        Images are uint8 [H, W, 3] of any sizes; `patch_whole_image` describes the arguments and errors. What an image
        gives does not depend on the other images.
        """
        return self.encode([patch_whole_image(rgb, self.images, max_tokens, merge_size) for rgb in images])

    @torch.no_grad()
    def encode(self, images: Sequence[PatchedImage]) -> list[Tensor]:
        """Returns the features of images that are cut into patches, [tokens, hidden_size] each."""
        if not images:
            return []
        patches = torch.cat([torch.from_numpy(image.patches) for image in images])
        features = self.encoder(patches, [FrameShape(image.grid, image.merge_size) for image in images])
        return list(features.split([image.tokens for image in images]))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a stand-alone encoder in the released layout; raises WriteError and changes nothing if that fails."""
        state = {name: parameter.detach() for name, parameter in self.encoder.named_parameters()}
        dtype = str(next(iter(state.values())).dtype).removeprefix("torch.")
        config = encoder_file(self.encoder.config) | {"torch_dtype": dtype}
        with atomic_files(Path(folder)) as staging:
            save_torch_state_dict(state, staging)
            (staging / "config.json").write_text(json.dumps(config, indent=1) + "\n")
            (staging / _PREPROCESSOR).write_text(json.dumps(self.images.to_dict(), indent=2) + "\n")
            for weights in staging.glob(WEIGHTS):  # safetensors makes them readable for their owner only
                shutil.copymode(staging / "config.json", weights)


def load_encoder(
    path_or_repo: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    revision: str | None = None,
) -> ImageEncoder:
    """Loads an encoder; arguments as for `load_pretrained`.

    The patch embedding that an LLM lacks is new, with the same values each time.

    Raises:
        CheckpointError: The checkpoint holds no encoder, or is missing, incomplete or damaged.
        DeviceMemoryError: The weights do not fit into the device's memory.
    """
    target = usable_device(device)
    folder = resolve_checkpoint(path_or_repo, revision)
    weights_dtype = None if dtype is None else resolve_dtype(dtype)
    if _kind(folder) in LLM_MODEL_TYPES:
        encoder = convert_llm_to_encoder(folder)
        images = ImageConfig(patch_size=encoder.config.patch_size)
        return ImageEncoder(encoder.to(target, weights_dtype).eval(), images)
    config, images, stored = read_encoder(folder)
    with torch.device("meta"):
        encoder = PenguinEncoder(config)
    if weights_dtype is None:
        weights_dtype = STORED_DTYPES.get(next(iter(stored.values())).dtype, torch.float32)
    with oom_as_error(f"{path_or_repo} as {str(weights_dtype).removeprefix('torch.')}", "Load it in 16 bits."):
        reserve(encoder, stored, weights_dtype, target)
    copy_tensors(stored, dict(encoder.named_parameters()))
    return ImageEncoder(encoder.eval(), images)


def read_encoder(path_or_repo: str | Path) -> tuple[EncoderConfig, ImageConfig, dict[str, StoredTensor]]:
    """Checks a checkpoint and reads everything of its encoder but the weights.

    Returns:
        The shape, the image settings, and the place of each parameter of `PenguinEncoder` on disk.

    Raises:
        CheckpointError: The checkpoint holds no encoder, or is missing, incomplete or damaged.
    """
    folder = resolve_checkpoint(path_or_repo)
    kind = _kind(folder)
    if kind == MODEL_TYPE:
        config, found = read_config(folder).encoder, index_checkpoint(folder)
        found = {name: tensor for name, tensor in found.items() if name.startswith(ENCODER_PREFIX)}
    elif kind == ENCODER_MODEL_TYPE:
        config, found = EncoderConfig.from_dict(read_json(folder / "config.json")), index_tensors(folder)
    else:
        raise CheckpointError(
            f"{folder} is a {repr(kind)[:200]} model; an encoder is read from a {ENCODER_MODEL_TYPE!r} or a "
            f"{MODEL_TYPE!r} checkpoint, and initialised from an LLM, one of {', '.join(map(repr, LLM_MODEL_TYPES))}"
        )
    images = ImageConfig.from_dict(read_json(folder / _PREPROCESSOR))
    if images.patch_size != config.patch_size:
        raise CheckpointError(
            f"{folder}: {_PREPROCESSOR} has patches of {images.patch_size} pixels, config.json of {config.patch_size}; "
            "the files belong to different checkpoints"
        )
    stored = {name.removeprefix(ENCODER_PREFIX): tensor for name, tensor in found.items()}
    with torch.device("meta"):
        expected = {name: tuple(p.shape) for name, p in PenguinEncoder(config).named_parameters()}
    check_tensors(folder, expected, stored)
    return config, images, stored


def encoder_file(config: EncoderConfig) -> dict[str, Any]:
    """Returns the `config.json` of a stand-alone encoder."""
    return {
        "architectures": ["PenguinVLVisionEncoderModel"],
        "model_type": ENCODER_MODEL_TYPE,
        "attention_bias": False,
        "hidden_act": "silu",
        **asdict(config),
    }


def _kind(folder: Path) -> Any:
    return read_json(folder / "config.json").get("model_type")
