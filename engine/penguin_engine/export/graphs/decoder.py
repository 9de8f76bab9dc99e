"""The decoder graph: embeddings of new tokens and the KV cache -> logits after the last token, and new cache rows.

The runtime never copies the cache; `Profile.cache` says how each profile reads and extends it.

Axes: S new tokens; P cached tokens; C cache capacity; D hidden; A heads; K key-value heads, G = A / K; E head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from penguin_engine.export.graphs.graph import NUMPY_TYPES, ONNX_TYPES
from penguin_engine.export.graphs.layers import Layers
from penguin_engine.export.manifest import MASKED, DecoderShape
from penguin_models.types import Float32Array

EMBEDDING_TABLE = "language_model.model.embed_tokens.weight"
HEAD = "language_model.lm_head"


def build_decoder(
    layers: Layers, shape: DecoderShape, frequencies: Float32Array, cache_dtype: str, tied: bool, table: Path | None
) -> None:
    """Writes the whole graph.

    Inputs: `embeddings` [sequence, hidden], `positions` int64 [sequence] (but see `OnnxRuntimeAttention`), and the
    cache. Outputs: `logits` float32 [1, vocab] and the cache.

    `frequencies` are rotary angles per position, float32 [E / 2]. Only `OnnxRuntimeAttention` allows a `cache_dtype`
    that is not the narrow type. `tied` says that the head is the embedding table [vocab, hidden]; `table` is its file,
    if that has the narrow type.
    """
    g, model = layers.graph, "language_model.model"
    g.input("embeddings", layers.dtype, ["sequence", shape.hidden])
    attention = (OnnxRuntimeAttention if layers.profile.contrib else PrimitiveAttention)(
        layers, shape, frequencies, cache_dtype
    )
    x = layers.wide("embeddings")
    for i in range(shape.layers):
        x = layers.block(x, f"{model}.layers.{i}", shape.eps, partial(attention.write, layer=i))
    # Not index -1: for a dynamic axis, TensorRT leaves negative indices undefined.
    new = g.op("Gather", g.op("Shape", "embeddings"), g.constant([0]))
    last = g.op("Gather", x, g.op("Sub", new, g.constant([1])), axis=0)  # [1, D]
    normed = layers.narrow(layers.rms_norm(last, f"{model}.norm", shape.eps))
    logits = layers.tied_linear(normed, HEAD, EMBEDDING_TABLE, table) if tied else layers.linear(normed, HEAD)
    g.op("Cast", logits, named="logits", to=ONNX_TYPES["float32"])
    g.output("logits", "float32", [1, shape.vocab])


class _Attention:
    """Causal grouped-query attention of new tokens to the cache and to each other."""

    def __init__(self, layers: Layers, shape: DecoderShape, frequencies: Float32Array, cache_dtype: str):
        self._layers, self._graph, self._shape = layers, layers.graph, shape
        self._frequencies, self._cache_dtype = frequencies, cache_dtype
        self._start()

    def _start(self) -> None:
        """Declares inputs and computes what all layers share."""
        raise NotImplementedError

    def _attend(self, q: str, k: str, v: str, layer: int) -> str:
        """Maps normed float32 [S, A, E] and [S, K, E], and narrow [S, K, E], to narrow [S, A * E]."""
        raise NotImplementedError

    def write(self, x: str, prefix: str, layer: int) -> str:
        """Writes the attention of one layer, narrow [S, D] -> float32 [S, D]."""
        layers, s = self._layers, self._shape
        q, k, v = layers.attention_heads(x, prefix, s.heads, s.kv_heads, s.head_dim, s.eps)
        return layers.wide(layers.linear(self._attend(q, k, v, layer), f"{prefix}.o_proj"))

    def _past(self, layer: int, shape: Sequence[int | str]) -> list[str]:
        return [self._graph.input(f"past_{name}_{layer}", self._cache_dtype, shape) for name in ("key", "value")]

    def _merge_heads(self, x: str) -> str:
        return self._graph.op("Reshape", x, self._graph.constant([-1, self._shape.heads * self._shape.head_dim]))


class PrimitiveAttention(_Attention):
    """Attention in operators that every runtime has. The cache is rows [past, K, E]; the outputs are the next rows.

    The input `past_mask` float32 [past] is 0 for valid rows and `MASKED` for rows beyond the cached tokens. The graph
    always needs at least one row. Scores, mask, softmax and sums stand in the order in which TensorRT fuses them.
    """

    def _start(self) -> None:
        g, s = self._graph, self._shape
        positions = g.input("positions", "int64", ["sequence"])
        new = g.op("Cast", positions, to=ONNX_TYPES["float32"])
        row, column = g.op("Unsqueeze", new, g.constant([1])), g.constant(self._frequencies[None], "float32")
        angles = g.op("Unsqueeze", g.op("Mul", row, column), g.constant([1]))  # [S, 1, E / 2]
        self._key_rotation = self._layers.rotation(angles, angles)
        self._query_rotation = self._layers.rotation(angles, angles, 1 / math.sqrt(s.head_dim))
        # Cached rows come before any new token, or after all if they are masked.
        places = g.op("Concat", g.op("Neg", g.input("past_mask", "float32", ["past"])), new, axis=0)
        hidden = g.op("Greater", g.op("Unsqueeze", places, g.constant([0])), row)
        mask = g.op("Where", hidden, g.constant(MASKED, "float32"), g.constant(0.0, "float32"))
        self._groups = s.heads // s.kv_heads
        self._mask = g.op(
            "Unsqueeze", g.op("Concat", *[mask] * self._groups, axis=0), g.constant([0])
        )  # [1, G * S, P + S]

    def _attend(self, q: str, k: str, v: str, layer: int) -> str:
        g, layers, s = self._graph, self._layers, self._shape
        past = self._past(layer, ["past", s.kv_heads, s.head_dim])
        new_k = g.op(
            "Cast",
            layers.rotate(k, self._key_rotation, s.kv_heads, s.head_dim),
            named=f"new_key_{layer}",
            to=ONNX_TYPES[layers.dtype],
        )
        new_v = g.op("Identity", v, named=f"new_value_{layer}")
        for name in (new_k, new_v):
            g.output(name, layers.dtype, ["sequence", s.kv_heads, s.head_dim])
        keys, values = (g.op("Concat", *rows, axis=0) for rows in zip(past, (new_k, new_v), strict=True))

        rotated = layers.narrow(layers.rotate(q, self._query_rotation, s.heads, s.head_dim))
        grouped = g.op("Reshape", rotated, g.constant([-1, s.kv_heads, self._groups, s.head_dim]))
        grouped = g.op("Transpose", grouped, perm=[1, 2, 0, 3])  # [K, G, S, E]
        queries = g.op("Reshape", grouped, g.constant([s.kv_heads, -1, s.head_dim]))  # [K, G * S, E]
        scores = layers.wide(g.op("MatMul", queries, g.op("Transpose", keys, perm=[1, 2, 0])))
        weights = layers.narrow(g.op("Softmax", g.op("Add", scores, self._mask), axis=-1))  # [K, G * S, P + S]
        sums = g.op("MatMul", weights, g.op("Transpose", values, perm=[1, 0, 2]))
        split = g.op("Reshape", sums, g.constant([s.kv_heads, self._groups, -1, s.head_dim]))
        return self._merge_heads(g.op("Transpose", split, perm=[2, 0, 1, 3]))


class OnnxRuntimeAttention(_Attention):
    """Attention in ONNX Runtime's GroupQueryAttention, which rotates queries and keys and updates the buffer itself.

    The cache is a buffer [1, K, capacity, E] that is updated in place: the runtime binds input and output to the same
    memory. Instead of `positions`, the graph takes `last_position` int32 [1] and `total_length` int32 [], the number of
    tokens cached after the step.
    """

    def _start(self) -> None:
        g, s = self._graph, self._shape
        g.input("last_position", "int32", [1])
        g.input("total_length", "int32", [])
        angles = np.arange(s.context_length, dtype=np.float32)[:, None] * self._frequencies
        half = s.head_dim // 2
        self._angle = [
            g.weight(name, self._cache_dtype, (s.context_length, half), [values.astype(NUMPY_TYPES[self._cache_dtype])])
            for name, values in (("rotary_cos", np.cos(angles)), ("rotary_sin", np.sin(angles)))
        ]

    def _attend(self, q: str, k: str, v: str, layer: int) -> str:
        g, s = self._graph, self._shape
        shape: list[int | str] = [1, s.kv_heads, "capacity", s.head_dim]
        past = self._past(layer, shape)
        present = [f"present_{name}_{layer}" for name in ("key", "value")]
        cast = [g.op("Cast", x, to=ONNX_TYPES[self._cache_dtype]) for x in (q, k, v)]
        rows = [
            g.op("Reshape", x, g.constant([1, -1, heads * s.head_dim]))
            for x, heads in zip(cast, (s.heads, s.kv_heads, s.kv_heads), strict=True)
        ]
        inputs = [*rows, *past, "last_position", "total_length", *self._angle]
        sizes: dict[str, Any] = {"num_heads": s.heads, "kv_num_heads": s.kv_heads, "do_rotary": 1}
        outputs = [f"attended_{layer}", *present]
        attended, *_ = g.ops("GroupQueryAttention", outputs, *inputs, domain="com.microsoft", **sizes)
        for name in present:
            g.output(name, self._cache_dtype, shape)
        return self._merge_heads(g.op("Cast", attended, to=ONNX_TYPES[self._layers.dtype]))
