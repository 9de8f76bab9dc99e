"""Penguin-Encoder: a transformer with the layers of a Qwen3 LLM that reads image patches.

Attention is bidirectional inside a frame and never crosses frames, so a frame's features depend only on its pixels and
size, and frames can be encoded in any order and grouping. Parameter names are those of released checkpoints.

Axes: N patches of all frames, packed; D hidden; A heads; K key-value heads; E head_dim.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from penguin_models.config import EncoderConfig
from penguin_models.types import Size

MAX_PATCHES_PER_PASS = 4096
"""Frames are encoded in passes of about this many patches: memory stays constant, however long the video."""


@dataclass(frozen=True)
class FrameShape:
    """Patch grid of one frame and how many patches a side become one token."""

    grid: Size
    merge_size: int

    @property
    def patches(self) -> int:
        """Patches of the frame."""
        return self.grid.area


@dataclass(eq=False)  # not frozen: a compiled layer would look into it, and be compiled anew for other lengths
class Packing:
    """Where each frame lies in a packed sequence; frames of equal length lie side by side.

    Attributes:
        runs: (frames, patches of each) for runs of frames of equal length.
        cos: [N, 1, E], see `rotary_table`.
        sin: [N, 1, E].
        cu_seqlens: int32 [frames + 1], first patch of each frame; only where packed attention is used.
    """

    runs: tuple[tuple[int, int], ...]
    cos: Tensor
    sin: Tensor
    cu_seqlens: Tensor | None


@lru_cache(maxsize=256)
def patch_positions(grid: Size, merge_size: int) -> Tensor:
    """Row and column of each patch of a frame in block order: int64 [N, 2]."""
    m = merge_size
    with torch.inference_mode(False):  # they are kept, perhaps for somebody who trains
        rows, columns = torch.meshgrid(torch.arange(grid.height), torch.arange(grid.width), indexing="ij")
        positions = torch.stack((rows, columns), dim=-1).view(grid.height // m, m, grid.width // m, m, 2)
        return positions.transpose(1, 2).reshape(-1, 2)


def rotary_frequencies(head_dim: int, theta: float) -> Tensor:
    """Angles per row or column, float32 [E/2]."""
    return theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


def rotary_table(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Factors of the released 2D rotary embedding: out = x * cos + rotate_half(x) * sin.

    Both axes use the same frequencies f. The first half of a head takes the angle row * f in both factors, the second
    half the angle column * f. The two halves of a pair thus turn by different angles: not a rotation, but what
    checkpoints were trained with.

    Args:
        positions: [N, 2] row and column of each patch.
        head_dim: E.
        theta: base of the frequencies.

    Returns:
        cos and sin, float32 [N, 1, E].
    """
    frequencies = rotary_frequencies(head_dim, theta).to(positions.device)  # [E/2]
    angles = (positions.float()[:, :, None] * frequencies).flatten(1)[:, None]  # [N, 1, E]: rows, then columns
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Applies `rotary_table` to queries or keys [N, heads, E]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class RMSNorm(nn.Module):
    """Root-mean-square norm; computed in float32 whatever the type of its input."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last axis."""
        # One kernel does it where both types are the same; under autocast they are not.
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

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """Attends inside each frame: [N, D] -> [N, D]."""
        heads = (x.shape[0], -1, self.head_dim)
        q = rotate(self.q_norm(self.q_proj(x).view(heads)), packing.cos, packing.sin)
        k = rotate(self.k_norm(self.k_proj(x).view(heads)), packing.cos, packing.sin)
        v = self.v_proj(x).view(heads)
        attend = _attend_in_runs if packing.cu_seqlens is None else _attend_packed
        attended = attend(q, k, v, packing)
        return self.o_proj(attended.flatten(1))  # type: ignore[no-any-return]


class GatedMLP(nn.Module):
    """SiLU-gated feed-forward layer."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, D] -> [N, D]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = FrameAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMLP(config)

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """[N, D] -> [N, D]."""
        x = x + self.self_attn(self.input_layernorm(x), packing)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class PatchEmbeddings(nn.Module):
    """The patch embedding: a convolution whose kernel is its stride, hence one matrix product per patch."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        p = config.patch_size
        self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, kernel_size=p, stride=p)

    def forward(self, patches: Tensor) -> Tensor:
        """Flattened patches [N, C*P*P] -> [N, D]."""
        weight, bias = self.patch_embedding.weight, self.patch_embedding.bias
        return F.linear(patches.to(weight.dtype), weight.flatten(1), bias)


