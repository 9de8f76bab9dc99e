"""Optimisers with their parameter groups, and learning rates over time."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from penguin_training.model.stage_model import part_of
from penguin_training.run.cpu_muon import CpuMuon
from penguin_training.settings.stage import Optimizer, Schedule, StageSettings


class Optimizers:
    """AdamW, and with `optimizer.kind: muon` also Muon, over the trained parts; vectors (norms, biases) never decay."""

    def __init__(self, model: nn.Module, settings: StageSettings):
        """Sorts the trained parameters of a `StageModel`, possibly sharded, into groups."""
        chosen = settings.optimizer
        rates = settings.learning_rates.trained()
        adam: dict[tuple[str, bool], list[nn.Parameter]] = {}
        muon: dict[str, list[nn.Parameter]] = {}
        for name, parameter in trained_parameters(model).items():
            part = part_of(name)
            if uses_muon(name, parameter, chosen):
                muon.setdefault(part, []).append(parameter)
            else:
                adam.setdefault((part, parameter.ndim > 1), []).append(parameter)
        adamw = torch.optim.AdamW(
            [
                {"params": parameters, "weight_decay": chosen.weight_decay if is_matrix else 0.0, "rate": rates[part]}
                for (part, is_matrix), parameters in adam.items()
            ],
            lr=0.0,
            betas=(0.9, chosen.beta2),
            fused=True,
        )
        self.all: list[torch.optim.Optimizer] = [adamw]
        if muon:
            groups = [{"params": found, "rate": rates[part] * chosen.muon_factor} for part, found in muon.items()]
            self.all.append(CpuMuon(groups, lr=0.0, weight_decay=chosen.weight_decay, adjust_lr_fn="match_rms_adamw"))

    @property
    def groups(self) -> list[dict[str, Any]]:
        """All parameter groups; "rate" is their peak learning rate."""
        return [group for optimizer in self.all for group in optimizer.param_groups]

    def step(self, share: float) -> None:
        """Takes a step with this fraction of the peak rates, and clears the gradients."""
        for group in self.groups:
            group["lr"] = group["rate"] * share
        for optimizer in self.all:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def uses_muon(name: str, parameter: nn.Parameter, optimizer: Optimizer) -> bool:
    """Returns whether Muon trains a parameter of `StageModel`: a matrix of the transformer layers."""
    is_matrix = parameter.ndim == 2 and ".layers." in name and part_of(name) != "lora"
    return optimizer.kind == "muon" and is_matrix


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns the trained parameters by the names of `StageModel`, whatever the model is wrapped in."""
    return {name.removeprefix("module."): p for name, p in model.named_parameters() if p.requires_grad}


def rate_share(step: int, steps: int, schedule: Schedule) -> float:
    """Returns the fraction of the peak learning rate in a step (from 0).

    Linear from `start_share` to 1 during the warm-up, then half a cosine from 1 to `end_share` in the last step.
    """
    warmup = math.ceil(schedule.warmup_share * steps)
    if step < warmup:
        return schedule.start_share + (1 - schedule.start_share) * step / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return schedule.end_share + (1 - schedule.end_share) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
