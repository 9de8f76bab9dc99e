"""Penguin-Encoder and projector on vLLM's layers, sharded over tensor-parallel processes.

The arithmetic is that of `penguin_models/encoder.py`, whose patch embedding and rotary embedding are used. Each process
holds part of the heads and of the feed-forward width.

Axes: N patches of all frames, packed; D hidden; A heads; K key-value heads (both of this process); E head_dim.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.attention.mm_encoder_attention import MMEncoderAttention
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)
from vllm.model_executor.models.qwen3 import Qwen3Model
from vllm.model_executor.models.utils import AutoWeightsLoader
from vllm.model_executor.models.vision import get_vit_attn_backend
from vllm.v1.attention.backends.registry import AttentionBackendEnum

from penguin_models.config import EncoderConfig
from penguin_models.encoder import FrameShape, PatchEmbeddings, rotary_table, rotate
from penguin_models.errors import SettingError
from penguin_models.images import patch_positions


@dataclass(frozen=True)
class PackedFrames:
    """Layout of a packed sequence of frames."""

    cos: Tensor  # [N, 1, E], see `rotary_table`
    sin: Tensor  # [N, 1, E]
    cu_seqlens: Tensor  # int32 [frames + 1], index of first patches
    max_seqlen: Tensor  # int32 [], patches of the longest frame; 0 if the attention does not need it


class FrameAttention(nn.Module):
    """Bidirectional grouped-query attention inside each frame of a packed sequence."""

    def __init__(self, config: EncoderConfig, prefix: str):
        super().__init__()
        self.head_dim = config.head_dim
        self.qkv_proj = QKVParallelLinear(
            config.hidden_size,
            config.head_dim,
            config.num_attention_heads,
            config.num_key_value_heads,
            bias=False,
            prefix=f"{prefix}.qkv_proj",
            return_bias=False,
        )
        self.o_proj = RowParallelLinear(
            config.num_attention_heads * config.head_dim,
            config.hidden_size,
            bias=False,
            prefix=f"{prefix}.o_proj",
            return_bias=False,
        )
        self.q_norm = RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.heads, self.kv_heads = self.qkv_proj.num_heads, self.qkv_proj.num_kv_heads
        self.attn = MMEncoderAttention(
            self.heads, config.head_dim, config.head_dim**-0.5, self.kv_heads, prefix=f"{prefix}.attn"
        )

    def forward(self, x: Tensor, packed: PackedFrames) -> Tensor:
        """Attends inside each frame: [N, D] -> [N, D]."""
        q, k, v = self.qkv_proj(x).view(len(x), -1, self.head_dim).split([self.heads, self.kv_heads, self.kv_heads], 1)
        q = rotate(self.q_norm(q.contiguous()), packed.cos, packed.sin)
        k = rotate(self.k_norm(k.contiguous()), packed.cos, packed.sin)
        attended = self.attn(q[None], k[None], v[None], cu_seqlens=packed.cu_seqlens, max_seqlen=packed.max_seqlen)
        return self.o_proj(attended.reshape(len(x), -1))  # type: ignore[no-any-return]


class GatedMLP(nn.Module):
    """SiLU-gated feed-forward layer."""

    def __init__(self, config: EncoderConfig, prefix: str):
        super().__init__()
        self.gate_up_proj = MergedColumnParallelLinear(
            config.hidden_size,
            [config.intermediate_size] * 2,
            bias=False,
            prefix=f"{prefix}.gate_up_proj",
            return_bias=False,
        )
        self.down_proj = RowParallelLinear(
            config.intermediate_size, config.hidden_size, bias=False, prefix=f"{prefix}.down_proj", return_bias=False
        )
        self.activation = SiluAndMul()

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, D] -> [N, D]."""
        return self.down_proj(self.activation(self.gate_up_proj(x)))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual."""

    def __init__(self, config: EncoderConfig, prefix: str):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = FrameAttention(config, f"{prefix}.self_attn")
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = GatedMLP(config, f"{prefix}.mlp")

    def forward(self, x: Tensor, packed: PackedFrames) -> Tensor:
        """Maps [N, D] -> [N, D]."""
        x = x + self.self_attn(self.input_layernorm(x), packed)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class EncoderLayers(nn.Module):
    """The transformer layers and the final norm."""

    def __init__(self, config: EncoderConfig, prefix: str):
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(config, f"{prefix}.layers.{i}") for i in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, x: Tensor, packed: PackedFrames) -> Tensor:
        """Maps [N, D] -> [N, D]."""
        for layer in self.layers:
            x = layer(x, packed)
        return self.norm(x)  # type: ignore[no-any-return]


class PenguinEncoder(nn.Module):
    """The vision encoder: patches of frames of any sizes -> one feature vector per visual token."""

    def __init__(self, config: EncoderConfig, prefix: str):
        super().__init__()
        self.config = config
        self.embeddings = PatchEmbeddings(config)
        self.encoder = EncoderLayers(config, f"{prefix}.encoder")
        self.backend = get_vit_attn_backend(config.head_dim, torch.get_default_dtype())  # as its layers choose it
        if self.backend == AttentionBackendEnum.FLASHINFER:
            raise SettingError("mm_encoder_attn_backend FLASHINFER cannot group queries; use FLASH_ATTN or TORCH_SDPA")

    def forward(self, patches: Tensor, frames: Sequence[FrameShape]) -> Tensor:
        """Encodes frames of one merge size: patches [N, C*P*P], frame after frame in block order -> [tokens, D]."""
        x = self.embeddings(patches)
        x = self.encoder(x, self._pack(frames, x))
        return x.view(-1, frames[0].merge_size ** 2, x.shape[-1]).mean(dim=1)  # type: ignore[no-any-return]

    def _pack(self, frames: Sequence[FrameShape], like: Tensor) -> PackedFrames:
        positions = torch.tensor(np.concatenate([patch_positions(frame.grid, frame.merge_size) for frame in frames]))
        cos, sin = rotary_table(positions.to(like.device), self.config.head_dim, self.config.rope_theta)
        starts = np.cumsum([0, *(frame.patches for frame in frames)], dtype=np.int32)
        longest = MMEncoderAttention.compute_max_seqlen(self.backend, starts)
        return PackedFrames(
            cos.to(like.dtype),
            sin.to(like.dtype),
            torch.from_numpy(starts).to(like.device),
            torch.tensor(longest, dtype=torch.int32),
        )

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Loads weights by their names in `penguin_models.encoder`; returns the names of what was loaded."""
        return AutoWeightsLoader(self).load_weights(weights, mapper=Qwen3Model.hf_to_vllm_mapper)  # type: ignore[no-any-return]


class Projector(nn.Module):
    """Features of the encoder -> embeddings of the decoder: two linear layers with bias and a GELU between them."""

    def __init__(self, vision_size: int, hidden_size: int, prefix: str):
        super().__init__()
        self.readout = nn.Sequential(
            ColumnParallelLinear(vision_size, hidden_size, prefix=f"{prefix}.readout.0", return_bias=False),
            nn.GELU(),
            RowParallelLinear(hidden_size, hidden_size, prefix=f"{prefix}.readout.2", return_bias=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Projects features: [tokens, vision_size] -> [tokens, hidden_size]."""
        return self.readout(features)  # type: ignore[no-any-return]
