"""Runs a checkpoint in float32 without loading it: a block has its weights only while it runs.

Most CPUs multiply bfloat16 many times slower than float32, and a whole checkpoint in float32 may exceed their memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from penguin_models.checkpoint import reserve
from penguin_models.tensor_files import StoredTensor, copy_tensors
from penguin_models.vlm import PenguinVL


def blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Returns the transformer blocks of a model by name."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    return {f"{name}.{number}": block for name, module in lists for number, block in enumerate(module)}


@contextmanager
def streamed(model: PenguinVL, stored: Mapping[str, StoredTensor]) -> Iterator[None]:
    """Lets a model on the meta device run on the CPU in float32, reading each block's weights when the block runs."""
    inside = {name: {k: t for k, t in stored.items() if k.startswith(f"{name}.")} for name in blocks(model)}
    in_blocks = {name for tensors in inside.values() for name in tensors}
    _load(model, {name: tensor for name, tensor in stored.items() if name not in in_blocks})
    decoder: Any = model.language_model
    if model.config.tie_word_embeddings:
        decoder.lm_head.weight = decoder.model.embed_tokens.weight
    decoder.model.rotary_emb = type(decoder.model.rotary_emb)(decoder.config)
    with ExitStack() as hooks:
        for name, block in blocks(model).items():
            load = partial(_load, model, inside[name])
            hooks.enter_context(block.register_forward_pre_hook(lambda module, args, load=load: load()))
            hooks.enter_context(block.register_forward_hook(_free))
        yield


def _load(model: nn.Module, stored: Mapping[str, StoredTensor]) -> None:
    reserve(model, stored, torch.float32, torch.device("cpu"))
    copy_tensors(stored, dict(model.named_parameters()))


def _free(block: nn.Module, args: Any, output: Any) -> None:
    block.to_empty(device="meta")