class EncoderLayers(nn.Module):
    """The transformer layers and the final norm."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False

    def forward(self, x: Tensor, packing: Packing) -> Tensor:
        """[N, D] -> [N, D]."""
        for layer in self.layers:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(layer, x, packing, use_reentrant=False)
            else:
                x = layer(x, packing)
        return self.norm(x)  # type: ignore[no-any-return]


class PenguinEncoder(nn.Module):
    """The vision encoder: patches of frames of any sizes -> one feature vector per visual token."""

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.embeddings = PatchEmbeddings(config)
        self.encoder = EncoderLayers(config)

    def forward(self, patches: Tensor, frames: Sequence[FrameShape]) -> Tensor:
        """Encodes frames of any sizes.

        Without gradients the frames go through in passes of about `MAX_PATCHES_PER_PASS` patches.

        Args:
            patches: [N, C*P*P], the patches of all frames one after the other, each frame in block order. May lie on
                another device than the weights.
            frames: shape of each frame; their patches add up to N.

        Returns:
            [tokens, D]: after the final norm, the mean of each merge_size x merge_size block (the bilinear
            downsampling of the reference is this mean for merge_size 2), frames in the given order.
        """
        total = sum(frame.patches for frame in frames)
        assert total == patches.shape[0], f"{patches.shape[0]} patches given, the frames have {total}"
        starts, start = [], 0
        for frame in frames:
            starts.append(start)
            start += frame.patches
        # Frames of equal length side by side, for attention in runs; undone at the end.
        order = sorted(range(len(frames)), key=lambda i: (frames[i].patches, frames[i].merge_size))
        limit = total if torch.is_grad_enabled() else MAX_PATCHES_PER_PASS
        features: dict[int, Tensor] = {}
        for indices in _passes(order, frames, limit):
            chunk = torch.cat([patches[starts[i] : starts[i] + frames[i].patches] for i in indices])
            encoded = self._encode([frames[i] for i in indices], chunk)
            for i, feature in zip(indices, torch.split(encoded, [frames[i].patches for i in indices]), strict=True):
                features[i] = _merge(feature, frames[i].merge_size)
        if not features:
            return patches.new_empty(0, self.config.hidden_size)
        return torch.cat([features[i] for i in range(len(frames))])

    def _encode(self, frames: Sequence[FrameShape], patches: Tensor) -> Tensor:
        x = self.embeddings(patches.to(self.embeddings.patch_embedding.weight.device))
        # The type of the embeddings is that of all that follows, under autocast too.
        return self.encoder(x, self._pack(frames, x))  # type: ignore[no-any-return]

    def _pack(self, frames: Sequence[FrameShape], like: Tensor) -> Packing:
        positions = torch.cat([patch_positions(frame.grid, frame.merge_size) for frame in frames])
        cos, sin = rotary_table(positions.to(like.device), self.config.head_dim, self.config.rope_theta)
        lengths = [frame.patches for frame in frames]
        runs = tuple((len(list(group)), length) for length, group in groupby(lengths))
        cu_seqlens = None
        if packed_attention_available(like):
            cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(device=like.device, dtype=torch.int32)
        return Packing(runs, cos.to(like.dtype), sin.to(like.dtype), cu_seqlens)


def packed_attention_available(like: Tensor) -> bool:
    """Whether torch's packed flash attention serves this device and type (CUDA, 16 bit, with shared key heads)."""
    if like.device.type != "cuda" or like.dtype not in (torch.float16, torch.bfloat16):
        return False
    return _varlen_shares_heads() and torch.cuda.get_device_capability(like.device) >= (8, 0)


@cache
def _varlen_shares_heads() -> bool:
    """Whether this torch has packed attention with fewer key heads; attention in runs gives the same numbers."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return "enable_gqa" in inspect.signature(varlen_attn).parameters


def _attend_packed(q: Tensor, k: Tensor, v: Tensor, packing: Packing) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    longest = max(length for _, length in packing.runs)
    cu = packing.cu_seqlens
    assert cu is not None
    attended = varlen_attn(q, k, v, cu, cu, longest, longest, enable_gqa=q.shape[1] != k.shape[1])
    assert isinstance(attended, Tensor)
    return attended


# The lengths are other ones in every batch: a compiled layer stops here and goes on after it.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend_in_runs(q: Tensor, k: Tensor, v: Tensor, packing: Packing) -> Tensor:
    """Batched attention over each run of frames of equal length: [N, heads, E] -> [N, A, E]."""
    attended, start, kind = [], 0, v.dtype
    # On CPUs the gradient of fused attention takes twice as long in bfloat16; autocast would make it that again.
    widened = v.device.type == "cpu" and torch.is_grad_enabled()
    with torch.autocast("cpu", enabled=False) if widened else nullcontext():
        q, k, v = (x.float() for x in (q, k, v)) if widened else (q, k, v)
        for frames, length in packing.runs:
            end = start + frames * length
            # [frames, heads, n, E]
            qs, ks, vs = (x[start:end].view(frames, length, -1, x.shape[-1]).transpose(1, 2) for x in (q, k, v))
            out = F.scaled_dot_product_attention(qs, ks, vs, enable_gqa=q.shape[1] != k.shape[1])
            attended.append(out.transpose(1, 2).flatten(0, 1))
            start = end
    return torch.cat(attended).to(kind)


def _merge(features: Tensor, merge_size: int) -> Tensor:
    """Mean of each block: [n, D] in block order -> [n / merge_size^2, D]."""
    return features if merge_size == 1 else features.view(-1, merge_size**2, features.shape[-1]).mean(dim=1)


def _passes(order: Sequence[int], frames: Sequence[FrameShape], limit: int) -> Iterator[list[int]]:
    """Cuts the frames into passes of at most `limit` patches; a larger frame is a pass of its own."""
    current: list[int] = []
    patches = 0
    for i in order:
        if current and patches + frames[i].patches > limit:
            yield current
            current, patches = [], 0
        current.append(i)
        patches += frames[i].patches
    if current:
        yield current
