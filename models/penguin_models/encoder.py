"""Penguin-Encoder: a vision transformer with the layers of a Qwen3 LLM (paper: arXiv 2603.06569).

Attention is bidirectional inside a frame and never crosses frames, so a frame's features depend only on its pixels and
size, and frames can be encoded in any order and grouping. Parameter names are those of released checkpoints.

Axes: N patches of all frames, packed; D hidden; A heads; K key-value heads; E head_dim.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from penguin_models.config import EncoderConfig
from penguin_models.images import patch_positions
from penguin_models.types import Size

MAX_PATCHES_PER_PASS = 4096
"""Without gradients, frames are encoded in passes of about this many patches: memory does not grow with the video."""


@dataclass(frozen=True)
class FrameShape:
    """Patch grid of one frame; each block of merge_size x merge_size patches becomes one visual token."""

    grid: Size
    merge_size: int

    @property
    def patches(self) -> int:
        """Number of patches."""
        return self.grid.area


@dataclass(eq=False)  # not frozen: torch.compile would specialise on its values and recompile for other lengths
class PackedFrames:
    """Layout of a packed sequence of frames; frames of equal length are neighbours."""

    runs: tuple[tuple[int, int], ...]  # (number of frames, patches per frame) for each run of equal length
    cos: Tensor  # [N, 1, E], see `rotary_table`
    sin: Tensor  # [N, 1, E]
    cu_seqlens: Tensor | None  # int32 [frames + 1], index of first patches; None without packed attention


def rotary_frequencies(head_dim: int, theta: float) -> Tensor:
    """Returns the angle per row or column of each pair of a head, float32 [E/2]."""
    return theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


def rotary_table(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Returns cos and sin of the released 2D rotary embedding, float32 [N, 1, E]: out = x * cos + rotate_half(x) * sin.

    Both axes use the same frequencies f. In both factors, the first half of a head uses the angle row * f and the
    second half column * f, so the two halves of a pair turn by different angles. That is not a rotation, but it is what
    the released code computes and checkpoints were trained with. `positions` are rows and columns of patches, [N, 2].
    """
    frequencies = rotary_frequencies(head_dim, theta).to(positions.device)  # [E/2]
    angles = (positions.float()[:, :, None] * frequencies).flatten(1)[:, None]  # [N, 1, E]: rows, then columns
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Applies `rotary_table` to queries or keys [N, heads, E]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class RMSNorm(nn.RMSNorm):
    """torch's root-mean-square norm, also fused under autocast: the fused kernel needs weights of the input's type."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last axis."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class FrameAttention(nn.Module):
    """Grouped-query attention inside each frame of a packed sequence."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        hidden, self.head_dim = config.hidden_size, config.head_dim
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.q_proj = nn.Linear(hidden, heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(hidden, kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * self.head_dim, hidden, bias=False)
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)

    def forward(self, x: Tensor, packed: PackedFrames) -> Tensor:
        """Attends inside each frame: [N, D] -> [N, D]."""
        heads = (x.shape[0], -1, self.head_dim)
        q = rotate(self.q_norm(self.q_proj(x).view(heads)), packed.cos, packed.sin)
        k = rotate(self.k_norm(self.k_proj(x).view(heads)), packed.cos, packed.sin)
        v = self.v_proj(x).view(heads)
        attend = _attend_in_runs if packed.cu_seqlens is None else _attend_packed
        attended = attend(q, k, v, packed)
        return self.o_proj(attended.flatten(1))  # type: ignore[no-any-return]


class GatedMLP(nn.Module):
    """SiLU-gated feed-forward layer."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, D] -> [N, D]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = FrameAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config)

    def forward(self, x: Tensor, packed: PackedFrames) -> Tensor:
        """Maps [N, D] -> [N, D]."""
        x = x + self.self_attn(self.input_layernorm(x), packed)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class PatchEmbeddings(nn.Module):
    """The patch embedding: a convolution with kernel = stride, computed as one matrix product."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        p = config.patch_size
        self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, kernel_size=p, stride=p)

    def forward(self, patches: Tensor) -> Tensor:
        """Embeds flattened patches: [N, C*P*P] -> [N, D]."""
        weight, bias = self.patch_embedding.weight, self.patch_embedding.bias
        return F.linear(patches.to(weight.dtype), weight.flatten(1), bias)


