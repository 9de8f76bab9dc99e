"""Initialises a Penguin-Encoder from a text-only LLM, any Qwen3 checkpoint (paper: arXiv 2603.06569).

Layers, norms and per-head q/k norms are copied; the patch embedding is new. Bidirectional attention and the
two-dimensional rotary embedding need no parameters.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from penguin_models.config import EncoderConfig, read_json
from penguin_models.encoder import PenguinEncoder
from penguin_models.errors import CheckpointError
from penguin_models.hub import resolve_checkpoint
from penguin_models.tensor_files import StoredTensor, check_tensors, copy_tensors, index_tensors

LLM_MODEL_TYPE = "qwen3"
# `index_tensors` maps an LLM's "model." to this; a base model without head has no prefix.
_LLM_PREFIX = "language_model.model."


def convert_llm_to_encoder(
    llm: str | Path, num_hidden_layers: int | None = None, patch_size: int = 14, seed: int = 0
) -> PenguinEncoder:
    """Returns an encoder in float32 with the first or all layers of a Qwen3 checkpoint (`model_type` "qwen3").

    The new patch embedding is normal with the LLM's initializer_range, its bias zero.

    Raises:
        CheckpointError: The checkpoint is missing, not a Qwen3 model, has too few layers, or does not fit its
            configuration.
    """
    folder = resolve_checkpoint(llm)
    raw = read_json(folder / "config.json")
    if raw.get("model_type") != LLM_MODEL_TYPE:
        raise CheckpointError(
            f"{folder} is a {raw.get('model_type')!r} model; an encoder starts from a {LLM_MODEL_TYPE!r} model"
        )
    config = EncoderConfig.from_dict(raw | {"patch_size": patch_size, "num_channels": 3})
    layers = config.num_hidden_layers if num_hidden_layers is None else num_hidden_layers
    if not 0 < layers <= config.num_hidden_layers:
        raise CheckpointError(f"{layers} encoder layers were requested, but {folder} has {config.num_hidden_layers}")
    encoder = PenguinEncoder(replace(config, num_hidden_layers=layers))
    stored = _encoder_part(index_tensors(folder), layers)
    parameters = {n: p for n, p in encoder.named_parameters() if not n.startswith("embeddings.")}
    check_tensors(folder, {name: tuple(p.shape) for name, p in parameters.items()}, stored)
    copy_tensors(stored, parameters)
    embedding = encoder.embeddings.patch_embedding
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(embedding.weight, std=raw.get("initializer_range", 0.02), generator=generator)
    assert embedding.bias is not None
    nn.init.zeros_(embedding.bias)
    return encoder


def _encoder_part(stored: dict[str, StoredTensor], layers: int) -> dict[str, StoredTensor]:
    """Returns the LLM's layers and final norm under their names in `PenguinEncoder`."""
    part = {}
    for name, tensor in stored.items():
        rest = name.removeprefix(_LLM_PREFIX)
        if rest == "norm.weight" or (rest.startswith("layers.") and int(rest.split(".")[1]) < layers):
            part[f"encoder.{rest}"] = tensor
    return part
