"""Inputs and outputs of ONNX Runtime sessions: checked against the manifest, bound to host memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from penguin_engine.runtimes.exported import Array
from penguin_models.errors import EngineError

ONNX_TYPES = {"float32": 1, "float16": 10, "bfloat16": 16}
"""ONNX's numbers of types, for bindings."""
_TYPE_NAMES = {"float32": "tensor(float)", "float16": "tensor(float16)", "bfloat16": "tensor(bfloat16)"}


def check_inputs(session: Any, expected: Mapping[str, tuple[str, list[int]]], path: Path) -> None:
    """Raises EngineError unless a graph has inputs of these types and fixed sizes, as the manifest says."""
    inputs = {item.name: item for item in session.get_inputs()}
    for name, (dtype, sizes) in expected.items():
        found = inputs.get(name)
        fixed = [size for size in found.shape if isinstance(size, int)] if found else []
        if found is None or (found.type, fixed) != (_TYPE_NAMES[dtype], sizes):
            raise EngineError(
                f"{path} does not fit manifest.json, whose input {name} has the type {dtype} and the sizes {sizes}; "
                "export the checkpoint again"
            )


def bind_host_input(binding: Any, name: str, value: Array, dtype: str) -> None:
    """Binds an input to host memory; `dtype` is the graph's."""
    value = np.ascontiguousarray(value)
    if dtype == "bfloat16" and value.dtype == np.uint16:
        binding.bind_input(name, "cpu", 0, ONNX_TYPES[dtype], value.shape, value.ctypes.data)
    else:
        binding.bind_cpu_input(name, value)


def bind_host_output(binding: Any, name: str, value: Array, dtype: str) -> None:
    """Binds an output to host memory; `dtype` is the graph's."""
    binding.bind_output(name, "cpu", 0, ONNX_TYPES[dtype], value.shape, value.ctypes.data)
