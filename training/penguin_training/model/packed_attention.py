"""Attention of a decoder over packed samples: causal inside each sample, nothing across.

transformers' Qwen3 takes it under the name `PACKED` (`set_attn_implementation`) and passes on what `packing` gives to
the decoder's call. On CUDA in 16 bit torch's packed flash attention runs over all samples at once, elsewhere each
sample goes through torch's fused attention by itself, as do on CUDA all of a micro-batch in which turns stand apart:
only these need a mask.
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


_GROUP = 128
"""Turns that stand apart attend in groups of about this many tokens: in larger ones more is computed to be masked."""


class Piece(NamedTuple):
    """Tokens in a row that attend together: to each other, and to an earlier piece that they share with others.

    Attributes:
        tokens: how many.
        shared: number of the earlier piece, or None.
        mask: bool [tokens, shared tokens + tokens], true where a row sees a column; None for all before it.
    """

    tokens: int
    shared: int | None = None
    mask: Tensor | None = None


@dataclass(eq=False)
class Packing:
    """Where the samples of a micro-batch lie. An object, so that compiled layers do not look into it.

    Attributes:
        starts: int32 [samples + 1], on the decoder's device.
        longest: tokens of the longest sample.
        pieces: of all samples; one of each, unless its turns stand apart.
    """

    starts: Tensor
    longest: int
    pieces: list[Piece]


def packing(lengths: Sequence[int], turns: Sequence[Sequence[int]], device: torch.device) -> dict[str, Any]:
    """What the decoder's call needs besides embeddings and positions.

    Args:
        lengths: tokens of each sample; they add up to the sequence.
        turns: of each sample, see `Example`.
        device: of the decoder.
    """
    starts = torch.tensor([0, *lengths]).cumsum(0)
    pieces: list[Piece] = []
    for length, of_sample in zip(lengths, turns, strict=True):
        shared, number = length - sum(of_sample), len(pieces)
        pieces.append(Piece(shared))
        pieces += [Piece(sum(g), number, _mask(shared, g).to(device)) for g in _groups(of_sample)]
    return {"packing": Packing(starts.to(device=device, dtype=torch.int32), max(lengths), pieces)}


def _groups(turns: Sequence[int]) -> list[list[int]]:
    groups: list[list[int]] = []
    for turn in turns:
        if not groups or sum(groups[-1]) + turn > _GROUP:
            groups.append([])
        groups[-1].append(turn)
    return groups


def _mask(shared: int, turns: Sequence[int]) -> Tensor:
    """Which tokens of turns see which: what is shared, and those before them in their own turn."""
    number = torch.arange(len(turns)).repeat_interleave(torch.tensor(turns))
    own = (number == number[:, None]).tril()
    return torch.cat((own.new_ones(len(number), shared), own), 1)


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
    if packed_attention_available(value) and not any(piece.mask is not None for piece in packing.pieces):
        return _attend_together(query, key, value, scaling, packing), None
    return _attend_one_by_one(query, key, value, scaling, packing), None


def _attend_together(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, packing: Packing) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    # Norms and rotation leave float32 under autocast.
    q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))  # [T, heads, head_dim]
    causal, grouped = (-1, 0), q.shape[1] != k.shape[1]
    starts, longest = packing.starts, packing.longest
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
        sizes = [piece.tokens for piece in packing.pieces]
        queries, keys, values = ((x.float() if on_cpu else x.to(kind)).split(sizes, 2) for x in (query, key, value))
        parts = []
        for q, k, v, piece in zip(queries, keys, values, packing.pieces, strict=True):
            if piece.shared is not None:
                k, v = (torch.cat((of_all[piece.shared], own), 2) for of_all, own in ((keys, k), (values, v)))
            causal = piece.mask is None
            parts.append(
                F.scaled_dot_product_attention(q, k, v, piece.mask, is_causal=causal, scale=scaling, enable_gqa=grouped)
            )
        return torch.cat(parts, dim=2).transpose(1, 2).to(kind)


AttentionInterface.register(PACKED, packed_attention)
