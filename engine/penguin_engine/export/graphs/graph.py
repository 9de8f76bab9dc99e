"""Writes an ONNX graph node by node and streams its weights to a file next to it.

Exporters that trace a model hold it in memory, some of them twice, and fix every size they saw. Here every dimension is
what the caller declares, and memory holds little more than one block of rows. Knows nothing of this project's model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]
Dimension = int | str
ONNX_TYPES: dict[str, int] = {
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
    "int64": onnx.TensorProto.INT64,
    "int32": onnx.TensorProto.INT32,
    "uint8": onnx.TensorProto.UINT8,
    "int4": onnx.TensorProto.INT4,
    "float8_e4m3fn": onnx.TensorProto.FLOAT8E4M3FN,
}
NUMPY_TYPES = {name: helper.tensor_dtype_to_np_dtype(kind) for name, kind in ONNX_TYPES.items()}
_ALIGNMENT = 4096
"""Offsets of tensors in a weight file are multiples of the page size, so that a runtime can map them."""
_IR_VERSIONS = ((24, 11), (21, 10), (0, 9))
"""ONNX format version for each opset from the given one on."""


class Graph:
    """A graph under construction; values are identified by their names.

    Weights go to the open file `weights` in the folder of the graph. `contrib` allows operators of ONNX Runtime's own
    domain (`com.microsoft`).
    """

    def __init__(self, name: str, opset: int, weights: IO[bytes], contrib: bool = False):
        self.opset, self.contrib = opset, contrib
        self._name, self._weights = name, weights
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: str, shape: Sequence[Dimension]) -> str:
        """Declares an input; dimensions that are text are symbolic."""
        self._inputs.append(helper.make_tensor_value_info(name, ONNX_TYPES[dtype], list(shape)))
        return name

    def output(self, name: str, dtype: str, shape: Sequence[Dimension]) -> None:
        """Declares the value of this name as an output of the graph."""
        self._outputs.append(helper.make_tensor_value_info(name, ONNX_TYPES[dtype], list(shape)))

    def op(self, kind: str, *inputs: str, named: str = "", domain: str = "", **attributes: Any) -> str:
        """Adds an operator with one output and returns the output's name, which `named` can choose."""
        return self.ops(kind, [named or f"{kind}_{len(self._nodes)}"], *inputs, domain=domain, **attributes)[0]

    def ops(self, kind: str, outputs: list[str], *inputs: str, domain: str = "", **attributes: Any) -> list[str]:
        """Adds an operator whose outputs have these names."""
        assert not domain or self.contrib, f"{domain}.{kind} in a graph of standard operators"
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), outputs, name=name, domain=domain, **attributes))
        return outputs

    def constant(self, values: Any, dtype: str = "int64") -> str:
        """Adds a small constant, which is stored inside the graph; equal constants are stored once."""
        array = np.asarray(values, dtype=NUMPY_TYPES[dtype])
        name = f"{dtype}{list(array.shape)}:{','.join(map(repr, array.ravel().tolist()))}"
        if len(name) > 60:
            name = f"constant_{len(self._initializers)}"
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(array, name)
        return name

    def weight(self, name: str, dtype: str, shape: Sequence[int], blocks: Iterable[Array]) -> str:
        """Adds a weight and streams it to the weight file block by block; a name is stored only once."""
        if name not in self._initializers:
            offset = -(-self._weights.tell() // _ALIGNMENT) * _ALIGNMENT
            self._weights.seek(offset)
            for block in blocks:
                self._weights.write(np.ascontiguousarray(block).view(np.uint8).data)
            self._external(name, dtype, shape, Path(self._weights.name), offset, self._weights.tell() - offset)
        return name

    def shared_weight(self, name: str, dtype: str, shape: Sequence[int], file: Path) -> str:
        """Adds a weight that is the whole content of another file in the folder of the graph."""
        if name not in self._initializers:
            self._external(name, dtype, shape, file, 0, file.stat().st_size)
        return name

    def save(self, path: Path) -> None:
        """Writes the graph; its weights are already in the weight file."""
        graph = helper.make_graph(
            self._nodes, self._name, self._inputs, self._outputs, list(self._initializers.values())
        )
        imports = [helper.make_opsetid("", self.opset)]
        if self.contrib:
            imports.append(helper.make_opsetid("com.microsoft", 1))
        ir_version = next(version for opset, version in _IR_VERSIONS if self.opset >= opset)
        model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version, producer_name="penguin_vl")
        path.write_bytes(model.SerializeToString())

    def _external(self, name: str, dtype: str, shape: Sequence[int], file: Path, offset: int, length: int) -> None:
        bits = 4 if dtype == "int4" else 8 * NUMPY_TYPES[dtype].itemsize
        assert length == -(-math.prod(shape) * bits // 8), f"{name}: {length} bytes for {dtype} {list(shape)}"
        tensor = onnx.TensorProto(name=name, data_type=ONNX_TYPES[dtype], dims=list(shape))
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", file.name), ("offset", offset), ("length", length)):
            tensor.external_data.add(key=key, value=str(value))
        self._initializers[name] = tensor
