"""Attention of a decoder over packed samples: causal inside each sample, nothing across.

transformers' Qwen3 takes it under the name `PACKED` (`set_attn_implementation`) and passes on what `packing` gives to
the decoder's call. No mask is built: on CUDA in 16 bit torch's packed flash attention runs over all samples at once,
elsewhere each sample goes through torch's fused attention by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from penguin_models.encoder import packed_attention_available

PACKED = "penguin_packed"


@dataclass(eq=False)
class Packing:
    """Where the samples of a micro-batch lie. An object, so that compiled layers do not look into it.

    Attributes:
        lengths: tokens of each sample.
        starts: int32 [samples + 1], on the decoder's device.
    """

    lengths: list[int]
    starts: Tensor


def packing(lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """What the decoder's call needs besides embeddings and positions.

    Args:
        lengths: tokens of each sample; they add up to the sequence.
        device: of the decoder.
    """
    starts = torch.tensor([0, *lengths]).cumsum(0)
    return {"packing": Packing(list(lengths), starts.to(device=device, dtype=torch.int32))}


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packing: Packing | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attends inside each sample.

    Args:
        module: transformers' attention layer.
        query: [1, heads, T, head_dim].
        key: [1, key-value heads, T, head_dim].
        value: as `key`.
        attention_mask: none is used.
        scaling: of the scores.
        packing: of the samples.

    Returns:
        [1, T, heads, head_dim], and no weights.
    """
    assert attention_mask is None and packing is not None and query.shape[0] == 1
    if packed_attention_available(value):
        return _attend_together(query, key, value, scaling, packing), None
    return _attend_one_by_one(query, key, value, scaling, packing), None


def _attend_together(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, packing: Packing) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    # Norms and rotation leave float32 under autocast.
    q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))  # [T, heads, head_dim]
    causal, grouped = (-1, 0), q.shape[1] != k.shape[1]
    starts, longest = packing.starts, max(packing.lengths)
    attended = varlen_attn(
        q, k, v, starts, starts, longest, longest, scale=scaling, window_size=causal, enable_gqa=grouped
    )
    assert isinstance(attended, Tensor)
    return attended[None]


# The lengths are other ones in every batch: a compiled layer stops here and goes on after it.
@torch.compiler.disable
def _attend_one_by_one(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, packing: Packing) -> Tensor:
    kind, on_cpu, grouped = value.dtype, value.device.type == "cpu", query.shape[1] != key.shape[1]
    # A CPU does short samples twice as fast in float32; autocast would make them bfloat16.
    with torch.autocast("cpu", enabled=False) if on_cpu else nullcontext():
        pieces = [(x.float() if on_cpu else x.to(kind)).split(packing.lengths, 2) for x in (query, key, value)]
        parts = [
            F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=grouped)
            for q, k, v in zip(*pieces, strict=True)
        ]
        return torch.cat(parts, dim=2).transpose(1, 2).to(kind)


AttentionInterface.register(PACKED, packed_attention)
