"""The vision encoder for transformers, without remote code: AutoConfig, AutoModel and AutoImageProcessor.

    register_encoder()
    model = AutoModel.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    features = model(**processor(images, merge_size=1, return_tensors="pt")).last_hidden_state

The names of classes, inputs and settings are those of the released encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, BatchFeature, PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor
from transformers.modeling_outputs import BaseModelOutput

from penguin_models.config import ENCODER_MODEL_TYPE, EncoderConfig, ImageConfig
from penguin_models.encoder import EncoderLayer, FrameShape, PenguinEncoder
from penguin_models.errors import MediaError
from penguin_models.images import patch_whole_image
from penguin_models.types import Size, UInt8Array

_INITIALIZER_RANGE = 0.02


class PenguinVLVisionEncoderConfig(PreTrainedConfig):  # type: ignore[misc]
    """Shape of an encoder; see `EncoderConfig` for its fields."""

    model_type = ENCODER_MODEL_TYPE

    def __init__(self, **values: Any):
        own = {field.name for field in fields(EncoderConfig)}
        shape = EncoderConfig(**{name: value for name, value in values.items() if name in own and value is not None})
        super().__init__(**{name: value for name, value in values.items() if name not in own})
        for name in own:
            setattr(self, name, getattr(shape, name))

    @property
    def shape(self) -> EncoderConfig:
        """The shape as the rest of this package has it."""
        return EncoderConfig.from_dict(self.to_dict())


class PenguinVLVisionEncoderModel(PreTrainedModel):  # type: ignore[misc]
    """Penguin-Encoder behind transformers' interface."""

    config_class = PenguinVLVisionEncoderConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = False
    _no_split_modules: ClassVar[list[str]] = [EncoderLayer.__name__]

    def __init__(self, config: PenguinVLVisionEncoderConfig):
        super().__init__(config)
        encoder = PenguinEncoder(config.shape)
        self.embeddings, self.encoder = encoder.embeddings, encoder.encoder
        self._run = [encoder]  # in a list, or its parameters would be listed under a second name
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=_INITIALIZER_RANGE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)

    def forward(
        self, pixel_values: Tensor, grid_sizes: Tensor, merge_sizes: Tensor, return_dict: bool | None = None, **_: Any
    ) -> BaseModelOutput | tuple[Tensor]:
        """Returns the features of all images, [tokens, hidden_size], one image after the other.

        Args:
            pixel_values: [N, C*P*P], patches of all images, each image in block order.
            grid_sizes: int [images, 3], frames (1 for an image), rows and columns of patches.
            merge_sizes: int [images], each block of merge_size x merge_size patches becomes one token.
            return_dict: Whether to return a BaseModelOutput (default) or a tuple.
        """
        frames = [
            FrameShape(Size(rows, columns), merge)
            for (count, rows, columns), merge in zip(grid_sizes.tolist(), merge_sizes.tolist(), strict=True)
            for _ in range(count)
        ]
        features = self._run[0](pixel_values, frames)
        return (features,) if return_dict is False else BaseModelOutput(last_hidden_state=features)


class PenguinVLImageProcessor(BaseImageProcessor):  # type: ignore[misc]
    """Cuts images of any sizes into patches, each with a budget of its own."""

    model_input_names: ClassVar[list[str]] = ["pixel_values", "grid_sizes", "merge_sizes"]

    def __init__(self, **settings: Any):
        """Takes the fields of a `preprocessor_config.json`; raises CheckpointError if one is not supported."""
        self._images = ImageConfig.from_dict(settings)
        super().__init__(**self._images.to_dict() | settings)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields of a `preprocessor_config.json`."""
        return {name: value for name, value in super().to_dict().items() if not name.startswith("_")}

    def __call__(
        self,
        images: Any,
        merge_size: int | Sequence[int] = 1,
        max_tokens: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Returns `pixel_values`, `grid_sizes` and `merge_sizes` as the model takes them.

        Args:
            images: A PIL image or an array, uint8 [H, W, 3], or a list of them.
            merge_size: 1 for images, 2 for frames of a video; or one for each image.
            max_tokens: Most visual tokens of an image; the checkpoint's setting if None.
            return_tensors: "pt" or "np"; arrays if None.

        Raises:
            BudgetError: max_tokens is too small for an image.
            MediaError: An image is no array of this kind, or there are none.
        """
        listed = list(images) if isinstance(images, list | tuple) else [images]
        if not listed:
            raise MediaError("there are no images")
        merges = [merge_size] * len(listed) if isinstance(merge_size, int) else list(merge_size)
        patched = [
            patch_whole_image(_rgb(image), self._images, max_tokens, merge)
            for image, merge in zip(listed, merges, strict=True)
        ]
        data = {
            "pixel_values": np.concatenate([image.patches for image in patched]),
            "grid_sizes": np.array([(1, *image.grid) for image in patched], dtype=np.int64),
            "merge_sizes": np.array(merges, dtype=np.int64),
        }
        return BatchFeature(data, tensor_type=return_tensors)

    preprocess = __call__


def register_encoder() -> None:
    """Lets transformers' Auto classes load encoders of this layout; calling it again changes nothing."""
    AutoConfig.register(ENCODER_MODEL_TYPE, PenguinVLVisionEncoderConfig, exist_ok=True)
    AutoModel.register(PenguinVLVisionEncoderConfig, PenguinVLVisionEncoderModel, exist_ok=True)
    AutoImageProcessor.register(
        PenguinVLVisionEncoderConfig, slow_image_processor_class=PenguinVLImageProcessor, exist_ok=True
    )


def _rgb(image: Any) -> UInt8Array:
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    return image.numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
