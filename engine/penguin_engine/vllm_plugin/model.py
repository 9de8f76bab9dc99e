"""Penguin-VL as a model of vLLM: our encoder and projector before vLLM's own Qwen3."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.model_loader import DefaultModelLoader
from vllm.model_executor.models.interfaces import SupportsMultiModal
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM
from vllm.model_executor.models.utils import AutoWeightsLoader, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY

from penguin_engine.vllm_plugin.encoder import PenguinEncoder, Projector
from penguin_engine.vllm_plugin.plans import VIDEO
from penguin_engine.vllm_plugin.processing import DummyInputsBuilder, MultiModalProcessor, ProcessingInfo
from penguin_models.chat import IMAGE
from penguin_models.checkpoint import index_checkpoint, read_config
from penguin_models.encoder import FrameShape
from penguin_models.hub import resolve_checkpoint
from penguin_models.processor import IMAGE_MERGE_SIZE, VIDEO_MERGE_SIZE
from penguin_models.tensor_files import ENCODER_PREFIX, our_name
from penguin_models.types import Size

_MERGE_SIZES = {"image": IMAGE_MERGE_SIZE, "video": VIDEO_MERGE_SIZE}
_SECOND = "second_checkpoint."  # prefix of tensors from the checkpoint that config.json names as vision_encoder


@MULTIMODAL_REGISTRY.register_processor(MultiModalProcessor, info=ProcessingInfo, dummy_inputs=DummyInputsBuilder)
class PenguinVLForCausalLM(nn.Module, SupportsMultiModal):
    """A vision-language model; reads the released and the training layout of checkpoints."""

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Returns the place of an image or video in a prompt."""
        return {"image": IMAGE, "video": VIDEO}[modality]

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        model, self.secondary_weights = vllm_config.model_config, []
        config = read_config(resolve_checkpoint(model.model, model.revision, weights=False))
        if config.raw.get("vision_encoder"):
            folder = resolve_checkpoint(model.model, model.revision)
            stored = index_checkpoint(folder)
            second = next(tensor.file.parent for name, tensor in stored.items() if name.startswith(ENCODER_PREFIX))
            if second != folder:
                self.secondary_weights = [DefaultModelLoader.Source(str(second), revision=None, prefix=_SECOND)]
        self.configure_mm_token_handling(config.vocab_size, [config.image_token_id])  # type: ignore[operator]
        with self._mark_tower_model(vllm_config, {"image", "video"}):  # type: ignore[operator]
            self.vision_encoder = PenguinEncoder(config.encoder, maybe_prefix(prefix, "vision_encoder"))
            self.vision_projector = Projector(
                config.encoder.hidden_size, config.hidden_size, maybe_prefix(prefix, "vision_projector")
            )
        with self._mark_language_model(vllm_config):  # type: ignore[operator]
            self.language_model = Qwen3ForCausalLM(
                vllm_config=vllm_config, prefix=maybe_prefix(prefix, "language_model")
            )

    def embed_multimodal(self, **fields: Tensor) -> list[Tensor]:
        """Returns the embeddings of images or of videos, [tokens, hidden] each; the fields: `MultiModalProcessor`."""
        for modality, merge_size in _MERGE_SIZES.items():
            if f"{modality}_patches" in fields:
                patches, grids, frames = (fields[f"{modality}_{name}"] for name in ("patches", "grids", "frames"))
                shapes = [FrameShape(Size(*grid), merge_size) for grid in grids.tolist()]
                tokens = self.vision_projector(self.vision_encoder(patches, shapes))
                counts = torch.split(grids.prod(1) // merge_size**2, frames.flatten().tolist())
                return list(torch.split(tokens, [int(count.sum()) for count in counts]))
        return []

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **others: Any,
    ) -> Any:
        """Runs the decoder over tokens or their embeddings; returns hidden states [tokens, hidden]."""
        return self.language_model.model(input_ids, positions, intermediate_tensors, inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Returns logits [tokens, vocabulary]."""
        return self.language_model.compute_logits(hidden_states)  # type: ignore[no-any-return]

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Loads a checkpoint's tensors by their stored names; returns the names of the loaded parameters."""

        def named() -> Iterator[tuple[str, Tensor]]:
            for stored, tensor in weights:
                name = our_name(stored.removeprefix(_SECOND))
                if name and (name.startswith(ENCODER_PREFIX) or not stored.startswith(_SECOND)):
                    yield name, tensor

        return AutoWeightsLoader(self).load_weights(named())  # type: ignore[no-any-return]

    def get_mm_mapping(self) -> MultiModelKeys:
        """Returns which part of the model does what."""
        return MultiModelKeys.from_string_field(
            language_model="language_model", connector="vision_projector", tower_model="vision_encoder"
        )
