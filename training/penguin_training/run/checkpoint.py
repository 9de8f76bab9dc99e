"""The checkpoint of a trained stage: the released layout, or a Qwen3 checkpoint after a text stage."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from transformers import Qwen3Config, Qwen3ForCausalLM

from penguin_models.atomic_write import atomic_files
from penguin_models.checkpoint import DTYPES, empty_model, save_pretrained
from penguin_models.vlm import PenguinVL
from penguin_training.model.blueprint import Blueprint
from penguin_training.model.lora import merge_lora
from penguin_training.settings.stage import StageSettings

_DECODER = "language_model."


def gather_weights(model: nn.Module, everywhere: bool = False) -> dict[str, Tensor]:
    """Collects all weights of a `StageModel` on the CPU of the first process; every process must call this.

    Other processes of a sharded model get an empty dict. With `everywhere`, each process gets them on its device.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=not everywhere)
    return cast(dict[str, Tensor], get_model_state_dict(model, options=options))


def write_checkpoint(state: dict[str, Tensor], settings: StageSettings, blueprint: Blueprint, folder: Path) -> None:
    """Writes gathered weights as a checkpoint for `load_pretrained`, after a text stage one for transformers.

    Low-rank adapters are merged. Raises WriteError if the folder cannot be written.
    """
    dtype = DTYPES[settings.engine.save_dtype]
    if blueprint.penguin is not None:
        save_pretrained(assemble(state, settings, blueprint, dtype), blueprint.processor, folder)
        return
    state = _as_stored(state, settings, dtype)
    with torch.device("meta"):
        decoder = Qwen3ForCausalLM(Qwen3Config(**blueprint.decoder))
    _assign(decoder, decoder, {name.removeprefix(_DECODER): tensor for name, tensor in state.items()})
    with atomic_files(folder) as staging:
        decoder.save_pretrained(staging)
    blueprint.processor.save_pretrained(folder)


def assemble(state: dict[str, Tensor], settings: StageSettings, blueprint: Blueprint, dtype: torch.dtype) -> PenguinVL:
    """Returns a model of gathered weights, ready to answer; low-rank adapters are merged.

    Weights that have the type already share their memory with it.
    """
    assert blueprint.penguin is not None
    model = empty_model(blueprint.penguin)
    model.end_token_ids = blueprint.processor.end_token_ids
    decoder = model.language_model
    _assign(model, decoder, _as_stored(state, settings, dtype))
    decoder.model.rotary_emb = type(decoder.model.rotary_emb)(decoder.config)  # its frequencies are not parameters
    return model.eval()


def _as_stored(state: dict[str, Tensor], settings: StageSettings, dtype: torch.dtype) -> dict[str, Tensor]:
    """Returns the weights that a checkpoint holds."""
    if settings.lora:
        state = merge_lora(state, settings.lora)
    return {name: tensor.to(dtype) for name, tensor in state.items() if not name.startswith("vision_adapter.")}


def _assign(model: nn.Module, decoder: Qwen3ForCausalLM, state: dict[str, Tensor]) -> None:
    """Gives a model on the meta device its tensors, and ties tied ones again."""
    model.load_state_dict(state, strict=False, assign=True)
    decoder.tie_weights()
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    assert not missing, missing
