"""The settings of a training stage: what is trained from what, on which data, for how long, and where the result goes.

Limits and cross-checks run when the object is made. Reads no files (stage_file.py does) and does not need torch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from penguin_training.settings.data import DataSettings
from penguin_training.settings.field_types import (
    CONFIG,
    Fraction,
    FractionBelowOne,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from penguin_training.settings.model import ModelSettings, Reconstruction
from penguin_training.settings.rewards import Rewards


@dataclass(frozen=True, config=CONFIG)
class LearningRates:
    """Peak learning rate of each part; null freezes a part."""

    llm: PositiveFloat | None = None  # The decoder with its embeddings
    encoder: PositiveFloat | None = None  # The encoder's layers and final norm
    patch_embedding: PositiveFloat | None = None  # The encoder's patch embedding
    projector: PositiveFloat | None = None  # The projector
    # The linear layer from the encoder's to the teacher's width; needs `reconstruction`
    adapter: PositiveFloat | None = None
    lora: PositiveFloat | None = None  # The low-rank matrices; needs `lora`

    def trained(self) -> dict[str, float]:
        """Returns the rates of the parts that are trained."""
        return {name: rate for name, rate in vars(self).items() if isinstance(rate, float)}


@dataclass(frozen=True, config=CONFIG)
class Budgets:
    """How much passes through the model at once."""

    tokens: PositiveInt  # Text and visual tokens of one micro-batch; also the maximum length of a sample
    # Micro-batches per optimiser step, summed over all processes, so that a step does not depend on the number of
    # processes
    micro_batches: PositiveInt
    visual_tokens: PositiveInt = 10240  # Maximum number of visual tokens of one sample

    def __post_init__(self) -> None:
        if self.visual_tokens > self.tokens:
            raise ValueError(
                f"visual_tokens {self.visual_tokens} must not exceed tokens {self.tokens}: a sample has to fit"
            )


@dataclass(frozen=True, config=CONFIG)
class Schedule:
    """Length of the stage, and the course of the learning rates: linear warm-up, then cosine decay."""

    epochs: PositiveFloat | None = None  # Passes over the data; not with `steps`
    steps: PositiveInt | None = None  # Optimiser steps; not with `epochs`, required for streams
    warmup_share: Fraction = 0.03  # Fraction of the steps in which the rates rise
    start_share: Fraction = 0.1  # Initial fraction of the peak rates
    end_share: Fraction = 0.1  # Final fraction of the peak rates

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps")


@dataclass(frozen=True, config=CONFIG)
class Optimizer:
    """AdamW, or Muon for the matrices of the transformer layers and AdamW for the rest."""

    # "adamw" or "muon". Muon's updates are scaled to the size of AdamW's, so rates keep their meaning.
    kind: Literal["adamw", "muon"] = "adamw"
    # Multiplies the rates of matrices trained by Muon; a model trained from scratch gains from 10 or more
    muon_factor: PositiveFloat = 1.0
    beta2: FractionBelowOne = 0.999  # Decay of AdamW's second moment
    weight_decay: NonNegativeFloat = 0.0  # Decay of matrices; vectors (norms, biases) never decay
    clip: PositiveFloat | None = 1.0  # Maximum norm of the gradient; null for no limit


@dataclass(frozen=True, config=CONFIG)
class Lora:
    """Low-rank adapters on the linear layers of the decoder (peft); a checkpoint holds them merged."""

    rank: PositiveInt = 16  # Rank of the matrices
    alpha: PositiveFloat = 32.0  # Their product is scaled by alpha / rank
    dropout: FractionBelowOne = 0.0  # Dropout on their input during training


@dataclass(frozen=True, config=CONFIG)
class EngineSettings:
    """How training is computed, and what is written."""

    # Of the computation; trained weights, gradients and optimiser states are always float32
    precision: Literal["float32", "bf16"] = "bf16"
    sharding: Literal["none", "fsdp2"] = "none"  # "none" (one process, or replicas with DDP) or "fsdp2"
    gradient_checkpointing: bool = True  # Recomputes activations in the backward pass instead of storing them
    compile: bool = False  # Compiles the transformer layers (torch.compile)
    seed: NonNegativeInt = 0  # Of everything that is random
    log_every: PositiveInt = 10  # Optimiser steps between two lines of metrics
    save_every: PositiveInt | None = 500  # Optimiser steps between two saved states; null for only the last
    keep: PositiveInt = 2  # Number of saved states that are kept
    save_dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"  # Type of the weights in checkpoints
    # Where metrics go besides metrics.jsonl
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)


@dataclass(frozen=True, config=CONFIG)
class StageSettings:
    """A whole stage: the sections of a stage file."""

    name: Name  # Name for people and trackers
    kind: Literal["text", "multimodal"]  # "text" (the decoder alone) or "multimodal"
    output: Name  # Folder of the checkpoint, metrics and saved states; relative to the working directory
    model: ModelSettings
    learning_rates: LearningRates
    data: DataSettings
    budgets: Budgets
    schedule: Schedule
    optimizer: Optimizer = Field(default_factory=Optimizer)
    reconstruction: Reconstruction | None = None  # The losses against a teacher; null for none
    lora: Lora | None = None  # Low-rank training of the decoder; null for none
    rewards: Rewards | None = None  # Learning from rewards of sampled answers; null for learning annotated answers
    engine: EngineSettings = Field(default_factory=EngineSettings)

    def __post_init__(self) -> None:
        self._check_kind()
        self._check_parts()
        self._check_rewards()
        if self.optimizer.kind == "muon" and self.engine.sharding == "fsdp2":
            raise ValueError("optimizer.kind muon needs whole matrices, which engine.sharding fsdp2 splits; change one")
        unlabelled = [file.name for file in self.data.files if not file.conversations]
        if unlabelled and not self.reconstruction:
            raise ValueError(f"{unlabelled[0]} without conversations teaches nothing without reconstruction")
        if self.data.streamed and self.schedule.steps is None:
            raise ValueError("data.streamed has no known length; set schedule.steps instead of schedule.epochs")
        if self.data.memory and self.data.memory.token_budget[1] > self.budgets.visual_tokens:
            raise ValueError(
                f"data.memory.token_budget {self.data.memory.token_budget} must not exceed budgets.visual_tokens "
                f"{self.budgets.visual_tokens}: what a memory holds has to fit"
            )
        if self.model.new_model and self.budgets.visual_tokens < 2 * self.model.new_model.min_tokens:
            raise ValueError(
                f"budgets.visual_tokens {self.budgets.visual_tokens} must be at least twice "
                f"model.new_model.min_tokens {self.model.new_model.min_tokens}"
            )

    def _check_kind(self) -> None:
        if self.kind == "multimodal":
            if self.model.new_language_model:
                raise ValueError("model.new_language_model is for a text stage; set model.start or model.new_model")
            return
        unused = [name for name in self.learning_rates.trained() if name not in ("llm", "lora")]
        if unused or self.reconstruction:
            raise ValueError(f"a text stage has no {', '.join(unused) or 'reconstruction'}; it only trains llm or lora")
        if self.model.new_model:
            raise ValueError("a text stage starts from model.start or model.new_language_model, not model.new_model")

    def _check_parts(self) -> None:
        rates = self.learning_rates
        if not rates.trained():
            raise ValueError("learning_rates trains nothing; give at least one part a rate")
        for part, needed, section in (("adapter", "reconstruction", self.reconstruction), ("lora", "lora", self.lora)):
            if (getattr(rates, part) is None) != (section is None):
                raise ValueError(f"learning_rates.{part} and the section {needed} belong together; give both or none")
        if self.lora and rates.llm is not None:
            raise ValueError("lora trains matrices next to a frozen decoder; learning_rates.llm must be null")
        if self.reconstruction and rates.encoder is None:
            raise ValueError("reconstruction trains the encoder; learning_rates.encoder must not be null")

    def _check_rewards(self) -> None:
        if self.rewards is None:
            return
        if self.kind == "text" or self.model.start is None:
            raise ValueError("rewards need a multimodal stage that begins with a model that can answer: model.start")
        unused = {
            "reconstruction": self.reconstruction is not None,
            "data.answer_balance": self.data.answer_balance > 0,
            "data.train_on all": self.data.train_on == "all",
        }
        if found := [name for name, used in unused.items() if used]:
            raise ValueError(f"{found[0]} is about annotated answers, but rewards are about sampled ones; remove one")
        if self.data.memory:
            raise ValueError(
                "data.memory changes what a clip shows, but rewards check answers about all of it; remove one"
            )
