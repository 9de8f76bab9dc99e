"""The vision graph: patches of frames of any sizes -> merged, projected visual tokens.

All layers except attention work on the concatenated patches of all frames. For attention, `slots` gathers each frame
into one row of a padded batch and `places` gathers the results back: attention never crosses frames, nothing grows with
the square of the total number of patches, and there is neither a loop over frames nor control flow.

Axes: N patches of all frames; F frames; L patches of the longest frame; T visual tokens; D hidden; A heads; K key-value
heads, G = A / K; E head_dim.
"""

from __future__ import annotations

import math

from penguin_engine.export.graphs.graph import ONNX_TYPES
from penguin_engine.export.graphs.layers import Layers
from penguin_engine.export.manifest import MASKED
from penguin_models.config import EncoderConfig
from penguin_models.encoder import rotary_frequencies


def build_vision(layers: Layers, config: EncoderConfig, hidden: int | None, dtype: str) -> None:
    """Writes the whole graph; without projector if `hidden` is None.

    Inputs:
        patches: float32 [patches, C*P*P], each frame in block order.
        positions: int64 [patches, 2], row and column.
        slots: int64 [frames, longest], index of the patch at each place of the padded batch, -1 for padding.
        places: int64 [patches], index of each patch in the flattened padded batch.
        blocks: int64 [tokens, merged], the patches whose mean is a token.

    Output:
        tokens: [tokens, hidden], in the width and type (`dtype`) of the decoder's embeddings; without projector, the
            features of the encoder.
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
        x = layers.block(x, f"{encoder}.layers.{i}", config.rms_norm_eps, attention.write)
    x = layers.rms_norm(x, f"{encoder}.norm", config.rms_norm_eps)
    # Merging comes after the final norm: the mean of each block of patches.
    tokens = g.op("ReduceMean", g.op("Gather", x, "blocks"), g.constant([1]), keepdims=0)  # [T, D]
    if hidden is not None:
        readout = layers.wide(layers.linear(layers.narrow(tokens), "vision_projector.readout.0", bias=True))
        tokens = layers.linear(layers.narrow(layers.gelu(readout)), "vision_projector.readout.2", bias=True)
    g.op("Cast", tokens, named="tokens", to=ONNX_TYPES[dtype])
    g.output("tokens", dtype, ["tokens", hidden or config.hidden_size])


class VisionAttention:
    """Bidirectional grouped-query attention within each frame; values that all layers share are computed once."""

    def __init__(self, layers: Layers, config: EncoderConfig):
        self._layers, self._config = layers, config
        g, contrib = layers.graph, layers.profile.contrib
        row, column = self._angles()
        self._key_rotation = self._query_rotation = layers.rotation(row, column)
        self._attend = self._attend_onnxruntime if contrib else self._attend_primitive
        self._slots = "slots"
        if not contrib:
            self._query_rotation = layers.rotation(row, column, 1 / math.sqrt(config.head_dim))
            # Padding reads the first patch: for a dynamic axis, TensorRT leaves negative indices undefined.
            self._slots = g.op("Max", "slots", g.constant(0))
            padding = g.op("Less", "slots", g.constant(0))
            mask = g.op("Where", padding, g.constant(MASKED, "float32"), g.constant(0.0, "float32"))
            self._mask = g.op("Unsqueeze", mask, g.constant([1, 2]))  # [F, 1, 1, L]

    def write(self, x: str, prefix: str) -> str:
        """Writes the attention of one layer, narrow [N, D] -> float32 [N, D]."""
        layers, c = self._layers, self._config
        heads, kv_heads = c.num_attention_heads, c.num_key_value_heads
        q, k, v = layers.attention_heads(x, prefix, heads, kv_heads, c.head_dim, c.rms_norm_eps)
        q, k = (
            layers.narrow(layers.rotate(rows, rotation, count, c.head_dim))
            for rows, rotation, count in ((q, self._query_rotation, heads), (k, self._key_rotation, kv_heads))
        )
        padded = (layers.graph.op("Gather", value, self._slots) for value in (q, k, v))  # [F, L, heads, E]
        attended = self._attend(*padded)  # [F * L, A * E]
        return layers.wide(layers.linear(layers.graph.op("Gather", attended, "places"), f"{prefix}.o_proj"))

    def _angles(self) -> list[str]:
        """Writes the rotary angles of rows, then of columns, float32 [N, 1, E / 2] each."""
        g = self._layers.graph
        frequencies = rotary_frequencies(self._config.head_dim, self._config.rope_theta)
        f = g.constant(frequencies[None, None].numpy(), "float32")
        positions = g.op("Cast", "positions", to=ONNX_TYPES["float32"])
        columns = (g.op("Gather", positions, g.constant([axis]), axis=1) for axis in (0, 1))
        return [g.op("Mul", g.op("Unsqueeze", column, g.constant([2])), f) for column in columns]

    def _attend_primitive(self, q: str, k: str, v: str) -> str:
        """Maps [F, L, A, E] and twice [F, L, K, E] to [F * L, A * E]; heads that share keys are adjacent."""
        layers, g, c = self._layers, self._layers.graph, self._config
        groups = c.num_attention_heads // c.num_key_value_heads
        grouped = g.op("Reshape", q, g.constant([0, 0, c.num_key_value_heads, groups, c.head_dim]))
        grouped = g.op("Transpose", grouped, perm=[0, 2, 3, 1, 4])  # [F, K, G, L, E]
        queries = g.op("Reshape", grouped, g.constant([0, 0, -1, c.head_dim]))  # [F, K, G * L, E]
        scores = g.op("MatMul", queries, g.op("Transpose", k, perm=[0, 2, 3, 1]))
        weights = g.op("Softmax", g.op("Add", layers.wide(scores), self._mask), axis=-1)
        attended = g.op("MatMul", layers.narrow(weights), g.op("Transpose", v, perm=[0, 2, 1, 3]))
        split = g.op("Reshape", attended, g.constant([0, 0, groups, -1, c.head_dim]))  # [F, K, G, L, E]
        return g.op("Reshape", g.op("Transpose", split, perm=[0, 3, 1, 2, 4]), self._flat_heads())

    def _attend_onnxruntime(self, q: str, k: str, v: str) -> str:
        """Needs frames of equal length: without a mask, ONNX Runtime has a kernel that stores no score matrix."""
        g, c = self._layers.graph, self._config
        groups = c.num_attention_heads // c.num_key_value_heads
        repeat = g.constant([1, 1, 1, groups, 1])
        one = g.constant([3])
        shape = g.constant([0, 0, c.num_attention_heads * c.head_dim])
        keys, values = (g.op("Reshape", g.op("Tile", g.op("Unsqueeze", x, one), repeat), shape) for x in (k, v))
        queries, heads = g.op("Reshape", q, shape), c.num_attention_heads
        attended = g.op("MultiHeadAttention", queries, keys, values, domain="com.microsoft", num_heads=heads)
        return g.op("Reshape", attended, self._flat_heads())

    def _flat_heads(self) -> str:
        return self._layers.graph.constant([-1, self._config.num_attention_heads * self._config.head_dim])
