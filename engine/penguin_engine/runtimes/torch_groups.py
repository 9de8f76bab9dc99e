"""Samples groups of answers with torch: several answers to each of several questions about the same images.

What the questions share is prefilled once, and each question once. Then all answers are decoded together, one row of
the KV cache each; attention reads the shared keys and values once for all rows. Answers that have ended leave the
batch.

Axes: Q questions; R rows (answers); S shared tokens; L tokens of a row; n new tokens; H heads, of which K hold keys and
values, each for M heads that query; d width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache

from penguin_models.vlm import PenguinVL

_GROUPED = "penguin_groups"
_Shared = list[tuple[Tensor, Tensor]]  # Keys and values [1, K, S, d] of each layer; empty if nothing is shared


@dataclass(eq=False)
class _Rows:
    """What the rows attend to. An object, so that transformers passes it on unseen."""

    shared: _Shared
    mask: Tensor  # bool [R, n, L], which of its own tokens each new token attends to


@torch.inference_mode()
def sample_groups(
    model: PenguinVL,
    shared: Tensor,
    questions: Sequence[Sequence[int]],
    group: int,
    max_new_tokens: int,
    generator: torch.Generator,
) -> list[list[list[int]]]:
    """Samples answers from the model's own distribution (temperature 1).

    Args:
        model: The model; its decoder's attention is replaced, so use it for nothing else.
        shared: Embeddings [S, hidden] of what all questions begin with; S may be 0.
        questions: Token ids of the rest of each prompt, at least one each.
        group: Number of answers to each question.
        max_new_tokens: Maximum length of an answer in tokens, its end token included.
        generator: Source of randomness, on the model's device.

    Returns:
        Token ids of the answers to each question. The last one is an end token unless the answer reached the maximum.
    """
    decoder, device = model.language_model, model.device
    decoder.set_attn_implementation(_GROUPED)
    prefix = _prefill_shared(decoder, shared)
    cache = DynamicCache(config=decoder.config)
    hidden, visible = _prefill_questions(model, prefix, len(shared), questions, cache)
    cache.batch_repeat_interleave(group)
    hidden, visible = hidden.repeat_interleave(group, 0), visible.repeat_interleave(group, 0)
    positions = len(shared) + visible.sum(1)  # [R]
    answers: list[list[int]] = [[] for _ in range(len(positions))]
    rows = torch.arange(len(answers), device=device)  # Which answers are still growing
    ends = torch.tensor(model.end_token_ids, device=device)
    for length in range(1, max_new_tokens + 1):
        tokens = torch.multinomial(decoder.lm_head(hidden).float().softmax(-1), 1, generator=generator)  # [R, 1]
        for row, token in zip(rows.tolist(), tokens[:, 0].tolist(), strict=True):
            answers[row].append(token)
        growing = torch.isin(tokens[:, 0], ends, invert=True)
        if length == max_new_tokens or not growing.any():
            break
        if not growing.all():
            cache.batch_select_indices(growing.nonzero()[:, 0])
            rows, tokens, visible, positions = (x[growing] for x in (rows, tokens, visible, positions))
        visible = F.pad(visible, (0, 1), value=True)
        step = _Rows(prefix, visible[:, None])
        hidden = _decode(model, tokens, positions[:, None], cache, step)[:, -1]
        positions = positions + 1
    return [answers[start : start + group] for start in range(0, len(answers), group)]


def _prefill_shared(decoder: Any, shared: Tensor) -> _Shared:
    if not len(shared):
        return []
    cache = DynamicCache(config=decoder.config)
    decoder.model(inputs_embeds=shared[None], past_key_values=cache, use_cache=True, rows=None)
    return [(layer.keys, layer.values) for layer in cache.layers]


def _prefill_questions(
    model: PenguinVL, prefix: _Shared, start: int, questions: Sequence[Sequence[int]], cache: DynamicCache
) -> tuple[Tensor, Tensor]:
    """Returns the last hidden state of each question, [Q, hidden], and which places of its row it takes, [Q, L]."""
    lengths = torch.tensor([len(question) for question in questions], device=model.device)
    longest = int(lengths.max())
    ids = torch.tensor([[*question, *[0] * (longest - len(question))] for question in questions], device=model.device)
    places = torch.arange(longest, device=model.device)
    causal = (places <= places[:, None]).expand(len(questions), -1, -1)
    hidden = _decode(model, ids, (start + places)[None], cache, _Rows(prefix, causal))
    return hidden[torch.arange(len(questions), device=model.device), lengths - 1], places < lengths[:, None]


def _decode(model: PenguinVL, ids: Tensor, positions: Tensor, cache: DynamicCache, rows: _Rows) -> Tensor:
    """Appends tokens [R, n] to the rows and returns their hidden states [R, n, hidden]."""
    return model.language_model.model(  # type: ignore[no-any-return]
        inputs_embeds=model.embed_tokens(ids), position_ids=positions, past_key_values=cache, use_cache=True, rows=rows
    ).last_hidden_state


def _grouped_attention(
    module: nn.Module,
    query: Tensor,  # [R, H, n, d]
    key: Tensor,  # [R, K, L, d]
    value: Tensor,  # as key
    attention_mask: Tensor | None,
    scaling: float,
    rows: _Rows | None = None,
    **_: Any,
) -> tuple[Tensor, None]:  # [R, n, H, d]
    """Attends to the row's own tokens and to the shared ones; causally to its own alone without `rows`."""
    assert attention_mask is None
    if rows is None:
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
        return attended.transpose(1, 2), None
    count, heads, new, width = query.shape
    kv_heads = key.shape[1]
    queries = (query * scaling).view(count, kv_heads, -1, new, width)  # [R, K, M, n, d]
    scores = (queries @ key[:, :, None].mT).masked_fill(~rows.mask[:, None, None], -torch.inf)  # [R, K, M, n, L]
    if rows.shared:
        shared_keys, shared_values = rows.shared[module.layer_idx]  # type: ignore[index]
        together = queries.transpose(0, 1).reshape(kv_heads, -1, width)  # [K, R * M * n, d]
        shared_scores = (together @ shared_keys[0].mT).view(kv_heads, count, -1, new, shared_keys.shape[2])
        scores = torch.cat((shared_scores.transpose(0, 1), scores), -1)  # [R, K, M, n, S + L]
    shares = scores.float().softmax(-1).to(value.dtype)
    own = key.shape[2]
    attended = shares[..., -own:] @ value[:, :, None]  # [R, K, M, n, d]
    if rows.shared:
        flat = shares[..., :-own].transpose(0, 1).reshape(kv_heads, -1, shared_keys.shape[2])
        attended = attended + (flat @ shared_values[0]).view(kv_heads, count, -1, new, width).transpose(0, 1)
    return attended.reshape(count, heads, new, width).transpose(1, 2), None


AttentionInterface.register(_GROUPED, _grouped_attention)
