"""The whole model: Penguin-Encoder -> projector -> Qwen3 decoder (transformers' own, with its KV caches).

It knows nothing of files (checkpoint.py), text (processor.py) or sampling (penguin_engine).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from penguin_models.config import PenguinConfig
from penguin_models.encoder import FrameShape, PenguinEncoder
from penguin_models.errors import CheckpointError, PromptError
from penguin_models.projector import Projector
from penguin_models.types import PatchedImage


class PenguinVL(nn.Module):
    """A vision-language model."""

    def __init__(self, config: PenguinConfig):
        super().__init__()
        self.config = config
        self.end_token_ids: tuple[int, ...] = ()  # those of the checkpoint's processor; end what `generate` generates
        self.vision_encoder = PenguinEncoder(config.encoder)
        self.vision_projector = Projector(config.encoder.hidden_size, config.hidden_size)
        self.language_model = _decoder(config)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.language_model.device  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.language_model.dtype  # type: ignore[no-any-return]

    def embed_tokens(self, input_ids: Tensor) -> Tensor:
        """Returns the embeddings of token ids: [...] -> [..., hidden]."""
        return self.language_model.get_input_embeddings()(input_ids)  # type: ignore[no-any-return]

    def encode(self, images: Sequence[PatchedImage]) -> list[Tensor]:
        """Returns the visual tokens of each image, [tokens, hidden] on the model's device.

        Images may differ in size; the result does not depend on which images are encoded together.
        """
        if not images:
            return []
        frames = [FrameShape(image.grid, image.merge_size) for image in images]
        patches = torch.cat([torch.from_numpy(image.patches) for image in images])
        tokens = self.vision_projector(self.vision_encoder(patches, frames))
        return list(tokens.split([image.tokens for image in images]))

    def embed_prompt(self, input_ids: Tensor, visual_tokens: Tensor | None) -> Tensor:
        """Returns the embeddings of a prompt with visual tokens in place of its `<image>` ids: [batch, length, hidden].

        Args:
            input_ids: int64 [batch, length]; not changed.
            visual_tokens: [tokens, hidden] in the order of their places, or None.

        Raises:
            PromptError: The number of places differs from the number of visual tokens.
        """
        places = self._places(input_ids, 0 if visual_tokens is None else visual_tokens.shape[0])
        embeddings = self.embed_tokens(input_ids.masked_fill(places, 0))
        if visual_tokens is None:
            return embeddings
        return embeddings.masked_scatter(places[..., None], visual_tokens.to(embeddings.dtype))

    def _places(self, input_ids: Tensor, visual_tokens: int) -> Tensor:
        places = input_ids == self.config.image_token_id
        if (expected := int(places.sum())) != visual_tokens:
            raise PromptError(
                f"the prompt has {expected} <image> places but its images make {visual_tokens} visual tokens; "
                "prepare both with the same Processor call"
            )
        return places

    def _embed(self, input_ids: Tensor, images: Sequence[PatchedImage]) -> Tensor:
        self._places(input_ids, sum(image.tokens for image in images))  # checked before the encoder runs
        visual_tokens = torch.cat(self.encode(images)) if images else None
        return self.embed_prompt(input_ids.to(self.device), visual_tokens)

    def forward(
        self,
        input_ids: Tensor,
        images: Sequence[PatchedImage] = (),
        labels: Tensor | None = None,
        **decoder_arguments: Any,
    ) -> Any:
        """Runs the decoder over a prompt with its images.

        Args:
            input_ids: int64 [batch, length] with one `<image>` id per visual token.
            images: Images in the order of their places.
            labels: int64 [batch, length], -100 for positions without a target; adds `loss` to the result.
            **decoder_arguments: Further arguments of transformers' `Qwen3ForCausalLM.forward` (attention_mask,
                position_ids, past_key_values, logits_to_keep, ...).

        Returns:
            transformers' `CausalLMOutputWithPast`.

        Raises:
            PromptError: The number of places differs from the number of visual tokens; the encoder has not run yet.
        """
        embeddings = self._embed(input_ids, images)
        return self.language_model(inputs_embeds=embeddings, labels=labels, **decoder_arguments)

    @torch.inference_mode()
    def generate(self, input_ids: Tensor, images: Sequence[PatchedImage] = (), **generation: Any) -> Tensor:
        """Runs transformers' `generate` on a prompt, int64 [1, length], with images in the order of their places.

        Returns the new tokens without the prompt, int64 [1, new tokens].
        """
        embeddings = self._embed(input_ids, images)
        mask = torch.ones(embeddings.shape[:2], dtype=torch.long, device=self.device)
        generation.setdefault("eos_token_id", list(self.end_token_ids) or None)
        return self.language_model.generate(inputs_embeds=embeddings, attention_mask=mask, **generation)  # type: ignore[no-any-return]


def _decoder(config: PenguinConfig) -> Qwen3ForCausalLM:
    try:
        return Qwen3ForCausalLM(Qwen3Config(**config.decoder, attn_implementation="sdpa"))
    except (StrictDataclassError, AttributeError, LookupError, TypeError, ValueError) as err:
        reason = " ".join(str(err).split())[:300]
        raise CheckpointError(f"config.json: transformers refuses the settings of the decoder: {reason}") from err
