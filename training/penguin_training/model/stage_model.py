"""The model as a training stage runs it: a packed micro-batch in, losses out.

Its modules are those of `PenguinVL` under the same names, plus the adapter. Knows nothing of optimisers, processes or
files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import Qwen3ForCausalLM

from penguin_models.encoder import PenguinEncoder
from penguin_models.projector import Projector
from penguin_training.data.batch import Batch
from penguin_training.model.losses import amplitude_loss, direction_loss, divergence, log_probabilities, relation_loss
from penguin_training.model.packed_attention import PACKED, packed_arguments

RECONSTRUCTION = ("direction", "amplitude", "relation", "reading")
ReadingLoss = Callable[[Tensor, Tensor], Tensor]  # A loss of the student's features [V, S] and the teacher's [V, S]


class StageModel(nn.Module):
    """Decoder, and in a multimodal stage encoder and projector; with a teacher's width also an adapter to it."""

    def __init__(
        self,
        language_model: Qwen3ForCausalLM,
        vision_encoder: PenguinEncoder | None = None,
        vision_projector: Projector | None = None,
        teacher_width: int | None = None,
        relation_over: str = "image",
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
        self.reading: ReadingLoss | None = None

    def checkpoint_activations(self) -> None:
        """Recomputes activations in the backward pass instead of storing them."""
        decoder = self.language_model
        # transformers renames the first to the second.
        enable = getattr(decoder, "activation_checkpointing_enable", None) or decoder.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        if self.vision_encoder is not None:
            self.vision_encoder.encoder.gradient_checkpointing = True

    def layers(self) -> list[nn.Module]:
        """Returns the transformer layers, encoder first: the units of sharding and compilation."""
        encoder_layers = [] if self.vision_encoder is None else list(self.vision_encoder.encoder.layers)
        return encoder_layers + list(self.language_model.model.layers)

    def forward(
        self, batch: Batch, teacher_features: Tensor | None = None, as_reference: bool = False
    ) -> dict[str, Tensor]:
        """Returns the losses of a micro-batch: `cross_entropy`, the weighted sum over the learnt positions.

        With an adapter, which needs the teacher's features [V, teacher's width] of real frames, also `direction`,
        `amplitude`, `relation` and maybe `reading`, each a mean, 0 if the batch has no real frames. If the batch has a
        reference, also `kl`, the divergence from it, summed like the cross-entropy. A reference model itself returns
        only `log_probabilities` [K] of the learnt tokens.
        """
        embeddings = self.language_model.get_input_embeddings()(batch.ids)
        losses: dict[str, Tensor] = {}
        if self.vision_encoder is not None and self.vision_projector is not None:
            trained = any(p.requires_grad for p in self.vision_encoder.parameters())
            with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
                features = self.vision_encoder(batch.patches, batch.frames)  # [V, encoder's width]
            visual = self.vision_projector(features).to(embeddings.dtype)
            embeddings = embeddings.index_copy(0, batch.visual_positions, visual[batch.visual_rows])
            embeddings = embeddings + 0 * visual.sum()  # every part has a gradient in every step
            if self.vision_adapter is not None:
                losses = self._reconstruction(self.vision_adapter(features), batch, teacher_features)
        hidden = self.language_model.model(
            inputs_embeds=embeddings[None],
            position_ids=batch.positions[None],
            use_cache=False,
            **packed_arguments(batch.lengths, batch.turns, embeddings.device),
        ).last_hidden_state[0]
        head = self.language_model.lm_head
        learnt = log_probabilities(hidden[batch.predict_from], batch.targets, head)
        if as_reference:
            return {"log_probabilities": learnt}
        cross_entropy = -(batch.weights * learnt).sum()
        if batch.reference is not None and batch.shares is not None:
            losses["kl"] = (batch.shares * divergence(learnt, batch.reference)).sum()
        if not len(batch.targets):
            cross_entropy = cross_entropy + 0 * head(hidden[:1]).sum()
        return {"cross_entropy": cross_entropy, **losses}

    def _reconstruction(self, student: Tensor, batch: Batch, teacher: Tensor | None) -> dict[str, Tensor]:
        if not batch.real_frames:
            return dict.fromkeys(RECONSTRUCTION if self.reading else RECONSTRUCTION[:-1], 0 * student.sum())
        assert teacher is not None and teacher.shape == student.shape, "the teacher saw other frames"
        groups: Sequence[int] | None = batch.frame_tokens if self.relation_over == "image" else None
        losses = {
            "direction": direction_loss(student, teacher),
            "amplitude": amplitude_loss(student, teacher),
            "relation": relation_loss(student, teacher, groups),
        }
        return losses | ({"reading": self.reading(student, teacher)} if self.reading else {})


def part_of(name: str) -> str:
    """Returns the part of the settings' `learning_rates` that a parameter of `StageModel` belongs to."""
    if ".lora_" in name:
        return "lora"
    prefixes = {
        "vision_encoder.embeddings.": "patch_embedding",
        "vision_encoder.": "encoder",
        "vision_projector.": "projector",
        "vision_adapter.": "adapter",
        "language_model.": "llm",
    }
    return next(part for prefix, part in prefixes.items() if name.startswith(prefix))
