"""The settings of a training stage: what is trained from what, on which data, how fast, and where it goes.

Every field has one line here; limits and cross-checks are checked when the object is made. Knows no files
(settings_file.py reads them) and no torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from penguin_training.settings.data import DataSettings
from penguin_training.settings.model import ModelSettings
from penguin_training.settings.types import STRICT, Above, Name, Number, Positive, Share, Whole


@dataclass(frozen=True, config=STRICT)
class LearningRates:
    """Highest learning rate of each part; a part with null is frozen.

    Attributes:
        llm: the decoder with its embeddings.
        encoder: the encoder's layers and final norm.
        patch_embedding: the encoder's patch embedding.
        projector: the projector.
        adapter: the linear layer from the encoder to the teacher's width; needs `reconstruction`.
        lora: the low-rank matrices; needs `lora`.
    """

    llm: Above | None = None
    encoder: Above | None = None
    patch_embedding: Above | None = None
    projector: Above | None = None
    adapter: Above | None = None
    lora: Above | None = None

    def given(self) -> dict[str, float]:
        """Rates of the parts that are trained."""
        return {name: rate for name, rate in vars(self).items() if isinstance(rate, float)}


@dataclass(frozen=True, config=STRICT)
class Budgets:
    """How much goes through the model at once.

    Attributes:
        tokens: of one micro-batch, text and visual tokens together; also the longest sample.
        visual_tokens: of one sample.
        micro_batches: of one optimiser step, over all processes; with it the step does not depend on how many
            processes share the work.
    """

    tokens: Positive
    micro_batches: Positive
    visual_tokens: Positive = 10240

    def __post_init__(self) -> None:
        if self.visual_tokens > self.tokens:
            raise ValueError(
                f"visual_tokens {self.visual_tokens} must not exceed tokens {self.tokens}: a sample has to fit"
            )


@dataclass(frozen=True, config=STRICT)
class Schedule:
    """How long, and how the learning rates go: up in a line, then down along a cosine.

    Attributes:
        epochs: passes over the data; not with `steps`.
        steps: optimiser steps; not with `epochs`, needed for streams.
        warmup_share: share of the steps in which the rates rise.
        start_share: share of the highest rate with which they begin.
        end_share: share of the highest rate with which they end.
    """

    epochs: Above | None = None
    steps: Positive | None = None
    warmup_share: Share = 0.03
    start_share: Share = 0.1
    end_share: Share = 0.1

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("exactly one of epochs and steps must be given")


@dataclass(frozen=True, config=STRICT)
class Optimizer:
    """AdamW, or Muon for the matrices of the transformer layers and AdamW for the rest.

    Attributes:
        kind: "adamw" or "muon". Muon's steps are scaled so that rates mean what they mean for AdamW.
        muon_factor: rates of Muon over those of its part; a model that starts from nothing gains from 10 or more.
        beta1: decay of the mean of gradients.
        beta2: decay of the mean of their squares.
        epsilon: added to the root of the latter.
        weight_decay: of matrices; vectors (norms, biases) never decay.
        clip: largest norm of the gradient; null for no limit.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    muon_factor: Above = 1.0
    beta1: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.999
    epsilon: Above = 1e-8
    weight_decay: Number = 0.0
    clip: Above | None = 1.0


@dataclass(frozen=True, config=STRICT)
class Teacher:
    """An encoder whose features the student learns to reconstruct.

    Attributes:
        kind: "tiny" (trained by `penguin-vl prepare teacher`), "siglip" (VL3-SigLIP-NaViT) or "penguin" (the encoder of
            another, larger Penguin-VL model).
        path: its checkpoint, a folder or hub repository.
    """

    kind: Literal["tiny", "siglip", "penguin"]
    path: Name


@dataclass(frozen=True, config=STRICT)
class Reconstruction:
    """The losses that compare the encoder's features with a teacher's.

    Attributes:
        teacher: gives the features.
        direction: factor of the cosine loss; 0 leaves a loss out.
        amplitude: factor of the smooth-L1 loss.
        relation: factor of the loss on similarities between patches.
        reading: factor of the loss on what the teacher's own classifiers read off the student's features; only the tiny
            teacher has classifiers.
        relation_over: "image" (the paper: patches of one image) or "micro_batch" (the released code: all patches).
        divided_by: "label_tokens" (the released code: of the whole optimiser step) or "nothing" (their mean over
            the micro-batches counts beside the mean cross-entropy).
        decay_epochs: the losses' weight is this number minus the epochs gone, at least 0.
    """

    teacher: Teacher
    direction: Number = 1.0
    amplitude: Number = 1.0
    relation: Number = 1.0
    reading: Number = 0.0
    relation_over: Literal["image", "micro_batch"] = "image"
    divided_by: Literal["label_tokens", "nothing"] = "label_tokens"
    decay_epochs: Above = 3.0

    def __post_init__(self) -> None:
        if self.direction == self.amplitude == self.relation == self.reading == 0:
            raise ValueError("direction, amplitude, relation and reading are all 0; leave reconstruction out instead")
        if self.reading and self.teacher.kind != "tiny":
            raise ValueError(
                f"reading is {self.reading}, but a {self.teacher.kind} teacher has no classifiers; set it to 0"
            )


