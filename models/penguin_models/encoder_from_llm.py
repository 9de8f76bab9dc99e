"""Initialises a Penguin-Encoder from a text-only LLM (paper: arXiv 2603.06569), a Qwen3 or Llama-like checkpoint.

Layers and norms are copied; the patch embedding is new. Bidirectional attention and the two-dimensional rotary
embedding need no parameters. A Llama has no norms of queries and keys: new ones have weights of one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from penguin_models.config import EncoderConfig, read_json
from penguin_models.encoder import PenguinEncoder
from penguin_models.errors import CheckpointError
from penguin_models.hub import resolve_checkpoint
from penguin_models.tensor_files import StoredTensor, check_tensors, copy_tensors, index_tensors

LLAMA_MODEL_TYPES = ("llama", "mistral")
"""Models with the layers of a Qwen3 except for its norms of queries and keys."""
LLM_MODEL_TYPES = ("qwen3", *LLAMA_MODEL_TYPES)
# `index_tensors` maps an LLM's "model." to this; a base model without head has no prefix.
_LLM_PREFIX = "language_model.model."
_NEW_NORMS = (".self_attn.q_norm.weight", ".self_attn.k_norm.weight")
"""Parameters that a Llama lacks; `PenguinEncoder` creates them as ones."""


def convert_llm_to_encoder(
    llm: str | Path, num_hidden_layers: int | None = None, patch_size: int = 14, seed: int = 0
) -> PenguinEncoder:
    """Returns an encoder in float32 with the first or all layers of a checkpoint of one of `LLM_MODEL_TYPES`.

    The new patch embedding is normal with the LLM's initializer_range, its bias zero. Scaling of the rotary embedding
    for long texts is left out: an image has no such positions.

    Raises:
        CheckpointError: The checkpoint is missing, another model, has too few layers, or does not fit its
            configuration.
    """
    folder = resolve_checkpoint(llm)
    raw = read_json(folder / "config.json")
    config = replace(encoder_config(folder, raw), patch_size=patch_size)
    layers = config.num_hidden_layers if num_hidden_layers is None else num_hidden_layers
    if not 0 < layers <= config.num_hidden_layers:
        raise CheckpointError(f"{layers} encoder layers were requested, but {folder} has {config.num_hidden_layers}")
    encoder = PenguinEncoder(replace(config, num_hidden_layers=layers))
    stored = _encoder_part(index_tensors(folder), layers)
    parameters = {n: p for n, p in encoder.named_parameters() if not n.startswith("embeddings.")}
    if raw["model_type"] in LLAMA_MODEL_TYPES:
        parameters = {name: p for name, p in parameters.items() if not name.endswith(_NEW_NORMS)}
    check_tensors(folder, {name: tuple(p.shape) for name, p in parameters.items()}, stored)
    copy_tensors(stored, parameters)
    embedding = encoder.embeddings.patch_embedding
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(embedding.weight, std=raw.get("initializer_range", 0.02), generator=generator)
    assert embedding.bias is not None
    nn.init.zeros_(embedding.bias)
    return encoder


def encoder_config(folder: Path, raw: dict[str, Any]) -> EncoderConfig:
    """Returns the shape of the encoder that an LLM's `config.json` describes; raises CheckpointError if it cannot."""
    kind = raw.get("model_type")
    if kind not in LLM_MODEL_TYPES:
        known = ", ".join(map(repr, LLM_MODEL_TYPES))
        raise CheckpointError(f"{folder} is a {repr(kind)[:200]} model; an encoder starts from one of {known}")
    fields = {name: value for name, value in raw.items() if value is not None}
    if kind in LLAMA_MODEL_TYPES:
        fields = _llama_defaults(fields) | fields
    return EncoderConfig.from_dict(fields | {"patch_size": EncoderConfig.patch_size, "num_channels": 3})


def _llama_defaults(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns what a Llama's `config.json` may leave out."""
    hidden, heads = fields.get("hidden_size"), fields.get("num_attention_heads")
    found: dict[str, Any] = {"num_key_value_heads": heads, "rope_theta": 10_000.0}
    if isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        found["head_dim"] = hidden // heads
    return found


def _encoder_part(stored: dict[str, StoredTensor], layers: int) -> dict[str, StoredTensor]:
    """Returns the LLM's layers and final norm under their names in `PenguinEncoder`."""
    part = {}
    for name, tensor in stored.items():
        rest = name.removeprefix(_LLM_PREFIX)
        if rest == "norm.weight" or (rest.startswith("layers.") and int(rest.split(".")[1]) < layers):
            part[f"encoder.{rest}"] = tensor
    return part
