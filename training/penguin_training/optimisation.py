"""Parameter groups, learning rates over time, and the moving average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from penguin_training.settings import Optimizer, Schedule, StageSettings
from penguin_training.stage_model import part_of


def make_optimizer(model: nn.Module, settings: StageSettings) -> tuple[torch.optim.AdamW, list[str]]:
    """AdamW over what is trained: a group for each part, its vectors apart (they never decay).

    Args:
        model: a `StageModel`, maybe sharded; frozen where nothing is to be trained.
        settings: of the stage.

    Returns:
        The optimiser, and the part that each of its groups belongs to.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in trained_parameters(model).items():
        groups.setdefault((part_of(name), parameter.ndim > 1), []).append(parameter)
    adam: Optimizer = settings.optimizer
    optimizer = torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": adam.weight_decay if is_matrix else 0.0}
            for (_, is_matrix), parameters in groups.items()
        ],
        lr=0.0,
        betas=(adam.beta1, adam.beta2),
        eps=adam.epsilon,
        fused=True,
    )
    return optimizer, [part for part, _ in groups]


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained, by the names of `StageModel`, whatever the model is wrapped in."""
    return {name.removeprefix("module."): p for name, p in model.named_parameters() if p.requires_grad}


def rate_share(step: int, steps: int, schedule: Schedule) -> float:
    """Share of the highest learning rate in a step.

    A line from `start_share` to 1 over the warm-up, then half a cosine from 1 to `end_share` in the last step.

    Args:
        step: from 0.
        steps: of the stage.
        schedule: shares.
    """
    warmup = math.ceil(schedule.warmup_share * steps)
    if step < warmup:
        return schedule.start_share + (1 - schedule.start_share) * step / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return schedule.end_share + (1 - schedule.end_share) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def set_rates(optimizer: torch.optim.Optimizer, parts: list[str], settings: StageSettings, share: float) -> None:
    """Gives each group the share of its part's highest rate."""
    rates = settings.learning_rates.given()
    for group, part in zip(optimizer.param_groups, parts, strict=True):
        group["lr"] = rates[part] * share


class MovingAverage:
    """Exponential moving average of the trained weights.

    Attributes:
        weights: by parameter name.
    """

    def __init__(self, model: nn.Module, decay: float):
        self._decay = decay
        self.weights: dict[str, Tensor] = {n: p.detach().clone() for n, p in trained_parameters(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes in the weights after a step."""
        current = trained_parameters(model)
        for name, average in self.weights.items():
            average.lerp_(current[name].detach(), 1 - self._decay)
