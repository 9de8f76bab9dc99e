"""A trained stage -> a checkpoint folder: the released layout, or a Qwen3 checkpoint after a text stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import Qwen3ForCausalLM

from penguin_models.checkpoint import DTYPES, save_pretrained
from penguin_models.checkpoint import empty_model as empty_penguin
from penguin_training.model.initial_weights import decoder_config
from penguin_training.model.lora import merge_lora
from penguin_training.settings.blueprint import Blueprint
from penguin_training.settings.stage import StageSettings

_TEXT_PREFIX = "language_model."


def gather_weights(model: nn.Module, averaged: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """All weights of a model on the CPU of the first process; every process must call this.

    Args:
        model: a `StageModel`, maybe wrapped or sharded.
        averaged: weights that take the place of those with the same names.

    Returns:
        By the names of `StageModel`; empty on other processes of a sharded model.
    """
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    for name, tensor in (averaged or {}).items():
        whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if name in state:
            state[name] = whole.cpu()
    return state


def write_checkpoint(
    state: dict[str, Tensor], settings: StageSettings, blueprint: Blueprint, folder: Path, dtype: str
) -> None:
    """Writes a checkpoint that `load_pretrained` reads, after a text stage one that transformers reads.

    Args:
        state: what `gather_weights` returned.
        settings: of the stage; low-rank matrices are merged.
        blueprint: of its model.
        folder: where to.
        dtype: of the weights.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    if settings.lora:
        state = merge_lora(state, settings.lora)
    state = {name: tensor.to(DTYPES[dtype]) for name, tensor in state.items() if not name.startswith("vision_adapter.")}
    if blueprint.penguin is None:
        _write_decoder(state, blueprint, folder)
        return
    model = empty_penguin(blueprint.penguin)
    _assign(model, state)
    save_pretrained(model, blueprint.processor, folder)


def _write_decoder(state: dict[str, Tensor], blueprint: Blueprint, folder: Path) -> None:
    with torch.device("meta"):
        model = Qwen3ForCausalLM(decoder_config(blueprint))
    _assign(model, {name.removeprefix(_TEXT_PREFIX): tensor for name, tensor in state.items()})
    model.save_pretrained(folder)
    blueprint.processor.save_pretrained(folder)


def _assign(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Gives a model on the meta device its tensors; tied ones are tied again."""
    model.load_state_dict(state, strict=False, assign=True)
    decoder = getattr(model, "language_model", model)
    decoder.tie_weights()
    without = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    assert not without, without
