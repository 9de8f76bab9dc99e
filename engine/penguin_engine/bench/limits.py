"""The limits of a device, measured now: memory bandwidth and the rate of matrix products.

Both are measured with torch. On a CPU, products are measured with ONNX Runtime too, because either can be much faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper

from penguin_engine.bench.machine import run_times
from penguin_models.errors import EngineError

_BANDWIDTH_BYTES = {"cpu": 2**29, "cuda": 2**31}
_MATRIX = {"cpu": 2048, "cuda": 8192}


def machine_limits(device: str, precision: str) -> dict[str, float]:
    """Returns the best memory bandwidth (bytes/s) and matrix rate (operations/s) that this machine reaches now.

    CPUs always multiply float32. GPUs have faster units for 16 bits, which quantised variants use too.
    """
    place = torch_device(device)
    return {
        "memory_bytes_per_s": _BANDWIDTH_BYTES[place.type] / _read_seconds(place),
        "operations_per_s": 2 * _MATRIX[place.type] ** 3 / _multiply_seconds(place, matrix_type(place, precision)),
    }


def torch_device(device: str) -> torch.device:
    """Returns torch's device for a runtime's device name, also for ONNX Runtime's "tensorrt" and "tensorrt-rtx"."""
    kind, _, index = device.partition(":")
    if kind == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise EngineError(
            f"the limits of device {device!r} are measured with torch, which finds no CUDA GPU; install torch with "
            "CUDA or measure with --device cpu"
        )
    return torch.device("cuda", int(index or 0))


def device_name(device: str) -> str | None:
    """Returns the name of a GPU; None for the CPU."""
    place = torch_device(device)
    return None if place.type == "cpu" else torch.cuda.get_device_name(place)


def matrix_type(place: torch.device, precision: str) -> torch.dtype:
    """Returns the type of the products that bound a variant."""
    if place.type == "cpu" or precision in ("float32", "f32"):
        return torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float16


def _read_seconds(place: torch.device) -> float:
    matrix = torch.ones(_BANDWIDTH_BYTES[place.type] // 4 // 4096, 4096, device=place)
    vector, out = torch.ones(4096, device=place), torch.empty(matrix.shape[0], device=place)
    return min(_best(matrix.sum, place), _best(lambda: torch.mv(matrix, vector, out=out), place))


def _multiply_seconds(place: torch.device, dtype: torch.dtype) -> float:
    size = _MATRIX[place.type]
    a = torch.ones(size, size, device=place, dtype=dtype)
    result = torch.empty_like(a)
    seconds = _best(lambda: torch.mm(a, a, out=result), place)
    return seconds if place.type == "cuda" else min(seconds, _best(_onnx_product(size), place))


def _onnx_product(size: int) -> Callable[[], Any]:
    """Returns a float32 product [size, size] x weights [size, size] that ONNX Runtime runs."""
    ones = np.ones((size, size), np.float32)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ones.shape) for name in ("x", "y"))
    product = helper.make_node("MatMul", ["x", "weights"], ["y"])
    graph = helper.make_graph([product], "product", [x], [y], [numpy_helper.from_array(ones, "weights")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": ones})


def _best(run: Callable[[], Any], place: torch.device) -> float:
    """Returns the seconds of the fastest of repeated runs."""

    def finish() -> None:
        run()
        if place.type == "cuda":
            torch.cuda.synchronize(place)

    finish()
    return min(run_times(finish, at_least_s=0.5))
