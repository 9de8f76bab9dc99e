"""Low-rank training of the decoder (peft): matrices are put beside its linear layers, and merged for a checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from penguin_models.errors import SettingError
from penguin_training.settings.stage import Lora

_BASE = ".base_layer."


def add_lora(decoder: nn.Module, settings: Lora) -> None:
    """Puts matrices beside the linear layers that the settings name; the first ones change nothing.

    Raises:
        SettingError: the decoder has no such layers, or a layer's weights are also those of the embeddings.
    """
    from peft import LoraConfig, inject_adapter_in_model

    ends = {name.rpartition(".")[2] for name, module in decoder.named_modules() if isinstance(module, nn.Linear)}
    unknown = [name for name in settings.modules if name not in ends]
    if unknown:
        raise SettingError(f"lora.modules names {', '.join(unknown)}; the decoder has {', '.join(sorted(ends))}")
    if "lm_head" in settings.modules and decoder.config.tie_word_embeddings:  # type: ignore[union-attr]
        raise SettingError("lora.modules names lm_head, whose weights are also the embeddings; leave it out")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.modules),
        bias="none",
    )
    inject_adapter_in_model(config, decoder)


def merge_lora(state: dict[str, Tensor], settings: Lora) -> dict[str, Tensor]:
    """A state dict without low-rank matrices: W + alpha / rank * B A.

    Args:
        state: of a decoder, or of a model that holds one, after `add_lora`.
        settings: those of `add_lora`.
    """
    merged = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        if _BASE in name:
            stem = name.replace(_BASE, ".{}.")
            a = state[stem.format("lora_A.default")]
            b = state[stem.format("lora_B.default")]
            change = (b.double() @ a.double()) * (settings.alpha / settings.rank)
            tensor = (tensor.double() + change).to(torch.float32)
            name = name.replace(_BASE, ".")
        merged[name] = tensor
    return merged
