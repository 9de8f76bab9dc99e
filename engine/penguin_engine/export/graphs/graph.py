"""An ONNX graph written node by node, its weights streamed to a file beside it as they are named.

Exporters that trace a model hold it in memory, some of them twice, and fix whatever size they saw; here every dimension
is what the caller says, and little more than one block of rows is in memory. Knows nothing of this project's model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]
Dimension = int | str
NUMPY_TYPES: dict[str, Any] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int64": np.dtype(np.int64),
    "int32": np.dtype(np.int32),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "bool": np.dtype(np.bool_),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
}
ONNX_TYPES: dict[str, int] = {
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
    "int64": onnx.TensorProto.INT64,
    "int32": onnx.TensorProto.INT32,
    "int8": onnx.TensorProto.INT8,
    "uint8": onnx.TensorProto.UINT8,
    "int4": onnx.TensorProto.INT4,
    "bool": onnx.TensorProto.BOOL,
    "float8_e4m3fn": onnx.TensorProto.FLOAT8E4M3FN,
}
_ALIGNMENT = 4096
"""Offsets of tensors in a weight file: pages, so that a runtime can map them."""
_IR_VERSIONS = ((24, 11), (21, 10), (0, 9))


class WeightFile:
    """The file beside a graph that holds its weights. Use as a context manager."""

    def __init__(self, path: Path):
        self.name = path.name
        self._path = path
        self._file: IO[bytes] | None = None

    def __enter__(self) -> WeightFile:
        self._file = self._path.open("wb")
        return self

    def __exit__(self, *error: object) -> None:
        assert self._file is not None
        self._file.close()

    def append(self, blocks: Iterable[Array]) -> tuple[int, int]:
        """Writes blocks one after the other: (offset, length) in bytes."""
        assert self._file is not None
        offset = -(-self._file.tell() // _ALIGNMENT) * _ALIGNMENT
        self._file.seek(offset)
        for block in blocks:
            self._file.write(np.ascontiguousarray(block).view(np.uint8).data)
        return offset, self._file.tell() - offset


class Graph:
    """A graph under construction; values are known by their names.

    Args:
        name: of the graph.
        opset: version of the standard operators.
        weights: where weights go.
        contrib: whether operators of ONNX Runtime's own domain (`com.microsoft`) may be used.
    """

    def __init__(self, name: str, opset: int, weights: WeightFile, contrib: bool = False):
        self.opset = opset
        self._name, self._weights, self._contrib = name, weights, contrib
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: str, shape: Sequence[Dimension]) -> str:
        """Declares an input; dimensions given as text are symbolic."""
        self._inputs.append(helper.make_tensor_value_info(name, ONNX_TYPES[dtype], list(shape)))
        return name

    def output(self, name: str, dtype: str, shape: Sequence[Dimension]) -> None:
        """Makes the value of this name an output of the graph."""
        self._outputs.append(helper.make_tensor_value_info(name, ONNX_TYPES[dtype], list(shape)))

    def op(self, kind: str, *inputs: str, named: str = "", domain: str = "", **attributes: Any) -> str:
        """Adds an operator with one output; `named` gives it a name of the caller's choice."""
        return self.ops(kind, [named or f"{kind}_{len(self._nodes)}"], *inputs, domain=domain, **attributes)[0]

    def ops(self, kind: str, outputs: list[str], *inputs: str, domain: str = "", **attributes: Any) -> list[str]:
        """Adds an operator whose outputs have these names."""
        assert not domain or self._contrib, f"{domain}.{kind} in a graph of standard operators"
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), outputs, name=name, domain=domain, **attributes))
        return outputs

    def constant(self, values: Any, dtype: str = "int64") -> str:
        """A small constant, kept inside the graph; equal ones are kept once."""
        array = np.asarray(values, dtype=NUMPY_TYPES[dtype])
        name = f"{dtype}{list(array.shape)}:{','.join(map(repr, array.ravel().tolist()))}"
        if len(name) > 60:
            name = f"constant_{len(self._initializers)}"
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def weight(self, name: str, dtype: str, shape: Sequence[int], blocks: Iterable[Array]) -> str:
        """A weight, streamed to the weight file block by block; stored once however often it is named."""
        if name not in self._initializers:
            offset, length = self._weights.append(blocks)
            self._external(name, dtype, shape, self._weights.name, offset, length)
        return name

    def shared_weight(self, name: str, dtype: str, shape: Sequence[int], file: Path) -> str:
        """A weight that is the whole content of another file beside the graph."""
        if name not in self._initializers:
            self._external(name, dtype, shape, file.name, 0, file.stat().st_size)
        return name

    def save(self, path: Path) -> None:
        """Writes the graph; its weights have been written already."""
        graph = helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, list(self._initializers.values())
        )
        imports = [helper.make_opsetid("", self.opset)]
        if self._contrib:
            imports.append(helper.make_opsetid("com.microsoft", 1))
        ir_version = next(version for opset, version in _IR_VERSIONS if self.opset >= opset)
        model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version, producer_name="penguin_vl")
        path.write_bytes(model.SerializeToString())

    def _external(self, name: str, dtype: str, shape: Sequence[int], file: str, offset: int, length: int) -> None:
        bits = 4 if dtype == "int4" else 8 * NUMPY_TYPES[dtype].itemsize
        assert length == -(-math.prod(shape) * bits // 8), f"{name}: {length} bytes for {dtype} {list(shape)}"
        tensor = onnx.TensorProto(name=name, data_type=ONNX_TYPES[dtype], dims=list(shape))
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", file), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self._initializers[name] = tensor
