"""The settings of learning from rewards: which functions judge sampled answers, and how the answers are sampled."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from penguin_training.settings.field_types import CONFIG, Name, NonNegativeFloat, PositiveFloat, PositiveInt


@dataclass(frozen=True, config=CONFIG)
class RewardFunction:
    """A function that judges answers; see post_training/rewards.py."""

    function: Name  # `module:function`; the module must be importable
    weight: PositiveFloat = 1.0  # Factor of its values in the reward of an answer

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w+(\.\w+)*:\w+", self.function):
            raise ValueError(f"function {self.function!r} must be module:function, for example own_rewards:exact")

    @property
    def name(self) -> str:
        """Name of the function without its module."""
        return self.function.rpartition(":")[2]


@dataclass(frozen=True, config=CONFIG)
class Rewards:
    """Learns from rewards of sampled answers (GRPO) instead of annotated answers.

    For each question a group of answers is sampled from the model, and their rewards are compared with each other.
    """

    # The reward of an answer is the weighted sum of the functions that apply to its question
    functions: Annotated[list[RewardFunction], Field(min_length=1)]
    group: Annotated[int, Field(strict=True, ge=2)] = 8  # Number of answers that are sampled to each question
    max_new_tokens: PositiveInt = 256  # Maximum length of a sampled answer in tokens
    # Weight of the Kullback-Leibler divergence from the model that training starts from; 0 does without it
    kl: NonNegativeFloat = 0.04

    def __post_init__(self) -> None:
        names = [function.name for function in self.functions]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two functions are named {repeated[0]}, which metrics could not tell apart; rename one")
