"""Linear layers whose weights are 8-bit or 4-bit integers, or 8-bit floats.

Integers: each group of inputs of an output has a scale, weights are whole multiples of it (symmetric). Scales are
searched for the least squared error, weighted by how large each input is on calibration data. For ONNX Runtime as
`MatMulNBits`, which calculates with integers; for everything else (TensorRT) as explicit DequantizeLinear in front of
the product. 8-bit floats (E4M3) have one scale a layer, and their inputs are rounded too, at the scale that the
calibration found: explicit QuantizeLinear and DequantizeLinear on both sides.

Axes: R rows (outputs), C columns (inputs), B groups of a row, G inputs of a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt

from penguin_engine.export.calibration import Calibration
from penguin_engine.export.graphs.graph import NUMPY_TYPES, Array, Graph
from penguin_engine.export.graphs.weights import CheckpointWeights
from penguin_models.tensor_files import released_name
from penguin_models.types import Float32Array

Int8Array = npt.NDArray[np.int8]
GROUP = 128
FLOAT8_LIMIT = 448.0
"""Largest number of E4M3."""
_CANDIDATES = {4: np.linspace(1.05, 0.75, 7), 8: np.linspace(1.0, 0.94, 4)}
"""Scales that are tried, relative to the one that reaches the largest weight of a group."""
_INTEGER_ACTIVATIONS = 4
"""MatMulNBits' accuracy level that calculates with 8-bit inputs."""


@dataclass(frozen=True)
class Scheme:
    """How one layer is quantised: "int8", "int4" or "float8"."""

    kind: str

    @property
    def bits(self) -> int:
        """Of a weight."""
        return 4 if self.kind == "int4" else 8


