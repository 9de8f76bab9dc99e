"""The settings around teachers: which one a stage reconstructs, and how the tiny teacher is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from penguin_training.settings.field_types import (
    CONFIG,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)


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
            raise ValueError(
                f"reading is {self.reading}, but a {self.teacher.kind} teacher has no classifiers; set it to 0"
            )


@dataclass(frozen=True, config=CONFIG, kw_only=True)
class TinyTeacherSettings:
    """How the tiny teacher is trained."""

    hidden_size: Annotated[int, Field(strict=True, ge=64)] = 192  # Width of its features
    steps: PositiveInt = 2000  # Number of optimiser steps
    images: PositiveInt = 16  # Images per step
    rate: NonNegativeFloat = 1e-3  # Peak learning rate
    # Images are scaled by a random factor between this and 1, as low-resolution stages will show them
    smallest: Annotated[float, Field(ge=0.1, le=1)] = 0.5
    seed: NonNegativeInt = 0  # Of weights, order and sizes
    workers: NonNegativeInt = 2  # Number of processes that read images
