"""Low-rank training of the decoder with peft: adapters are added to its layers, and merged for a checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from penguin_training.settings.stage import Lora

_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_BASE = ".base_layer."


def add_lora(decoder: nn.Module, settings: Lora) -> None:
    """Adds adapters, which initially change nothing, to the linear layers of attention and feed-forward network."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=list(_LAYERS)
    )
    inject_adapter_in_model(config, decoder)


def merge_lora(state: dict[str, Tensor], settings: Lora) -> dict[str, Tensor]:
    """Returns the state dict of a model after `add_lora` with its adapters merged: W + alpha / rank * B A."""
    merged = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        if _BASE in name:
            a, b = (state[name.replace(_BASE, f".lora_{matrix}.default.")].double() for matrix in "AB")
            tensor = (tensor.double() + settings.alpha / settings.rank * (b @ a)).to(torch.float32)
        merged[name.replace(_BASE, ".")] = tensor
    return merged
