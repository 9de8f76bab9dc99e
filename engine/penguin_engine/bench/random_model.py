"""A checkpoint of the released 2B's shapes with random weights: for measurements that need no trained ones."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

from penguin_models.chat import IMAGE, TURN_END
from penguin_models.checkpoint import empty_model
from penguin_models.config import EncoderConfig, ImageConfig, PenguinConfig
from penguin_models.processor import Processor
from penguin_models.tensor_files import released_name

DECODER_2B: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}
ENCODER_2B = EncoderConfig()
_SHARD_BYTES = 2**28
_SPREAD = 0.02


def write_random_checkpoint(
    folder: Path,
    layers: int | None = None,
    dtype: torch.dtype = torch.bfloat16,
    decoder: Mapping[str, Any] = DECODER_2B,
    encoder: EncoderConfig = ENCODER_2B,
) -> None:
    """Writes a checkpoint with random weights, a shard at a time.

    Args:
        folder: where it goes.
        layers: of encoder and decoder; as the shapes say if None.
        dtype: of the weights.
        decoder: shape of the decoder.
        encoder: shape of the encoder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _byte_tokenizer()
    end_id, image_id = (int(tokenizer.token_to_id(token) or 0) for token in (TURN_END, IMAGE))
    if layers is not None:
        decoder = {**decoder, "num_hidden_layers": layers}
        encoder = replace(encoder, num_hidden_layers=layers)
    config = PenguinConfig.create(encoder, dict(decoder), image_id, eos_token_id=end_id)
    Processor(tokenizer, ImageConfig(), image_id, (end_id,)).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config.to_dict(str(dtype).removeprefix("torch."))))

    weight_map: dict[str, str] = {}
    for number, shard in enumerate(_shards(config, dtype)):
        name = f"model-{number:05d}.safetensors"
        save_file(shard, folder / name)
        weight_map |= dict.fromkeys(shard, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _shards(config: PenguinConfig, dtype: torch.dtype) -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shard: dict[str, Tensor] = {}
    size = 0
    for name, parameter in empty_model(config).named_parameters():
        if config.tie_word_embeddings and name.endswith("lm_head.weight"):
            continue
        tensor = torch.empty(parameter.shape, dtype=dtype)
        norm = name.endswith("norm.weight") or "layernorm" in name
        shard[released_name(name)] = tensor.fill_(1.0) if norm else tensor.normal_(0, _SPREAD, generator=generator)
        size += tensor.nbytes
        if size >= _SHARD_BYTES:
            yield shard
            shard, size = {}, 0
    if shard:
        yield shard


def _byte_tokenizer() -> Tokenizer:
    """One token a byte, and the two special tokens that a processor needs."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (TURN_END, IMAGE)])
    return tokenizer
