"""Models with random weights, such as one of the released 2B's shapes, for measurements that need no trained ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from penguin_models.chat import IMAGE, TURN_END, TURN_START
from penguin_models.checkpoint import save_pretrained
from penguin_models.config import EncoderConfig, ImageConfig, PenguinConfig
from penguin_models.processor import Processor
from penguin_models.vlm import PenguinVL

LAYERS_2B = 28
"""Layers of the released encoder and of its decoder."""
DECODER_2B: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": LAYERS_2B,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}
ENCODER_2B = EncoderConfig()
_END_ID, _IMAGE_ID = 256, 257
"""Ids of the special tokens, after those of the bytes."""
_WORDS = TURN_START, "<think>", "</think>", "user", "assistant", "Time"
"""Words of the chat template that are one token in the released tokenizer, too: they make prompts as long."""


def config_2b(layers: int = LAYERS_2B) -> PenguinConfig:
    """Returns the released 2B's shapes with `layers` layers of encoder and decoder."""
    return byte_config(replace(ENCODER_2B, num_hidden_layers=layers), DECODER_2B | {"num_hidden_layers": layers})


def byte_config(encoder: EncoderConfig, decoder: dict[str, Any]) -> PenguinConfig:
    """Returns a configuration for a model whose tokens are bytes."""
    return PenguinConfig.create(encoder, decoder, _IMAGE_ID, eos_token_id=_END_ID)


def random_model(config: PenguinConfig, dtype: torch.dtype, device: str = "cpu") -> PenguinVL:
    """Returns a model with random weights, drawn on the device and always the same there."""
    torch.manual_seed(0)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return PenguinVL(config).eval()
    finally:
        torch.set_default_dtype(previous)


def write_random_checkpoint(
    folder: Path, config: PenguinConfig, dtype: torch.dtype = torch.bfloat16, device: str = "cpu"
) -> None:
    """Writes a checkpoint with random weights, drawn on the device, and a tokenizer of bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (TURN_END, IMAGE)])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in _WORDS])
    processor = Processor(tokenizer, ImageConfig(), _IMAGE_ID, (_END_ID,))
    save_pretrained(random_model(config, dtype, device), processor, folder)