class QuantizedLinears:
    """Writes the linear layers that have a scheme.

    Args:
        graph: where operators go.
        weights: of the checkpoint.
        schemes: by name of a layer.
        calibration: of the same checkpoint.
        dtype: type of inputs and outputs.
        contrib: whether ONNX Runtime's own operators are used.
    """

    def __init__(
        self,
        graph: Graph,
        weights: CheckpointWeights,
        schemes: Mapping[str, Scheme],
        calibration: Calibration,
        dtype: str,
        contrib: bool,
    ):
        self._graph, self._weights, self._schemes = graph, weights, schemes
        self._calibration, self._dtype, self._contrib = calibration, dtype, contrib

    def write(self, x: str, name: str, stored: str) -> str | None:
        """x W^t for the layer of this name whose weight is stored under another; None if it is not quantised."""
        scheme = self._schemes.get(name)
        if scheme is None:
            return None
        if scheme.kind == "float8":
            return self._float8(x, name, stored)
        return self._matmul_nbits(x, name, stored, scheme) if self._contrib else self._dequantized(x, name, stored)

    def _rounded(self, name: str, stored: str, bits: int) -> Iterator[tuple[Int8Array, Float32Array]]:
        importance = self._calibration.mean_squares.get(name)
        for block in self._weights.float_blocks(stored):
            yield round_to_groups(block, bits, importance)

    def _matmul_nbits(self, x: str, name: str, stored: str, scheme: Scheme) -> str:
        rows, columns = self._weights.shape(stored)
        groups = -(-columns // GROUP)
        scales: list[Float32Array] = []

        def packed() -> Iterator[Array]:
            for q, scale in self._rounded(name, stored, scheme.bits):
                scales.append(scale)
                unsigned = (q.astype(np.int16) + (1 << (scheme.bits - 1))).astype(np.uint8)
                yield pack_nibbles(unsigned) if scheme.bits == 4 else unsigned

        shape = (rows, groups, GROUP * scheme.bits // 8)
        weight = self._graph.weight(f"{released_name(stored)}.{scheme.kind}", "uint8", shape, packed())
        assert scales, f"{name} is written twice"
        scale = self._scales(stored, scheme.kind, np.concatenate(scales))
        return self._graph.op(
            "MatMulNBits",
            x,
            weight,
            scale,
            domain="com.microsoft",
            K=columns,
            N=rows,
            bits=scheme.bits,
            block_size=GROUP,
            accuracy_level=_INTEGER_ACTIVATIONS,
        )

    def _dequantized(self, x: str, name: str, stored: str) -> str:
        """int4 weights [C, R] with scales [B, R]: the layout for which TensorRT documents its 4-bit products."""
        rows, columns = self._weights.shape(stored)
        rounded = list(self._rounded(name, stored, 4))
        q = np.concatenate([block for block, _ in rounded]).reshape(rows, -1)[:, :columns].T  # [C, R]
        scales = np.concatenate([scale for _, scale in rounded]).T  # [B, R]
        packed = pack_nibbles(np.ascontiguousarray(q).view(np.uint8) & 15)
        weight = self._graph.weight(f"{released_name(stored)}.int4", "int4", (columns, rows), [packed])
        scale = self._scales(stored, "int4", scales)
        group = min(GROUP, columns)
        wide = self._graph.op("DequantizeLinear", weight, scale, axis=0, block_size=group)
        return self._graph.op("MatMul", x, wide)

    def _float8(self, x: str, name: str, stored: str) -> str:
        g, kind = self._graph, "float8_e4m3fn"
        largest = max(float(abs(block).max()) for block in self._weights.float_blocks(stored))
        step = largest / FLOAT8_LIMIT
        blocks = ((b / step).astype(ml_dtypes.float8_e4m3fn) for b in self._weights.float_blocks(stored))
        weight = g.weight(f"{released_name(stored)}.float8", kind, self._weights.shape(stored), blocks)
        wide = g.op("DequantizeLinear", weight, g.constant(step, self._dtype))
        input_scale = g.constant(self._calibration.inputs[name] / FLOAT8_LIMIT, self._dtype)
        zero = g.constant(0, kind)
        rounded = g.op("DequantizeLinear", g.op("QuantizeLinear", x, input_scale, zero), input_scale)
        return g.op("Gemm", rounded, wide, transB=1)

    def _scales(self, stored: str, kind: str, scales: Float32Array) -> str:
        blocks = [scales.astype(NUMPY_TYPES[self._dtype])]
        return self._graph.weight(f"{released_name(stored)}.{kind}_scales", self._dtype, scales.shape, blocks)


def round_to_groups(
    weights: Float32Array, bits: int, importance: Float32Array | None
) -> tuple[Int8Array, Float32Array]:
    """Rounds weights to multiples of a scale for each group of inputs.

    Args:
        weights: float32 [R, C].
        bits: 4 or 8.
        importance: float32 [C], weight of the squared error of each input; all equal if None.

    Returns:
        int8 [R, B, G], the last group padded with zeros, and float32 scales [R, B].
    """
    rows, columns = weights.shape
    padding = -columns % GROUP
    grouped = np.pad(weights, ((0, 0), (0, padding))).reshape(rows, -1, GROUP)
    weight = np.ones(columns, np.float32) if importance is None else importance + 1e-3 * importance.mean() + 1e-12
    weight = np.pad(weight, (0, padding)).reshape(1, -1, GROUP)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    largest = np.abs(grouped).max(axis=-1)
    best = np.zeros_like(grouped, dtype=np.int8)
    scales, errors = np.ones_like(largest), np.full_like(largest, np.inf)
    for candidate in _CANDIDATES[bits]:
        scale = np.where(largest > 0, largest * np.float32(candidate) / high, 1.0)
        q = np.clip(np.rint(grouped / scale[..., None]), low, high)
        # The scale that fits these integers best, by least squares.
        over = (weight * q * q).sum(axis=-1)
        scale = np.where(over > 0, (weight * q * grouped).sum(axis=-1) / np.maximum(over, 1e-30), scale)
        error = (weight * np.square(grouped - q * scale[..., None])).sum(axis=-1)
        better = error < errors
        best[better], scales[better], errors[better] = q[better], scale[better], error[better]
    return best, scales.astype(np.float32)


def pack_nibbles(values: Array) -> npt.NDArray[np.uint8]:
    """Two 4-bit numbers a byte, the first in the lower half, in the order of the array."""
    pairs = values.reshape(-1, 2).astype(np.uint8)
    packed: npt.NDArray[np.uint8] = np.bitwise_or(pairs[:, 0], pairs[:, 1] << 4, dtype=np.uint8)
    return packed
