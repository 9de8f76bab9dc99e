"""ONNX Runtime's devices and sessions: what is installed, and graphs loaded onto it.

A device that cannot be used is an error. Operators that a GPU's provider lacks are another matter: ONNX Runtime gives
them to the CPU by itself, and wants a few there (sizes and indices). Versions that tell where operators went are asked,
and products, attention or norms on the CPU are an error; older ones do not tell, and it shows in the speed only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from penguin_engine.runtimes.exported import STORAGE
from penguin_models.errors import EngineError

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_ERRORS = (
    ort_errors.Fail,
    ort_errors.EPFail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
_COMPUTE = {
    *("Gemm", "MatMul", "MatMulNBits", "QuantizeLinear", "DequantizeLinear"),
    *("Attention", "GroupQueryAttention", "MultiHeadAttention", "RotaryEmbedding", "Softmax", "TensorScatter"),
    *("Gelu", "ReduceMean", "RMSNormalization", "Sigmoid"),
}
"""Operators of exported graphs whose work grows with the model; the rest are sizes, indices and what goes with them."""


@dataclass(frozen=True)
class Device:
    """Where a session runs: "cpu", "cuda:0", "tensorrt:0"."""

    kind: str
    index: int

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    @classmethod
    def parse(cls, text: str) -> Device:
        """Reads a device and checks that the installed ONNX Runtime has it."""
        kind, _, index = text.partition(":")
        if kind not in _PROVIDERS or not (index or "0").isdigit() or (kind == "cpu" and index):
            raise EngineError(
                f"device {text!r} is unknown to the onnx runtime; choose cpu, cuda, cuda:1, tensorrt, ..."
            )
        available = ort.get_available_providers()
        if _PROVIDERS[kind] not in available:
            raise EngineError(
                f"ONNX Runtime {ort.__version__} here cannot use device {text!r}: it has {', '.join(available)}; "
                "install onnxruntime-gpu in place of onnxruntime, or use --device cpu"
            )
        return cls(kind, int(index or 0))

    @property
    def memory(self) -> str:
        """Where caches lie."""
        return "cpu" if self.kind == "cpu" else "cuda"

    @property
    def providers(self) -> list[Any]:
        """The execution providers of a session, the wanted one first."""
        if self.kind == "cpu":
            return [_PROVIDERS["cpu"]]
        options = {"device_id": str(self.index)}
        wanted = ("tensorrt", "cuda") if self.kind == "tensorrt" else ("cuda",)
        return [(_PROVIDERS[kind], options) for kind in wanted]

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Memory for a cache; on a CPU it is taken page by page as it fills."""
        return ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, STORAGE[dtype]), self.memory, self.index)


def best_device() -> str:
    """ "cuda" where the installed ONNX Runtime has it, else "cpu"."""
    return "cuda" if _PROVIDERS["cuda"] in ort.get_available_providers() else "cpu"


def open_session(path: Path, device: Device, threads: int | None, float8: bool = False) -> Any:
    """Loads a graph.

    Args:
        path: of the graph.
        device: where it runs.
        threads: of one operator on a CPU; all cores if None.
        float8: whether it holds 8-bit floats.

    Raises:
        EngineError: ONNX Runtime here cannot load it, or not on that device.
    """
    tells = device.kind != "cpu" and hasattr(ort.InferenceSession, "get_provider_graph_assignment_info")
    options = ort.SessionOptions()
    if tells:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # shapes change from step to step
    if threads is not None:
        options.intra_op_num_threads = threads
    # Threads that wait for work give their core back after each run: the robot has other things to do.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if float8:  # moving 8-bit floats through other operators, as it does with integers, makes an invalid graph
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        session = ort.InferenceSession(str(path), options, providers=device.providers)
    except _ERRORS as err:
        reason = " ".join(str(err).split())[:300]
        raise EngineError(f"ONNX Runtime {ort.__version__} cannot load {path} on {device}: {reason}") from err
    if session.get_providers()[0] != _PROVIDERS[device.kind]:
        raise EngineError(
            f"ONNX Runtime {ort.__version__} did not start {_PROVIDERS[device.kind]} for {path}; are the CUDA "
            "libraries that it needs installed?"
        )
    if tells:
        _check_assignment(session.get_provider_graph_assignment_info(), path, device)
    return session


def run(session: Any, binding: Any, what: str, remedy: str) -> None:
    """Runs a graph on what is bound.

    Args:
        session: of the graph.
        binding: its inputs and outputs.
        what: is done, for the message.
        remedy: where it fails, mostly for lack of memory.

    Raises:
        EngineError: ONNX Runtime failed.
    """
    options = ort.RunOptions()
    options.log_severity_level = 4  # what fails is raised, once
    try:
        session.run_with_iobinding(binding, options)
    except (*_ERRORS, RuntimeError) as err:
        reason = " ".join(str(err).split())[-300:]
        raise EngineError(f"ONNX Runtime {ort.__version__} failed at {what}: ...{reason}; {remedy}") from err


def _check_assignment(assigned: Iterable[Any], path: Path, device: Device) -> None:
    """Raises EngineError where operators that calculate run on the CPU."""
    on_cpu = [part for part in assigned if part.ep_name == _PROVIDERS["cpu"]]
    counts = Counter(node.op_type for part in on_cpu for node in part.get_nodes() if node.op_type in _COMPUTE)
    if counts:
        found = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        raise EngineError(
            f"ONNX Runtime {ort.__version__} would run {found} of {path} on the CPU: its {device.kind} provider has no "
            "such operators for these types; export another profile or type, take a newer onnxruntime-gpu, or "
            "--device cpu"
        )
