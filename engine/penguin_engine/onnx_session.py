"""ONNX Runtime's devices and sessions: what is installed, and graphs loaded onto it. Nothing falls back to the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from penguin_engine.exported import STORAGE
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


@dataclass(frozen=True)
class Device:
    """Where a session runs: "cpu", "cuda:0", "tensorrt:0"."""

    kind: str
    index: int

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    @classmethod
    def parse(cls, text: str) -> Device:
        """Reads a device and checks that the installed ONNX Runtime has it: nothing falls back to the CPU."""
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
    options = ort.SessionOptions()
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
    return session