@dataclass(frozen=True, config=STRICT)
class Lora:
    """Low-rank matrices beside the decoder's linear layers (peft); they are merged when a checkpoint is written.

    Attributes:
        rank: of the matrices.
        alpha: they count alpha / rank.
        dropout: of their input while training.
        modules: linear layers that get them, by the end of their names.
    """

    rank: Positive = 16
    alpha: Above = 32.0
    dropout: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0
    modules: Annotated[list[Name], Field(min_length=1)] = Field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


@dataclass(frozen=True, config=STRICT)
class Engine:
    """How the computation is done and what is written.

    Attributes:
        precision: of the computation; weights, gradients and optimiser states are float32 in any case.
        sharding: "none" (one process, or copies of the model: DDP) or "fsdp2".
        gradient_checkpointing: compute activations twice instead of keeping them.
        compile: compile the transformer layers (torch.compile).
        seed: of everything that is random.
        ema_decay: also keep a moving average of the weights, and write that one; null for none.
        log_every: optimiser steps between two lines of figures.
        save_every: optimiser steps between two checkpoints; null for only the last.
        keep: checkpoints that stay; older ones are removed.
        save_dtype: type of the weights in the released layout.
        trackers: where figures go besides metrics.jsonl.
    """

    precision: Literal["float32", "bf16"] = "bf16"
    sharding: Literal["none", "fsdp2"] = "none"
    gradient_checkpointing: bool = True
    compile: bool = False
    seed: Whole = 0
    ema_decay: Annotated[float, Field(strict=True, gt=0, lt=1)] | None = None
    log_every: Positive = 10
    save_every: Positive | None = 500
    keep: Positive = 2
    save_dtype: Literal["float32", "float16", "bfloat16"] = "bfloat16"
    trackers: list[Literal["tensorboard", "wandb"]] = Field(default_factory=lambda: ["tensorboard"])


@dataclass(frozen=True, config=STRICT)
class StageSettings:
    """A whole stage.

    Attributes:
        name: for people and trackers.
        kind: "text" (the decoder alone) or "multimodal".
        output: folder of the result, with figures and checkpoints; relative to the working directory.
        model: what it starts from.
        learning_rates: what is trained.
        data: what is read.
        budgets: how much at once.
        schedule: how long.
        optimizer: what takes a step.
        reconstruction: the losses against a teacher; none if not given.
        lora: low-rank training of the decoder; none if not given.
        engine: how.
    """

    name: Name
    kind: Literal["text", "multimodal"]
    output: Name
    model: ModelSettings
    learning_rates: LearningRates
    data: DataSettings
    budgets: Budgets
    schedule: Schedule
    optimizer: Optimizer = Field(default_factory=Optimizer)
    reconstruction: Reconstruction | None = None
    lora: Lora | None = None
    engine: Engine = Field(default_factory=Engine)

    def __post_init__(self) -> None:
        self._check_parts()
        if self.optimizer.kind == "muon" and self.engine.sharding == "fsdp2":
            raise ValueError("Muon steps by whole matrices, which engine.sharding fsdp2 splits; take one of them back")
        pictures_only = [file.name for file in self.data.files if not file.conversations]
        if pictures_only and not self.reconstruction:
            raise ValueError(f"{pictures_only[0]} without conversations teaches nothing without reconstruction")
        if self.data.streamed and self.schedule.steps is None:
            raise ValueError("data.streamed has no length: give schedule.steps instead of schedule.epochs")
        if self.model.new_model and self.budgets.visual_tokens < 2 * self.model.new_model.min_tokens:
            raise ValueError(
                f"budgets.visual_tokens {self.budgets.visual_tokens} must be at least twice "
                f"model.new_model.min_tokens {self.model.new_model.min_tokens}"
            )

    def _check_parts(self) -> None:
        rates = self.learning_rates
        trained = rates.given()
        if not trained:
            raise ValueError("learning_rates trains nothing: give at least one part a rate")
        if self.kind == "text":
            others = [name for name in trained if name not in ("llm", "lora")]
            if others or self.reconstruction:
                raise ValueError(f"a text stage has no {', '.join(others) or 'reconstruction'}; only llm is trained")
            if self.model.new_model:
                raise ValueError("a text stage starts from model.start or model.new_language_model")
        elif self.model.new_language_model:
            raise ValueError("model.new_language_model is for a text stage; this one needs start or new_model")
        for part, needed, given in (
            ("adapter", "reconstruction", self.reconstruction),
            ("lora", "lora", self.lora),
        ):
            if (getattr(rates, part) is None) != (given is None):
                raise ValueError(f"learning_rates.{part} and the section {needed} belong together: give both or none")
        if self.lora and rates.llm is not None:
            raise ValueError("lora trains matrices beside a frozen decoder: learning_rates.llm must be null")
        if self.reconstruction and rates.encoder is None:
            raise ValueError("reconstruction trains the encoder: learning_rates.encoder must not be null")
