"""The settings of a stage's model: where its weights come from, shapes of new parts, and the teacher of its encoder."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from penguin_training.settings.field_types import CONFIG, Name, NonNegativeFloat, PositiveFloat, PositiveInt


@dataclass(frozen=True, config=CONFIG)
class NewLanguageModel:
    """A randomly initialised Qwen3 decoder; fields as in its `config.json`."""

    tokenizer: Name  # Folder written by `penguin-vl prepare tokenizer`
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt
    head_dim: PositiveInt
    max_position_embeddings: PositiveInt = 8192  # Maximum sequence length in tokens
    rope_theta: PositiveFloat = 1e6  # Base of the rotary frequencies
    initializer_range: PositiveFloat = 0.02  # Standard deviation of the initial weights
    tie_word_embeddings: bool = True  # Whether the output matrix is the embedding table

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} must be a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} must be even for rotary embeddings")


@dataclass(frozen=True, config=CONFIG)
class NewModel:
    """A Penguin-VL model assembled from a text-only LLM, an encoder and a randomly initialised projector."""

    llm: Name  # Qwen3 checkpoint (folder or hub repository) that becomes the decoder, with its tokenizer
    encoder_llm: Name | None = None  # Qwen3 or Llama checkpoint whose layers become the encoder; None for `llm`
    encoder_layers: PositiveInt | None = None  # Number of its first layers that are used; None for all
    # "llm", or "random" for an encoder of the same shape with random weights
    encoder_init: Literal["llm", "random"] = "llm"
    min_tokens: PositiveInt = 16  # Visual tokens below which the allocation does not shrink a frame (times 1.5)
    max_tokens: PositiveInt = 16384  # Default budget of visual tokens of a prompt at inference


@dataclass(frozen=True, config=CONFIG)
class ModelSettings:
    """What training starts from: exactly one of the three."""

    # Checkpoint (folder or hub repository), for example that of the previous stage: a Penguin-VL model, or in a text
    # stage a Qwen3 model
    start: Name | None = None
    new_model: NewModel | None = None  # A Penguin-VL model assembled from an LLM
    new_language_model: NewLanguageModel | None = None  # A randomly initialised decoder, in a text stage

    def __post_init__(self) -> None:
        present = [name for name, value in vars(self).items() if value is not None]
        if len(present) != 1:
            raise ValueError(f"give exactly one of start, new_model and new_language_model, not {present or 'none'}")


@dataclass(frozen=True, config=CONFIG)
class TeacherSettings:
    """An encoder whose features the student learns to reconstruct."""

    # "tiny" (trained by `penguin-vl prepare teacher`), "siglip" (VL3-SigLIP-NaViT) or "penguin" (the encoder of
    # another, usually larger, Penguin-VL model)
    kind: Literal["tiny", "siglip", "penguin"]
    path: Name  # Its checkpoint, a folder or hub repository


@dataclass(frozen=True, config=CONFIG)
class Reconstruction:
    """The losses that compare the encoder's features with a teacher's; a factor of 0 disables a loss."""

    teacher: TeacherSettings  # Provides the target features
    direction: NonNegativeFloat = 1.0  # Factor of the cosine loss
    amplitude: NonNegativeFloat = 1.0  # Factor of the smooth L1 loss
    relation: NonNegativeFloat = 1.0  # Factor of the loss on similarities between patches
    # Factor of the loss on what the teacher's own classifiers predict from the student's features; only the tiny
    # teacher has classifiers
    reading: NonNegativeFloat = 0.0
    # "image" compares the patches of one image (paper), "micro_batch" all patches (released code)
    relation_over: Literal["image", "micro_batch"] = "image"
    # "label_tokens" divides the losses by the label tokens of the optimiser step (released code); "nothing" adds their
    # mean over the micro-batches to the mean cross-entropy
    divided_by: Literal["label_tokens", "nothing"] = "label_tokens"
    decay_epochs: PositiveFloat = 3.0  # The losses have the weight decay_epochs - epoch, at least 0

    def __post_init__(self) -> None:
        if self.direction == self.amplitude == self.relation == self.reading == 0:
            raise ValueError("direction, amplitude, relation and reading are all 0; remove the section reconstruction")
        if self.reading and self.teacher.kind != "tiny":
            raise ValueError(f"reading must be 0, not {self.reading}: a {self.teacher.kind} teacher has no classifiers")
