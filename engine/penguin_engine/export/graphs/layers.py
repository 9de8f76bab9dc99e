"""Layers that vision and decoder graphs share: norms, linear layers, gated feed-forward, rotary embedding.

Values travel in two types. The *narrow* one is that of the weights: matrix products read and write it. The *wide* one
is float32: the residual stream, norms, rotary embedding and softmax, which overflow or lose too much in 16 bits. In a
float32 graph both are the same and nothing is cast.

Axes: N rows (patches or tokens), D width, A heads, E head_dim.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from penguin_engine.export.graphs.graph import ONNX_TYPES, Array, Graph
from penguin_engine.export.graphs.quantized import QuantizedLinears
from penguin_engine.export.graphs.weights import CheckpointWeights
from penguin_engine.export.manifest import Profile
from penguin_models.tensor_files import released_name


class Layers:
    """Writes layers into a graph.

    Args:
        graph: where operators go.
        weights: of the checkpoint, by their names in `PenguinVL`.
        profile: which operators to use.
        dtype: the narrow type.
        shrink: by name of a down projection, the power of two by which its input is divided so that it fits float16.
        quantized: writes the linear layers that are quantised.
    """

    def __init__(
        self,
        graph: Graph,
        weights: CheckpointWeights,
        profile: Profile,
        dtype: str,
        shrink: Mapping[str, float] | None = None,
        quantized: QuantizedLinears | None = None,
    ):
        self.graph, self.weights, self.profile, self.dtype = graph, weights, profile, dtype
        self._shrink, self._quantized = shrink or {}, quantized

    def narrow(self, x: str) -> str:
        """float32 -> type of the weights."""
        return x if self.dtype == "float32" else self._cast(x, self.dtype)

    def wide(self, x: str) -> str:
        """Type of the weights -> float32."""
        return x if self.dtype == "float32" else self._cast(x, "float32")

    def parameter(self, name: str, dtype: str) -> str:
        """A weight as it is."""
        blocks = self.weights.blocks(name, dtype)
        return self.graph.weight(released_name(name), dtype, self.weights.shape(name), blocks)

    def linear(self, x: str, name: str, bias: bool = False) -> str:
        """x W^t + b, narrow [N, in] -> narrow [N, out]; a convolution over whole patches is one too."""
        if self._quantized and (done := self._quantized.write(x, name, f"{name}.weight")):
            return done
        rows, *rest = self.weights.shape(f"{name}.weight")
        columns = math.prod(rest)
        blocks = _flat(self.weights.blocks(f"{name}.weight", self.dtype))
        weight = self.graph.weight(released_name(f"{name}.weight"), self.dtype, (rows, columns), blocks)
        inputs = [x, weight]
        if bias:
            inputs.append(self.parameter(f"{name}.bias", self.dtype))
        return self.graph.op("Gemm", *inputs, transB=1)

    def tied_linear(self, x: str, name: str, stored: str, file: Path) -> str:
        """x W^t for a weight of another name that is the whole content of another file, in the narrow type."""
        if self._quantized and (done := self._quantized.write(x, name, stored)):
            return done
        weight = self.graph.shared_weight(released_name(stored), self.dtype, self.weights.shape(stored), file)
        return self.graph.op("Gemm", x, weight, transB=1)

    def rms_norm(self, x: str, name: str, eps: float) -> str:
        """Root-mean-square norm of the last axis, float32 -> float32."""
        g, scale = self.graph, self.parameter(f"{name}.weight", "float32")
        if self.profile.native_operators:
            return g.op("RMSNormalization", x, scale, axis=-1, epsilon=eps)
        square = g.op("Pow", x, g.constant(2.0, "float32"))
        mean = g.op("ReduceMean", square, g.constant([-1]), keepdims=1)
        root = g.op("Sqrt", g.op("Add", mean, g.constant(eps, "float32")))
        return g.op("Mul", g.op("Div", x, root), scale)

    def gated_mlp(self, x: str, prefix: str) -> str:
        """SiLU-gated feed-forward layer: narrow [N, D] -> float32 [N, D]."""
        g = self.graph
        gate, up = (self.wide(self.linear(x, f"{prefix}.{name}_proj")) for name in ("gate", "up"))
        product = g.op("Mul", g.op("Mul", gate, g.op("Sigmoid", gate)), up)
        down = f"{prefix}.down_proj"
        shrink = self._shrink.get(down)
        if shrink is None:
            return self.wide(self.linear(self.narrow(product), down))
        smaller = g.op("Mul", product, g.constant(1 / shrink, "float32"))
        return g.op("Mul", self.wide(self.linear(self.narrow(smaller), down)), g.constant(shrink, "float32"))

    def heads(self, x: str, count: int, head_dim: int) -> str:
        """[N, A * E] -> [N, A, E]."""
        return self.graph.op("Reshape", x, self.graph.constant([-1, count, head_dim]))

    def halves(self, x: str, half: int) -> list[str]:
        """The two halves of the last axis."""
        g = self.graph
        return [
            g.op("Slice", x, g.constant([start]), g.constant([start + half]), g.constant([-1])) for start in (0, half)
        ]

    def gelu(self, x: str) -> str:
        """Exact GELU, float32."""
        g = self.graph
        if self.profile.native_operators:
            return g.op("Gelu", x)
        erf = g.op("Erf", g.op("Div", x, g.constant(2**0.5, "float32")))
        return g.op("Mul", g.op("Mul", x, g.op("Add", erf, g.constant(1.0, "float32"))), g.constant(0.5, "float32"))

    def _cast(self, x: str, dtype: str) -> str:
        return self.graph.op("Cast", x, to=ONNX_TYPES[dtype])


def _flat(blocks: Iterable[Array]) -> Iterable[Array]:
    return (block.reshape(block.shape[0], -1) for block in blocks)
