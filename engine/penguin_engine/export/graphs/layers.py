"""Layers that the vision and decoder graphs share: blocks, norms, linear layers, feed-forward, rotary embedding.

Values have one of two types. The *narrow* type is that of the weights, in which matrix products read and write. The
*wide* type is float32, for the residual stream, norms, rotary embedding and softmax, which overflow or lose too much
precision in 16 bits. In a float32 graph both are the same and nothing is cast.

Axes: N rows (patches or tokens), D width, A heads, E head_dim.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from penguin_engine.export.graphs.graph import ONNX_TYPES, Graph
from penguin_engine.export.graphs.quantized import QuantizedLinears, Squares
from penguin_engine.export.graphs.weights import CheckpointWeights
from penguin_engine.export.manifest import Profile
from penguin_models.tensor_files import released_name

Rotation = tuple[str, str]
"""Names of the cosines of rotary angles and of their sines, of which the first half is negated, float32 [N, 1, E]."""


class Layers:
    """Writes layers into a graph, with `dtype` as the narrow type.

    `shrink_factors` says by which power of two the input of a down projection is divided; `quantized` writes the linear
    layers that are quantised.
    """

    def __init__(
        self,
        graph: Graph,
        weights: CheckpointWeights,
        profile: Profile,
        dtype: str,
        shrink_factors: Mapping[str, float] | None = None,
        quantized: QuantizedLinears | None = None,
    ):
        self.graph, self.weights, self.profile, self.dtype = graph, weights, profile, dtype
        self._shrink_factors, self._quantized = shrink_factors or {}, quantized

    @property
    def squares(self) -> dict[str, Squares]:
        """Sums of squares of the layers that were quantised; empty without any."""
        return self._quantized.squares if self._quantized else {}

    def narrow(self, x: str) -> str:
        """Casts float32 to the type of the weights."""
        return x if self.dtype == "float32" else self.graph.op("Cast", x, to=ONNX_TYPES[self.dtype])

    def wide(self, x: str) -> str:
        """Casts the type of the weights to float32."""
        return x if self.dtype == "float32" else self.graph.op("Cast", x, to=ONNX_TYPES["float32"])

    def parameter(self, name: str, dtype: str) -> str:
        """Adds a weight in its stored shape."""
        blocks = self.weights.blocks(name, dtype)
        return self.graph.weight(released_name(name), dtype, self.weights.shape(name), blocks)

    def block(self, x: str, prefix: str, eps: float, attend: Callable[[str, str], str]) -> str:
        """Writes a transformer block, float32 [N, D] -> [N, D]; `attend` takes narrow rows and a prefix of names."""
        g = self.graph
        normed = self.narrow(self.rms_norm(x, f"{prefix}.input_layernorm", eps))
        x = g.op("Add", x, attend(normed, f"{prefix}.self_attn"))
        normed = self.narrow(self.rms_norm(x, f"{prefix}.post_attention_layernorm", eps))
        return g.op("Add", x, self.gated_mlp(normed, f"{prefix}.mlp"))

    def linear(self, x: str, name: str, bias: bool = False) -> str:
        """Writes x W^t + b, narrow [N, in] -> narrow [N, out]; a convolution over whole patches is one too."""
        if self._quantized and (done := self._quantized.write(x, name, f"{name}.weight")):
            return done
        rows, *rest = self.weights.shape(f"{name}.weight")
        columns = math.prod(rest)
        blocks = (block.reshape(len(block), -1) for block in self.weights.blocks(f"{name}.weight", self.dtype))
        weight = self.graph.weight(released_name(f"{name}.weight"), self.dtype, (rows, columns), blocks)
        inputs = [x, weight]
        if bias:
            inputs.append(self.parameter(f"{name}.bias", self.dtype))
        return self.graph.op("Gemm", *inputs, transB=1)

    def projections(self, x: str, prefix: str, names: Sequence[str]) -> list[str]:
        """Writes x W^t of several layers, narrow [N, in] -> narrow [N, out] each.

        For TensorRT, layers that are not quantised share one product: it would join their weights itself, in a copy.
        """
        layers = [f"{prefix}.{name}_proj" for name in names]
        if self.profile.contrib or (self._quantized and any(map(self._quantized.includes, layers))):
            return [self.linear(x, layer) for layer in layers]
        shapes = [self.weights.shape(f"{layer}.weight") for layer in layers]
        rows, columns = [shape[0] for shape in shapes], shapes[0][1]
        blocks = (block for layer in layers for block in self.weights.blocks(f"{layer}.weight", self.dtype))
        joint = released_name(f"{prefix}.{'_'.join(names)}_proj.weight")
        weight = self.graph.weight(joint, self.dtype, (sum(rows), columns), blocks)
        return self._columns(self.graph.op("Gemm", x, weight, transB=1), rows)

    def _columns(self, x: str, sizes: Sequence[int]) -> list[str]:
        """Takes the columns of several values apart, [N, sum of sizes] -> [N, size] each.

        Gathers do it, because TensorRT takes a product apart whose result goes through Split.
        """
        g, unit = self.graph, math.gcd(*sizes)
        units = g.op("Reshape", x, g.constant([-1, sum(sizes) // unit, unit]))
        ends = itertools.accumulate(size // unit for size in sizes)
        ranges = (range(end - size // unit, end) for size, end in zip(sizes, ends, strict=True))
        gathered = (g.op("Gather", units, g.constant(list(indices)), axis=1) for indices in ranges)
        return [g.op("Reshape", part, g.constant([-1, size])) for part, size in zip(gathered, sizes, strict=True)]

    def tied_linear(self, x: str, name: str, stored: str, file: Path | None) -> str:
        """Writes x W^t for a layer whose weight has the name `stored`, and fills `file` if that has the narrow type."""
        if self._quantized and (done := self._quantized.write(x, name, stored)):
            return done
        if file is None:
            weight = self.parameter(stored, self.dtype)
        else:
            weight = self.graph.shared_weight(released_name(stored), self.dtype, self.weights.shape(stored), file)
        return self.graph.op("Gemm", x, weight, transB=1)

    def rms_norm(self, x: str, name: str, eps: float) -> str:
        """Writes the root-mean-square norm of the last axis, float32 -> float32."""
        g, scale = self.graph, self.parameter(f"{name}.weight", "float32")
        square = g.op("Pow", x, g.constant(2.0, "float32"))
        mean = g.op("ReduceMean", square, g.constant([-1]), keepdims=1)
        root = g.op("Sqrt", g.op("Add", mean, g.constant(eps, "float32")))
        return g.op("Mul", g.op("Div", x, root), scale)

    def gated_mlp(self, x: str, prefix: str) -> str:
        """Writes the SiLU-gated feed-forward layer, narrow [N, D] -> float32 [N, D]."""
        g = self.graph
        gate, up = map(self.wide, self.projections(x, prefix, ("gate", "up")))
        product = g.op("Mul", g.op("Mul", gate, g.op("Sigmoid", gate)), up)
        down = f"{prefix}.down_proj"
        factor = self._shrink_factors.get(down)
        if factor is None:
            return self.wide(self.linear(self.narrow(product), down))
        smaller = g.op("Mul", product, g.constant(1 / factor, "float32"))
        return g.op("Mul", self.wide(self.linear(self.narrow(smaller), down)), g.constant(factor, "float32"))

    def heads(self, x: str, count: int, head_dim: int) -> str:
        """Splits [N, A * E] into [N, A, E]."""
        return self.graph.op("Reshape", x, self.graph.constant([-1, count, head_dim]))

    def attention_heads(
        self, x: str, prefix: str, heads: int, kv_heads: int, head_dim: int, eps: float
    ) -> tuple[str, str, str]:
        """Writes queries and keys, float32 [N, A, E] and [N, K, E], both normed, and values, narrow [N, K, E]."""
        q, k, v = self.projections(x, prefix, "qkv")
        return (
            self.rms_norm(self.heads(self.wide(q), heads, head_dim), f"{prefix}.q_norm", eps),
            self.rms_norm(self.heads(self.wide(k), kv_heads, head_dim), f"{prefix}.k_norm", eps),
            self.heads(v, kv_heads, head_dim),
        )

    def rotation(self, first: str, second: str, scale: float = 1.0) -> Rotation:
        """Writes what `rotate` needs to turn the halves of heads by these angles, [N, 1, E / 2], and scale them."""
        g = self.graph
        cos = g.op("Cos", g.op("Concat", first, second, axis=-1))
        sin = g.op("Sin", g.op("Concat", g.op("Neg", first), second, axis=-1))
        if scale == 1.0:
            return cos, sin
        factor = g.constant([[[scale]]], "float32")
        return g.op("Mul", cos, factor), g.op("Mul", sin, factor)

    def rotate(self, x: str, rotation: Rotation, heads: int, head_dim: int) -> str:
        """Rotates pairs of the two halves of each head, [N, A, E]: x cos + (second, first) (-sin, sin)."""
        g, (cos, sin) = self.graph, rotation
        halves = g.op("Reshape", x, g.constant([-1, heads, 2, head_dim // 2]))
        swapped = self.heads(g.op("Gather", halves, g.constant([1, 0]), axis=2), heads, head_dim)
        return g.op("Add", g.op("Mul", x, cos), g.op("Mul", swapped, sin))

    def gelu(self, x: str) -> str:
        """Writes exact GELU, float32 -> float32."""
        g = self.graph
        erf = g.op("Erf", g.op("Div", x, g.constant(2**0.5, "float32")))
        return g.op("Mul", g.op("Mul", x, g.op("Add", erf, g.constant(1.0, "float32"))), g.constant(0.5, "float32"))
