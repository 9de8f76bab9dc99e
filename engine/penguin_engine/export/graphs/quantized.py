"""Linear layers whose weights are 8-bit or 4-bit integers, or 8-bit floats.

Integers: every group of inputs of an output has a scale, and weights are integer multiples of it (symmetric). The scale
is searched for the least squared error, weighted by the mean square of each input on calibration data. For ONNX Runtime
the layer is a `MatMulNBits`, which computes with integers; for TensorRT it is an explicit DequantizeLinear before the
product.

8-bit floats (E4M3): one scale per layer. Inputs are rounded too, at the scale found by the calibration: explicit
QuantizeLinear and DequantizeLinear on both sides.

Axes: R rows (outputs), C columns (inputs), B groups per row, G inputs per group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

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
"""Largest E4M3 number."""
_BITS = {"int4": 4, "int8": 8}
_CANDIDATES = {4: np.linspace(1.05, 0.75, 7), 8: np.linspace(1.0, 0.94, 4)}
"""Scales that are tried, relative to the scale that just represents the largest weight of a group."""
_INTEGER_ACTIVATIONS = 4
"""Accuracy level at which MatMulNBits computes with 8-bit inputs."""


class QuantizedLinears:
    """Writes the linear layers that are quantised: `kinds` is "int8", "int4" or "fp8" by layer name.

    Inputs and outputs have the type `dtype`; `contrib` selects ONNX Runtime's own operators.
    """

    def __init__(
        self,
        graph: Graph,
        weights: CheckpointWeights,
        kinds: Mapping[str, str],
        calibration: Calibration,
        dtype: str,
        contrib: bool,
    ):
        self._graph, self._weights, self._kinds = graph, weights, kinds
        self._calibration, self._dtype, self._contrib = calibration, dtype, contrib

    def write(self, x: str, name: str, stored: str) -> str | None:
        """Writes x W^t for a layer whose weight has the name `stored`; returns None if the layer is not quantised."""
        kind = self._kinds.get(name)
        if kind is None:
            return None
        if kind == "fp8":
            return self._float8(x, name, stored)
        return self._matmul_nbits(x, name, stored, kind) if self._contrib else self._dequantized(x, name, stored)

    def _rounded(self, name: str, stored: str, bits: int) -> Iterator[tuple[Int8Array, Float32Array]]:
        importance = self._calibration.mean_squares.get(name)
        for block in self._weights.float_blocks(stored):
            yield round_to_groups(block, bits, importance)

    def _matmul_nbits(self, x: str, name: str, stored: str, kind: str) -> str:
        rows, columns = self._weights.shape(stored)
        groups, bits = -(-columns // GROUP), _BITS[kind]
        scales: list[Float32Array] = []

        def packed() -> Iterator[Array]:
            for q, scale in self._rounded(name, stored, bits):
                scales.append(scale)
                unsigned = (q.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
                yield pack_nibbles(unsigned) if bits == 4 else unsigned

        shape = (rows, groups, GROUP * bits // 8)
        weight = self._graph.weight(f"{released_name(stored)}.{kind}", "uint8", shape, packed())
        scale = self._scales(stored, kind, np.concatenate(scales))
        sizes: dict[str, Any] = {
            "K": columns,
            "N": rows,
            "bits": bits,
            "block_size": GROUP,
            "accuracy_level": _INTEGER_ACTIVATIONS,
        }
        return self._graph.op("MatMulNBits", x, weight, scale, domain="com.microsoft", **sizes)

    def _dequantized(self, x: str, name: str, stored: str) -> str:
        """Writes int4 weights [C, R] with scales [B, R], the layout that TensorRT documents for 4-bit products."""
        rows, columns = self._weights.shape(stored)
        rounded = list(self._rounded(name, stored, 4))
        q = np.concatenate([block for block, _ in rounded]).reshape(rows, -1)[:, :columns].T  # [C, R]
        scales = np.concatenate([scale for _, scale in rounded]).T  # [B, R]
        packed = pack_nibbles(np.ascontiguousarray(q).view(np.uint8) & 15)
        weight = self._graph.weight(f"{released_name(stored)}.int4", "int4", (columns, rows), [packed])
        scale = self._scales(stored, "int4", scales)
        group = min(GROUP, columns)
        return self._graph.op("MatMul", x, self._graph.op("DequantizeLinear", weight, scale, axis=0, block_size=group))

    def _float8(self, x: str, name: str, stored: str) -> str:
        g, dtype = self._graph, "float8_e4m3fn"
        largest = max(float(abs(block).max()) for block in self._weights.float_blocks(stored))
        step = largest / FLOAT8_LIMIT
        blocks = ((b / step).astype(ml_dtypes.float8_e4m3fn) for b in self._weights.float_blocks(stored))
        weight = g.weight(f"{released_name(stored)}.float8", dtype, self._weights.shape(stored), blocks)
        dequantized = g.op("DequantizeLinear", weight, g.constant(step, self._dtype))
        input_scale = g.constant(self._calibration.inputs[name] / FLOAT8_LIMIT, self._dtype)
        zero = g.constant(0, dtype)
        rounded = g.op("DequantizeLinear", g.op("QuantizeLinear", x, input_scale, zero), input_scale)
        return g.op("Gemm", rounded, dequantized, transB=1)

    def _scales(self, stored: str, kind: str, scales: Float32Array) -> str:
        blocks = [scales.astype(NUMPY_TYPES[self._dtype])]
        return self._graph.weight(f"{released_name(stored)}.{kind}_scales", self._dtype, scales.shape, blocks)


def round_to_groups(
    weights: Float32Array, bits: int, importance: Float32Array | None
) -> tuple[Int8Array, Float32Array]:
    """Rounds weights, float32 [R, C], to integer multiples of one scale per group of inputs.

    `importance`, float32 [C], weighs the squared error of each input. Returns integers, int8 [R, B, G] with the last
    group padded with zeros, and scales, float32 [R, B].
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
        # The least-squares scale for these integers.
        norm = (weight * q * q).sum(axis=-1)
        scale = np.where(norm > 0, (weight * q * grouped).sum(axis=-1) / np.maximum(norm, 1e-30), scale)
        error = (weight * np.square(grouped - q * scale[..., None])).sum(axis=-1)
        better = error < errors
        best[better], scales[better], errors[better] = q[better], scale[better], error[better]
    return best, scales.astype(np.float32)


def pack_nibbles(values: Array) -> npt.NDArray[np.uint8]:
    """Packs pairs of 4-bit numbers into bytes in array order, the first of each pair in the lower half."""
    pairs = values.reshape(-1, 2).astype(np.uint8)
    packed: npt.NDArray[np.uint8] = np.bitwise_or(pairs[:, 0], pairs[:, 1] << 4, dtype=np.uint8)
    return packed
