"""The model as a training stage runs it: a packed micro-batch in, losses out.

Modules are those of `PenguinVL` under the same names, with the adapter beside them. Knows nothing of optimisers,
processes or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3ForCausalLM

from penguin_models.encoder import PenguinEncoder
from penguin_models.projector import Projector
from penguin_training.data.batches import Batch
from penguin_training.model.losses import amplitude_loss, cross_entropy_sum, direction_loss, relation_loss
from penguin_training.model.packed_attention import PACKED, packing

RECONSTRUCTION = ("direction", "amplitude", "relation", "reading")
Reading = Callable[[Tensor, Tensor], Tensor]
"""A loss of the student's features [V, S] and the teacher's [V, S]."""


class StageModel(nn.Module):
    """Decoder, and in a multimodal stage encoder and projector.

    Attributes:
        language_model: transformers' Qwen3.
        vision_encoder: Penguin-Encoder, or None in a text stage.
        vision_projector: its projector, or None.
        vision_adapter: encoder's width -> teacher's width, or None where nothing is reconstructed.
        relation_over: "image" or "micro_batch".
        reading: what a teacher's classifiers make of the student's features, or None.
    """

    def __init__(
        self,
        language_model: Qwen3ForCausalLM,
        vision_encoder: PenguinEncoder | None = None,
        vision_projector: Projector | None = None,
        teacher_width: int | None = None,
        relation_over: str = "image",
        reading: Reading | None = None,
    ):
        super().__init__()
        language_model.set_attn_implementation(PACKED)
        self.language_model = language_model
        self.vision_encoder = vision_encoder
        self.vision_projector = vision_projector
        self.vision_adapter = None
        if teacher_width is not None:
            assert vision_encoder is not None
            self.vision_adapter = nn.Linear(vision_encoder.config.hidden_size, teacher_width)
        self.relation_over = relation_over
        self.reading = reading

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    def checkpoint_activations(self) -> None:
        """Computes activations again for the gradient instead of keeping them."""
        decoder = self.language_model
        # transformers renames the first to the second.
        enable = getattr(decoder, "activation_checkpointing_enable", None) or decoder.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        if self.vision_encoder is not None:
            self.vision_encoder.encoder.gradient_checkpointing = True

    def layers(self) -> list[nn.Module]:
        """The transformer layers, encoder first: the units of sharding and compilation."""
        of_encoder = [] if self.vision_encoder is None else list(self.vision_encoder.encoder.layers)
        return of_encoder + list(self.language_model.model.layers)

    def forward(self, batch: Batch, teacher_features: Tensor | None = None) -> dict[str, Tensor]:
        """Losses of a micro-batch.

        Args:
            batch: on the model's device.
            teacher_features: [V, teacher's width] of the batch's frames; needed with an adapter and real frames.

        Returns:
            Scalars: `cross_entropy`, the weighted sum over the learnt positions; with an adapter also `direction`,
            `amplitude`, `relation` and, where there is one, `reading`, each a mean, 0 where the batch has no real
            frames.
        """
        embeddings = self.language_model.get_input_embeddings()(batch.ids)
        losses: dict[str, Tensor] = {}
        if self.vision_encoder is not None and self.vision_projector is not None:
            features = self._features(batch)
            visual = self.vision_projector(features).to(embeddings.dtype)
            embeddings = embeddings.index_copy(0, batch.places, visual[batch.taken])
            embeddings = embeddings + 0 * visual.sum()  # every part has a gradient in every step
            if self.vision_adapter is not None:
                losses = self._reconstruction(self.vision_adapter(features), batch, teacher_features)
        hidden = self.language_model.model(
            inputs_embeds=embeddings[None],
            position_ids=batch.positions[None],
            use_cache=False,
            **packing(batch.lengths, batch.turns, embeddings.device),
        ).last_hidden_state[0]
        head = self.language_model.lm_head
        learnt = cross_entropy_sum(hidden[batch.predict_from], batch.targets, batch.weights, head)
        if not len(batch.targets):
            learnt = learnt + 0 * head(hidden[:1]).sum()
        return {"cross_entropy": learnt, **losses}

    def _features(self, batch: Batch) -> Tensor:
        """[V, encoder's width]; without a graph where the encoder is frozen."""
        assert self.vision_encoder is not None
        trained = any(p.requires_grad for p in self.vision_encoder.parameters())
        with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
            return self.vision_encoder(batch.patches, batch.frames)  # type: ignore[no-any-return]

    def _reconstruction(self, student: Tensor, batch: Batch, teacher: Tensor | None) -> dict[str, Tensor]:
        if not batch.real_frames:
            nothing = 0 * student.sum()
            return dict.fromkeys(RECONSTRUCTION if self.reading else RECONSTRUCTION[:-1], nothing)
        assert teacher is not None and teacher.shape == student.shape, "the teacher saw other frames"
        groups: Sequence[int] | None = batch.frame_tokens if self.relation_over == "image" else None
        losses = {
            "direction": direction_loss(student, teacher),
            "amplitude": amplitude_loss(student, teacher),
            "relation": relation_loss(student, teacher, groups),
        }
        return losses | ({"reading": self.reading(student, teacher)} if self.reading else {})


def part_of(name: str) -> str:
    """Which part of the settings' `learning_rates` a parameter of `StageModel` belongs to."""
    if ".lora_" in name:
        return "lora"
    if name.startswith("vision_encoder.embeddings."):
        return "patch_embedding"
    prefixes: dict[str, str] = {
        "vision_encoder.": "encoder",
        "vision_projector.": "projector",
        "vision_adapter.": "adapter",
        "language_model.": "llm",
    }
    return next(part for prefix, part in prefixes.items() if name.startswith(prefix))


def freeze(model: StageModel, trained: Any) -> None:
    """Leaves gradients only to the parts in `trained`.

    Args:
        model: the stage's model.
        trained: names of parts, as `part_of` gives them.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in trained)
