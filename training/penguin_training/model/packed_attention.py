"""Attention of a decoder over packed samples: causal inside each sample, none between samples.

transformers' Qwen3 uses it under the name `PACKED` (`set_attn_implementation`) and passes on the arguments of
`packed_arguments`. On CUDA in 16 bit, torch's packed flash attention handles all samples at once. Otherwise, and if
a micro-batch has independent turns (which need a mask), each block goes through torch's fused attention by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from penguin_models.encoder import packed_attention_available

PACKED = "penguin_packed"
_GROUP_TOKENS = 128
"""Independent turns attend in groups of about this many tokens: larger groups compute more that is then masked."""


class AttentionBlock(NamedTuple):
    """Consecutive tokens that attend to each other, and to an earlier block that they share with others."""

    tokens: int  # Number of tokens
    shared: int | None = None  # Index of the earlier block, or None
    # bool [tokens, shared tokens + tokens], true where a row attends to a column; None for causal
    mask: Tensor | None = None


@dataclass(eq=False)
class PackedSequences:
    """Where the samples of a micro-batch lie. An object, so that compiled layers do not trace into it."""

    starts: Tensor  # int32 [samples + 1], on the decoder's device
    longest: int  # Tokens of the longest sample
    blocks: list[AttentionBlock]  # One for each sample, more if its turns are independent


def packed_arguments(lengths: Sequence[int], turns: Sequence[Sequence[int]], device: torch.device) -> dict[str, Any]:
    """Returns what the decoder needs besides embeddings and positions; lengths and turns are those of a `Batch`."""
    starts = torch.tensor([0, *lengths]).cumsum(0)
    blocks: list[AttentionBlock] = []
    for length, sample_turns in zip(lengths, turns, strict=True):
        shared, index = length - sum(sample_turns), len(blocks)
        blocks.append(AttentionBlock(shared))
        for group in _group_turns(sample_turns):
            blocks.append(AttentionBlock(sum(group), index, _turns_mask(shared, group).to(device)))
    return {"sequences": PackedSequences(starts.to(device=device, dtype=torch.int32), max(lengths), blocks)}


def _group_turns(turns: Sequence[int]) -> list[list[int]]:
    groups: list[list[int]] = []
    for turn in turns:
        if not groups or sum(groups[-1]) + turn > _GROUP_TOKENS:
            groups.append([])
        groups[-1].append(turn)
    return groups


def _turns_mask(shared: int, turns: Sequence[int]) -> Tensor:
    """Lets each token attend to the shared tokens and to earlier tokens of its own turn."""
    turn_of_token = torch.arange(len(turns)).repeat_interleave(torch.tensor(turns), output_size=sum(turns))
    own = (turn_of_token == turn_of_token[:, None]).tril()
    return torch.cat((own.new_ones(len(turn_of_token), shared), own), 1)


def packed_attention(
    module: nn.Module,
    query: Tensor,  # [1, heads, T, head_dim]
    key: Tensor,  # [1, key-value heads, T, head_dim]
    value: Tensor,  # as key
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sequences: PackedSequences | None = None,
    **_: Any,
) -> tuple[Tensor, None]:  # [1, T, heads, head_dim]
    """Attends inside each sample; called by transformers' attention layers, which expect weights as second value."""
    assert attention_mask is None and sequences is not None and query.shape[0] == 1
    if packed_attention_available(value) and not any(block.mask is not None for block in sequences.blocks):
        return _attend_together(query, key, value, scaling, sequences), None
    return _attend_by_block(query, key, value, scaling, sequences.blocks), None


def _attend_together(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, sequences: PackedSequences
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    # Norms and rotation leave float32 under autocast.
    q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))  # [T, heads, head_dim]
    causal, grouped = (-1, 0), q.shape[1] != k.shape[1]
    starts, longest = sequences.starts, sequences.longest
    attended = varlen_attn(
        q, k, v, starts, starts, longest, longest, scale=scaling, window_size=causal, enable_gqa=grouped
    )
    assert isinstance(attended, Tensor)
    return attended[None]


# Lengths differ between batches: a compiled layer leaves its graph here and enters it again afterwards.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend_by_block(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, blocks: Sequence[AttentionBlock]
) -> Tensor:
    dtype, on_cpu, grouped = value.dtype, value.device.type == "cpu", query.shape[1] != key.shape[1]
    # On a CPU short samples are twice as fast in float32; autocast would use bfloat16.
    with torch.autocast("cpu", enabled=False) if on_cpu else nullcontext():
        sizes = [block.tokens for block in blocks]
        queries, keys, values = (
            torch.split(x.float() if on_cpu else x.to(dtype), sizes, 2) for x in (query, key, value)
        )
        parts = []
        for q, k, v, block in zip(queries, keys, values, blocks, strict=True):
            if block.shared is not None:
                k = torch.cat((keys[block.shared], k), 2)
                v = torch.cat((values[block.shared], v), 2)
            causal = block.mask is None
            parts.append(
                F.scaled_dot_product_attention(q, k, v, block.mask, is_causal=causal, scale=scaling, enable_gqa=grouped)
            )
        return torch.cat(parts, dim=2).transpose(1, 2).to(dtype)


AttentionInterface.register(PACKED, packed_attention)
