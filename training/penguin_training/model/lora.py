"""Low-rank training of the decoder with peft: adapters are added to linear layers, and merged for a checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from penguin_models.errors import SettingError
from penguin_training.settings.stage import Lora

_BASE = ".base_layer."


def add_lora(decoder: nn.Module, settings: Lora) -> None:
    """Adds adapters, which initially change nothing, to the linear layers that the settings name.

    Raises:
        SettingError: the decoder has no such layers, or the weights of one are also the embeddings.
    """
    from peft import LoraConfig, inject_adapter_in_model

    known = {name.rpartition(".")[2] for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
    unknown = [name for name in settings.modules if name not in known]
    if unknown:
        raise SettingError(f"lora.modules names {', '.join(unknown)}; the decoder has {', '.join(sorted(known))}")
    if "lm_head" in settings.modules and decoder.config.tie_word_embeddings:  # type: ignore[union-attr]
        raise SettingError("lora.modules names lm_head, whose weights are also the embeddings; remove it")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.modules),
        bias="none",
    )
    inject_adapter_in_model(config, decoder)


def merge_lora(state: dict[str, Tensor], settings: Lora) -> dict[str, Tensor]:
    """Returns the state dict of a model after `add_lora` with its adapters merged: W + alpha / rank * B A."""
    merged = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        if _BASE in name:
            pattern = name.replace(_BASE, ".{}.")
            a = state[pattern.format("lora_A.default")]
            b = state[pattern.format("lora_B.default")]
            change = (b.double() @ a.double()) * (settings.alpha / settings.rank)
            tensor = (tensor.double() + change).to(torch.float32)
            name = name.replace(_BASE, ".")
        merged[name] = tensor
    return merged
