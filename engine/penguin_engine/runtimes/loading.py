"""One way to open any runtime, used by the node and by every command."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from penguin_engine.export.manifest import MANIFEST
from penguin_engine.runtimes.base import Runtime
from penguin_models.errors import EngineError
from penguin_models.processor import Processor

RUNTIMES = ("torch", "onnx", "tensorrt")


def open_runtime(
    name: str,
    path: str | Path,
    device: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
) -> tuple[Runtime, Processor]:
    """Opens a runtime and the processor that goes with it.

    Args:
        name: "torch", "onnx" or "tensorrt".
        path: for torch a checkpoint folder or `owner/name` on the model hub; else a folder that was exported (and, for
            tensorrt, built).
        device: "cpu", "cuda", "cuda:1", ..., or "auto" for CUDA where the runtime finds it; the onnx runtime also knows
            "tensorrt".
        precision: type of the weights, for torch; what an exported folder is expected to hold, for the others. As it is
            if None.
        threads: of one operator on a CPU; all cores if None.

    Raises:
        EngineError: the runtime is unknown or not installed, the folder is of another kind, damaged, or does not fit
            this machine.
        CheckpointError: the checkpoint is missing or incomplete.
    """
    if name not in _OPENERS:
        raise EngineError(f"runtime {name!r} is unknown; choose from {', '.join(RUNTIMES)}")
    exported = (Path(path).expanduser() / MANIFEST).is_file()
    if name == "torch" and exported:
        raise EngineError(f"{path} is an exported folder; use --runtime onnx or tensorrt, or give the checkpoint")
    if name != "torch" and not exported:
        raise EngineError(
            f"{path} is no exported folder, which the {name} runtime needs; make one with: "
            f"penguin-vl export --model {path} --out DIR"
        )
    return _OPENERS[name](path, device, precision, threads)


def _open_torch(path: str | Path, device: str, precision: str | None, threads: int | None) -> tuple[Runtime, Processor]:
    _need("torch", "torch", "transformers")
    import torch

    from penguin_engine.runtimes.torch import TorchRuntime
    from penguin_models.checkpoint import load_pretrained

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if threads is not None:
        torch.set_num_threads(threads)
    model, processor = load_pretrained(path, precision, device)
    return TorchRuntime(model), processor


def _open_onnx(path: str | Path, device: str, precision: str | None, threads: int | None) -> tuple[Runtime, Processor]:
    _need("onnx", "onnxruntime")
    from penguin_engine.runtimes.onnx import OnnxRuntime
    from penguin_engine.runtimes.onnx_session import best_device

    folder = Path(path).expanduser()
    runtime = OnnxRuntime(folder, best_device() if device == "auto" else device, precision, threads)
    return runtime, runtime.manifest.processor(folder)


def _open_tensorrt(
    path: str | Path, device: str, precision: str | None, threads: int | None
) -> tuple[Runtime, Processor]:
    _need("tensorrt", "tensorrt", "pycuda")
    from penguin_engine.runtimes.tensorrt.runtime import TensorRTRuntime

    folder = Path(path).expanduser()
    if device == "cpu":
        raise EngineError("the tensorrt runtime needs a GPU: --device cuda")
    runtime = TensorRTRuntime(folder, "cuda" if device == "auto" else device, precision)
    return runtime, runtime.manifest.processor(folder)


def _need(name: str, *packages: str) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise EngineError(f"the {name} runtime needs {', '.join(missing)}: pip install {' '.join(missing)}")


_OPENERS: dict[str, Callable[[str | Path, str, str | None, int | None], tuple[Runtime, Processor]]] = {
    "torch": _open_torch,
    "onnx": _open_onnx,
    "tensorrt": _open_tensorrt,
}