class EncoderLayers(nn.Module):
    """The transformer layers and the final norm."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False

    def forward(self, x: Tensor, packed: PackedFrames) -> Tensor:
        """Maps [N, D] -> [N, D]."""
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(layer, x, packed, use_reentrant=False)
            else:
                x = layer(x, packed)
        return self.norm(x)  # type: ignore[no-any-return]


class PenguinEncoder(nn.Module):
    """The vision encoder: patches of frames of any sizes -> one feature vector per visual token."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.embeddings = PatchEmbeddings(config)
        self.encoder = EncoderLayers(config)

    def forward(self, patches: Tensor, frames: Sequence[FrameShape]) -> Tensor:
        """Encodes frames of any sizes: patches [N, C*P*P], frame after frame in block order -> [tokens, D].

        A token is the mean, after the final norm, of a merge_size x merge_size block. For merge_size 2 this equals the
        released code's bilinear downsampling.
        """
        if not frames:
            return patches.new_empty(0, self.config.hidden_size)
        lengths = [frame.patches for frame in frames]
        assert sum(lengths) == patches.shape[0], f"got {patches.shape[0]} patches, the frames have {sum(lengths)}"
        by_frame = torch.split(patches, lengths)
        # Attention in runs needs frames of equal length as neighbours; the order is restored at the end.
        order = sorted(range(len(frames)), key=lambda i: (lengths[i], frames[i].merge_size))
        limit = patches.shape[0] if torch.is_grad_enabled() else MAX_PATCHES_PER_PASS
        features: dict[int, Tensor] = {}
        for indices in _passes(order, lengths, limit):
            x = torch.cat([by_frame[i] for i in indices])
            x = self.embeddings(x.to(self.embeddings.patch_embedding.weight.device))
            # Cos and sin follow the type of the embeddings, under autocast too.
            x = self.encoder(x, self._pack([frames[i] for i in indices], x))
            for i, feature in zip(indices, torch.split(x, [lengths[i] for i in indices]), strict=True):
                features[i] = _merge(feature, frames[i].merge_size)
        return torch.cat([features[i] for i in range(len(frames))])

    def _pack(self, frames: Sequence[FrameShape], like: Tensor) -> PackedFrames:
        positions = torch.tensor(np.concatenate([patch_positions(frame.grid, frame.merge_size) for frame in frames]))
        cos, sin = rotary_table(positions.to(like.device), self.config.head_dim, self.config.rope_theta)
        lengths = [frame.patches for frame in frames]
        runs = tuple((len(list(group)), length) for length, group in groupby(lengths))
        cu_seqlens = None
        if packed_attention_available(like):
            cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(device=like.device, dtype=torch.int32)
        return PackedFrames(runs, cos.to(like.dtype), sin.to(like.dtype), cu_seqlens)


def packed_attention_available(like: Tensor) -> bool:
    """Returns whether torch's packed flash attention supports this device and type (CUDA, 16 bits, grouped queries)."""
    if like.device.type != "cuda" or like.dtype not in (torch.float16, torch.bfloat16):
        return False
    return _varlen_shares_heads() and torch.cuda.get_device_capability(like.device) >= (8, 0)


@cache
def _varlen_shares_heads() -> bool:
    """Returns whether this torch has packed grouped-query attention; attention in runs gives the same numbers."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def _attend_packed(q: Tensor, k: Tensor, v: Tensor, packed: PackedFrames) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    longest = max(length for _, length in packed.runs)
    cu = packed.cu_seqlens
    assert cu is not None
    attended = varlen_attn(q, k, v, cu, cu, longest, longest, enable_gqa=q.shape[1] != k.shape[1])
    assert isinstance(attended, Tensor)
    return attended


# Lengths differ between batches, so a compiled layer breaks its graph here instead of recompiling.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend_in_runs(q: Tensor, k: Tensor, v: Tensor, packed: PackedFrames) -> Tensor:
    """Attends inside each frame, batched over runs of frames of equal length: [N, heads, E] -> [N, A, E]."""
    attended, start, dtype = [], 0, v.dtype
    # On CPUs, the gradient of fused attention takes twice as long in bfloat16, which autocast would restore.
    widened = v.device.type == "cpu" and torch.is_grad_enabled()
    with torch.autocast("cpu", enabled=False) if widened else nullcontext():
        q, k, v = (x.float() for x in (q, k, v)) if widened else (q, k, v)
        for frames, length in packed.runs:
            end = start + frames * length
            # [frames, heads, n, E]
            qs, ks, vs = (x[start:end].view(frames, length, -1, x.shape[-1]).transpose(1, 2) for x in (q, k, v))
            out = F.scaled_dot_product_attention(qs, ks, vs, enable_gqa=q.shape[1] != k.shape[1])
            attended.append(out.transpose(1, 2).flatten(0, 1))
            start = end
    return torch.cat(attended).to(dtype)


def _merge(features: Tensor, merge_size: int) -> Tensor:
    """Averages each block: [n, D] in block order -> [n / merge_size^2, D]."""
    return features if merge_size == 1 else features.view(-1, merge_size**2, features.shape[-1]).mean(dim=1)


def _passes(order: Sequence[int], lengths: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Cuts frames into passes of at most `limit` patches; a longer frame is a pass of its own."""
    current: list[int] = []
    patches = 0
    for i in order:
        if current and patches + lengths[i] > limit:
            yield current
            current, patches = [], 0
        current.append(i)
        patches += lengths[i]
    yield current
