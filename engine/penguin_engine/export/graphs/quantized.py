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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import torch

from penguin_engine.export.calibration import Calibration
from penguin_engine.export.graphs.graph import NUMPY_TYPES, Array, Graph
from penguin_engine.export.graphs.weights import CheckpointWeights
from penguin_models.tensor_files import released_name
from penguin_models.types import Float32Array

Int8Array = npt.NDArray[np.int8]
Squares = tuple[float, float]
"""Sums of the squares of a layer's rounding errors and of its weights, each weighted by the importance of its input."""
GROUP = 128
FLOAT8_LIMIT = 448.0
"""Largest E4M3 number."""
_BITS = {"int4": 4, "int8": 8}
_CANDIDATES = {4: np.linspace(1.05, 0.75, 7), 8: np.linspace(1.0, 0.94, 4)}
"""Scales that are tried, relative to the scale that just represents the largest weight of a group."""
_CHUNK_WEIGHTS = 2**18
"""Weights that a core rounds at a time, few enough for its cache."""
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
        self.squares: dict[str, Squares] = {}  # of the layers that are written

    def includes(self, name: str) -> bool:
        """Returns whether a layer is quantised."""
        return name in self._kinds

    def write(self, x: str, name: str, stored: str) -> str | None:
        """Writes x W^t for a layer whose weight has the name `stored`; returns None if the layer is not quantised."""
        kind = self._kinds.get(name)
        if kind is None:
            return None
        if kind == "fp8":
            return self._float8(x, name, stored)
        return self._matmul_nbits(x, name, stored, kind) if self._contrib else self._dequantized(x, name, stored)

    def _rounded(self, name: str, stored: str, bits: int) -> Iterator[_Rounded]:
        """Yields chunks of rows, which all cores round at the same time."""
        mean_squares = self._calibration.mean_squares.get(name)
        importance = None if mean_squares is None else _padded_importance(mean_squares)
        error = total = 0.0
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for block in self._weights.float_blocks(stored):
                rows = max(1, _CHUNK_WEIGHTS // block.shape[1])
                chunks = [block[start : start + rows] for start in range(0, len(block), rows)]
                for rounded in pool.map(partial(_round_rows, bits=bits, importance=importance), chunks):
                    error, total = error + rounded.error, total + rounded.total
                    yield rounded
        self.squares[name] = error, total

    def _matmul_nbits(self, x: str, name: str, stored: str, kind: str) -> str:
        rows, columns = self._weights.shape(stored)
        groups, bits = -(-columns // GROUP), _BITS[kind]
        scales: list[Float32Array] = []

        def packed() -> Iterator[Array]:
            for rounded in self._rounded(name, stored, bits):
                scales.append(rounded.scales)
                unsigned = rounded.integers.view(np.uint8) + np.uint8(1 << (bits - 1))  # modulo 256
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
        q = np.concatenate([part.integers for part in rounded]).reshape(rows, -1)[:, :columns].T  # [C, R]
        scales = np.concatenate([part.scales for part in rounded]).T  # [B, R]
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
    rounded = _round_rows(weights, bits, None if importance is None else _padded_importance(importance))
    return rounded.integers, rounded.scales


@dataclass(frozen=True)
class _Rounded:
    """Rows rounded to integers, and the sums of squares over them, weighted by importance."""

    integers: Int8Array  # [R, B, G]
    scales: Float32Array  # [R, B]
    error: float  # sum of squared rounding errors
    total: float  # sum of squared weights


def _padded_importance(importance: Float32Array) -> Float32Array:
    weight = importance + 1e-3 * importance.mean() + np.float32(1e-12)
    return np.pad(weight, (0, -len(weight) % GROUP)).reshape(-1, GROUP).astype(np.float32)


def _round_rows(weights: Float32Array, bits: int, importance: Float32Array | None) -> _Rounded:
    """See `round_to_groups`; `importance` is [B, G]. Fast if the rows fit into a core's cache (`_CHUNK_WEIGHTS`)."""
    rows, columns = weights.shape
    padding = -columns % GROUP
    grouped = (np.pad(weights, ((0, 0), (0, padding))) if padding else weights).reshape(rows, -1, GROUP)
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    weighted = grouped if importance is None else grouped * importance
    largest = np.maximum(grouped.max(axis=-1), -grouped.min(axis=-1))
    largest[largest == 0] = 1.0  # any scale represents zeros
    q, weighted_q = np.empty_like(grouped), np.empty_like(grouped)
    steps = np.empty_like(largest)
    best = np.full_like(largest, -1.0)
    scales = np.empty_like(largest)
    for candidate in _CANDIDATES[bits]:
        step = largest * np.float32(candidate / high)
        _divide_and_round(grouped, step, low, high, q)
        of_q = q if importance is None else np.multiply(q, importance, out=weighted_q)
        norm = np.maximum(_dot(of_q, q), np.float32(1e-30))
        product = _dot(weighted, q)
        # With the least-squares scale, product / norm, the squared error is smaller than the weights' squares by this.
        explained = product * product / norm
        better = explained > best
        np.copyto(best, explained, where=better)
        np.copyto(steps, step, where=better)
        np.copyto(scales, product / norm, where=better)
    _divide_and_round(grouped, steps, low, high, q)
    total = _dot(weighted, grouped).sum(dtype=np.float64)
    error = max(0.0, float(total - best.sum(dtype=np.float64)))
    np.copyto(scales, steps, where=scales <= 0)  # groups of zeros
    return _Rounded(q.astype(np.int8), scales, error, float(total))


def _divide_and_round(grouped: Float32Array, step: Float32Array, low: int, high: int, out: Float32Array) -> None:
    np.multiply(grouped, (1 / step)[..., None], out=out)
    np.rint(out, out=out)
    np.clip(out, low, high, out=out)


def _dot(a: Float32Array, b: Float32Array) -> Float32Array:
    product: Float32Array = np.einsum("rbg,rbg->rb", a, b)
    return product


def pack_nibbles(values: Array) -> npt.NDArray[np.uint8]:
    """Packs pairs of 4-bit numbers into bytes in array order, the first of each pair in the lower half."""
    pairs = values.reshape(-1, 2).astype(np.uint8)
    packed: npt.NDArray[np.uint8] = np.bitwise_or(pairs[:, 0], pairs[:, 1] << 4, dtype=np.uint8)
    return packed
