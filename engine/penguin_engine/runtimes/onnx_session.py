"""ONNX Runtime's devices and sessions: checks what is installed and loads graphs onto a device.

A device that cannot be used is an error. Operators that a GPU provider lacks are another matter: ONNX Runtime assigns
them to the CPU silently, which is intended for a few (sizes and indices). If the installed version reports the
assignment, products, attention or norms on the CPU are an error; with older versions the only symptom is low speed.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from penguin_engine.runtimes import onnx_plugin
from penguin_engine.runtimes.exported import STORAGE
from penguin_models.errors import EngineError

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    onnx_plugin.DEVICE: onnx_plugin.PROVIDER,
}
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
    *("GroupQueryAttention", "MultiHeadAttention", "Softmax", "ReduceMean", "Sigmoid"),
}
"""Operators of exported graphs whose work grows with the model; the others only handle sizes and indices."""


@dataclass(frozen=True)
class Device:
    """Where a session runs: "cpu", "cuda:0", "tensorrt:0", "tensorrt-rtx:0"."""

    kind: str
    index: int

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    @classmethod
    def parse(cls, text: str) -> Device:
        """Parses a device and checks that the installed ONNX Runtime supports it."""
        kind, _, index = text.partition(":")
        if kind not in _PROVIDERS or not (index or "0").isdecimal() or (kind == "cpu" and index):
            raise EngineError(
                f"device {text!r} is unknown to the onnx runtime; choose cpu, cuda, cuda:1, tensorrt, tensorrt-rtx, ..."
            )
        device = cls(kind, int(index or 0))
        if kind == onnx_plugin.DEVICE:
            onnx_plugin.find_gpu(device.index)
        elif _PROVIDERS[kind] not in (available := ort.get_available_providers()):
            raise EngineError(
                f"ONNX Runtime {ort.__version__} cannot use device {text!r}, it only has {', '.join(available)}; "
                "install onnxruntime-gpu instead of onnxruntime, or use --device cpu"
            )
        return device

    @property
    def memory(self) -> str:
        """Name of the memory in which caches are allocated."""
        return "cpu" if self.kind == "cpu" else "cuda"

    def providers(self, options: ort.SessionOptions) -> list[Any] | None:
        """Returns the execution providers of a session, the requested one first; a plug-in is added to `options`."""
        if self.kind == onnx_plugin.DEVICE:
            options.add_provider_for_devices([onnx_plugin.find_gpu(self.index)], {})
            return None
        device = {} if self.kind == "cpu" else {"device_id": str(self.index)}
        kinds = ("tensorrt", "cuda") if self.kind == "tensorrt" else (self.kind,)
        return [(_PROVIDERS[kind], device) for kind in kinds]

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        """Allocates memory for a cache; on a CPU, pages are only committed when they are written."""
        return ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, STORAGE[dtype]), self.memory, self.index)


def best_device() -> str:
    """Returns "cuda" if the installed ONNX Runtime supports it, else "cpu"."""
    return "cuda" if _PROVIDERS["cuda"] in ort.get_available_providers() else "cpu"


def open_session(path: Path, device: Device, threads: int | None, float8: bool = False) -> Any:
    """Loads a graph; `threads` is per operator on a CPU (None for all cores), `float8` says that it has 8-bit floats.

    Raises:
        EngineError: ONNX Runtime cannot load the graph, or cannot run it on this device.
    """
    reports_assignment = device.kind != "cpu" and hasattr(ort.InferenceSession, "get_provider_graph_assignment_info")
    options = ort.SessionOptions()
    if reports_assignment:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # shapes change from step to step
    if threads is not None:
        options.intra_op_num_threads = threads
    # Waiting threads release their core after each run, because the robot needs it for other work.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if float8:  # the optimiser moves 8-bit floats past other operators as if they were integers: an invalid graph
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        # Without enable_fallback=0, ONNX Runtime prints some errors, and then loads the graph on the CPU.
        session = ort.InferenceSession(str(path), options, providers=device.providers(options), enable_fallback=0)
    except (*_ERRORS, RuntimeError, ValueError) as err:
        reason = " ".join(str(err).split()).rpartition("[ONNXRuntimeError] : ")[2][:300]  # not where in its sources
        raise EngineError(f"ONNX Runtime {ort.__version__} cannot load {path} on {device}: {reason}") from err
    if session.get_providers()[0] != _PROVIDERS[device.kind]:
        raise EngineError(
            f"ONNX Runtime {ort.__version__} could not start {_PROVIDERS[device.kind]} for {path}; check that the CUDA "
            "libraries that it needs are installed"
        )
    if reports_assignment:
        _check_assignment(session.get_provider_graph_assignment_info(), path, device)
    _return_free_memory()
    return session


def run(session: Any, binding: Any, action: str, remedy: str, keep_memory: bool = False) -> None:
    """Runs a graph on its bound inputs and outputs.

    Working memory on the host is freed afterwards unless `keep_memory`, which suits small steps that follow each other.

    Raises:
        EngineError: ONNX Runtime failed at the `action`, mostly for lack of memory; the message ends with the `remedy`.
    """
    options = ort.RunOptions()
    options.log_severity_level = 4  # failures are raised, so they need no log line
    if not keep_memory:
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    try:
        session.run_with_iobinding(binding, options)
    except (*_ERRORS, RuntimeError) as err:
        reason = " ".join(str(err).split())[-300:]
        raise EngineError(f"ONNX Runtime {ort.__version__} failed at {action}: ...{reason}; {remedy}") from err


def _return_free_memory() -> None:
    """Returns to the system what ONNX Runtime freed after it converted weights; glibc keeps it, 200 MiB for the 2B."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def _check_assignment(assigned: Iterable[Any], path: Path, device: Device) -> None:
    """Raises EngineError if compute operators run on the CPU."""
    on_cpu = [subgraph for subgraph in assigned if subgraph.ep_name == _PROVIDERS["cpu"]]
    counts = Counter(node.op_type for subgraph in on_cpu for node in subgraph.get_nodes() if node.op_type in _COMPUTE)
    if counts:
        found = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        remedy = "export another profile or type, install a newer onnxruntime-gpu"
        if device.kind == onnx_plugin.DEVICE:
            remedy = "export with --profile portable, or another type"
        raise EngineError(
            f"ONNX Runtime {ort.__version__} would run {found} of {path} on the CPU, because its {device.kind} "
            f"provider lacks them for these types; {remedy}, or use --device cpu"
        )
