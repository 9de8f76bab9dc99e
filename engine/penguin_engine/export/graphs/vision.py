"""The vision graph: patches of frames of any sizes -> merged, projected visual tokens.

All layers but attention work on the patches of all frames, one after the other. For attention each frame becomes one
row of a padded batch, taken together by index (`slots`) and taken apart again (`places`): attention never crosses
frames, nothing grows with the square of all patches, and there is neither a loop over frames nor control flow.

Axes: N patches of all frames; F frames; L patches of the longest frame; T visual tokens; D hidden; A heads; K key-value
heads, G = A / K; E head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from penguin_engine.export.graphs.graph import ONNX_TYPES
from penguin_engine.export.graphs.layers import Layers
from penguin_engine.export.manifest import MASKED
from penguin_models.config import EncoderConfig
from penguin_models.encoder import rotary_frequencies

INPUTS = ("patches", "positions", "slots", "places", "blocks")


def build_vision(layers: Layers, config: EncoderConfig, hidden: int, dtype: str) -> None:
    """Writes the whole graph.

    Inputs: `patches` float32 [patches, C*P*P], each frame in block order; `positions` int64 [patches, 2], row and
    column; `slots` int64 [frames, longest], the patch at each place of the padded batch, -1 for padding; `places`
    int64 [patches], where in the flattened batch each patch lies; `blocks` int64 [tokens, merged], the patches whose
    mean is a token. Output: `tokens` [tokens, hidden].

    Args:
        layers: where to write, with the narrow type of encoder and projector.
        config: sizes of the encoder.
        hidden: width of the decoder's embeddings.
        dtype: type of the output, the decoder's.
    """
    g = layers.graph
    g.input("patches", "float32", ["patches", config.patch_dim])
    g.input("positions", "int64", ["patches", 2])
    g.input("slots", "int64", ["frames", "longest"])
    g.input("places", "int64", ["patches"])
    g.input("blocks", "int64", ["tokens", "merged"])

    encoder = "vision_encoder.encoder"
    attention = VisionAttention(layers, config)
    embedding = "vision_encoder.embeddings.patch_embedding"
    x = layers.wide(layers.linear(layers.narrow("patches"), embedding, bias=True))  # [N, D]
    for i in range(config.num_hidden_layers):
        prefix = f"{encoder}.layers.{i}"
        normed = layers.narrow(layers.rms_norm(x, f"{prefix}.input_layernorm", config.rms_norm_eps))
        x = g.op("Add", x, attention.write(normed, f"{prefix}.self_attn"))
        normed = layers.narrow(layers.rms_norm(x, f"{prefix}.post_attention_layernorm", config.rms_norm_eps))
        x = g.op("Add", x, layers.gated_mlp(normed, f"{prefix}.mlp"))
    x = layers.rms_norm(x, f"{encoder}.norm", config.rms_norm_eps)
    # Merging comes after the final norm: the mean of each block of patches.
    merged = g.op("ReduceMean", g.op("Gather", x, "blocks"), g.constant([1]), keepdims=0)  # [T, D]
    between = layers.wide(layers.linear(layers.narrow(merged), "vision_projector.readout.0", bias=True))
    tokens = layers.linear(layers.narrow(layers.gelu(between)), "vision_projector.readout.2", bias=True)
    g.op("Cast", tokens, named="tokens", to=ONNX_TYPES[dtype])
    g.output("tokens", dtype, ["tokens", hidden])


class VisionAttention:
    """Bidirectional grouped-query attention inside each frame; what all layers share is computed once."""

    def __init__(self, layers: Layers, config: EncoderConfig):
        self._layers, self._config = layers, config
        self._cos_sin = self._rotary_table()
        self._attend: Callable[[str, str, str], str]
        self._slots = "slots"
        if layers.profile.contrib:
            self._attend = self._attend_onnxruntime
        elif layers.profile.native_operators:
            self._attend = self._attend_native
        else:
            self._attend = self._attend_primitive
            g = layers.graph
            # Padding takes the first patch: TensorRT leaves negative indices undefined where an axis is dynamic.
            self._slots = g.op("Max", "slots", g.constant(0))
            padding = g.op("Less", "slots", g.constant(0))
            mask = g.op("Where", padding, g.constant(MASKED, "float32"), g.constant(0.0, "float32"))
            self._mask = g.op("Unsqueeze", mask, g.constant([1, 2]))  # [F, 1, 1, L]

    def write(self, x: str, prefix: str) -> str:
        """narrow [N, D] -> float32 [N, D]."""
        layers, c = self._layers, self._config
        q, k = (
            self._rotated(layers.heads(layers.wide(layers.linear(x, f"{prefix}.{name}_proj")), heads, c.head_dim), norm)
            for name, heads, norm in (
                ("q", c.num_attention_heads, f"{prefix}.q_norm"),
                ("k", c.num_key_value_heads, f"{prefix}.k_norm"),
            )
        )
        v = layers.heads(layers.linear(x, f"{prefix}.v_proj"), c.num_key_value_heads, c.head_dim)
        attended = self._attend(
            *(layers.graph.op("Gather", value, self._slots) for value in (q, k, v))
        )  # [F * L, A * E]
        return layers.wide(layers.linear(layers.graph.op("Gather", attended, "places"), f"{prefix}.o_proj"))

    def _rotary_table(self) -> list[list[str]]:
        """Cosine and sine of the angles of rows, then of columns: float32 [N, 1, E / 2] each."""
        g = self._layers.graph
        frequencies = rotary_frequencies(self._config.head_dim, self._config.rope_theta)
        f = g.constant(frequencies[None, None].numpy(), "float32")
        positions = g.op("Cast", "positions", to=ONNX_TYPES["float32"])
        table = []
        for axis in (0, 1):
            position = g.op("Unsqueeze", g.op("Gather", positions, g.constant([axis]), axis=1), g.constant([2]))
            angle = g.op("Mul", position, f)
            table.append([g.op("Cos", angle), g.op("Sin", angle)])
        return table

    def _rotated(self, x: str, norm: str) -> str:
        """Normalises and turns: the first half of a head by the row's angle, the second by the column's."""
        layers, g, half = self._layers, self._layers.graph, self._config.head_dim // 2
        first, second = layers.halves(layers.rms_norm(x, norm, self._config.rms_norm_eps), half)
        (row_cos, row_sin), (column_cos, column_sin) = self._cos_sin
        turned = (
            g.op("Sub", g.op("Mul", first, row_cos), g.op("Mul", second, row_sin)),
            g.op("Add", g.op("Mul", second, column_cos), g.op("Mul", first, column_sin)),
        )
        return layers.narrow(g.op("Concat", *turned, axis=-1))

    def _attend_primitive(self, q: str, k: str, v: str) -> str:
        """[F, L, A, E], [F, L, K, E] twice -> [F * L, A * E]; heads that share keys lie side by side."""
        layers, g, c = self._layers, self._layers.graph, self._config
        groups = c.num_attention_heads // c.num_key_value_heads
        scaled = g.op("Mul", q, g.constant(1 / math.sqrt(c.head_dim), layers.dtype))
        grouped = g.op("Reshape", scaled, g.constant([0, 0, c.num_key_value_heads, groups, c.head_dim]))
        grouped = g.op("Transpose", grouped, perm=[0, 2, 3, 1, 4])  # [F, K, G, L, E]
        queries = g.op("Reshape", grouped, g.constant([0, 0, -1, c.head_dim]))  # [F, K, G * L, E]
        scores = g.op("MatMul", queries, g.op("Transpose", k, perm=[0, 2, 3, 1]))
        seen = g.op("Softmax", g.op("Add", layers.wide(scores), self._mask), axis=-1)
        attended = g.op("MatMul", layers.narrow(seen), g.op("Transpose", v, perm=[0, 2, 1, 3]))
        apart = g.op("Reshape", attended, g.constant([0, 0, groups, -1, c.head_dim]))  # [F, K, G, L, E]
        return g.op("Reshape", g.op("Transpose", apart, perm=[0, 3, 1, 2, 4]), self._flat_heads())

    def _attend_native(self, q: str, k: str, v: str) -> str:
        """Needs frames of equal length: without a mask, runtimes have kernels that hold no matrix of scores."""
        g = self._layers.graph
        heads_first = [g.op("Transpose", x, perm=[0, 2, 1, 3]) for x in (q, k, v)]
        precision: dict[str, Any] = {} if self._layers.dtype == "float32" else {"softmax_precision": 1}
        attended = g.op("Attention", *heads_first, **precision)  # [F, A, L, E]
        return g.op("Reshape", g.op("Transpose", attended, perm=[0, 2, 1, 3]), self._flat_heads())

    def _attend_onnxruntime(self, q: str, k: str, v: str) -> str:
        """Needs frames of equal length, as `_attend_native`."""
        g, c = self._layers.graph, self._config
        groups = c.num_attention_heads // c.num_key_value_heads
        repeat = g.constant([1, 1, 1, groups, 1])
        one = g.constant([3])
        shape = g.constant([0, 0, c.num_attention_heads * c.head_dim])
        keys, values = (g.op("Reshape", g.op("Tile", g.op("Unsqueeze", x, one), repeat), shape) for x in (k, v))
        attended = g.op(
            "MultiHeadAttention",
            g.op("Reshape", q, shape),
            keys,
            values,
            domain="com.microsoft",
            num_heads=c.num_attention_heads,
        )
        return g.op("Reshape", attended, self._flat_heads())

    def _flat_heads(self) -> str:
        return self._layers.graph.constant([-1, self._config.num_attention_heads * self._config.head_dim])
