"""Opens any runtime by name; used by the node and by every command."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

from penguin_engine.export.encoder_manifest import ENCODER_MANIFEST
from penguin_engine.export.manifest import MANIFEST
from penguin_engine.runtimes.base import Runtime
from penguin_models.errors import CheckpointError, EngineError
from penguin_models.hub import resolve_checkpoint
from penguin_models.processor import Processor

RUNTIMES = ("torch", "onnx", "tensorrt")


@cache
def check_model(path: str | Path, revision: str | None = None) -> None:
    """Checks that a checkpoint, an encoder or an exported folder exists, without imports that take seconds.

    Raises:
        CheckpointError: There is no such folder, repository or revision, or the folder holds something else.
    """
    folder = resolve_checkpoint(path, revision, weights=False)
    if not any((folder / name).is_file() for name in ("config.json", MANIFEST, ENCODER_MANIFEST)):
        raise CheckpointError(
            f"{folder / 'config.json'} is missing; a checkpoint folder needs it, an exported one {MANIFEST}"
        )


def open_runtime(
    name: str,
    path: str | Path,
    device: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    revision: str | None = None,
) -> tuple[Runtime, Processor]:
    """Opens a runtime and the processor of its model.

    Args:
        name: "torch", "onnx" or "tensorrt".
        path: For torch, a checkpoint folder or `owner/name` on the model hub; for the others, an exported folder, which
            for tensorrt also contains built plans.
        device: "cpu", "cuda", "cuda:1", ..., or "auto" for CUDA if the runtime finds it; the onnx runtime also accepts
            "tensorrt" and "tensorrt-rtx".
        precision: For torch, the type of the weights; if None, the stored type, or float32 on a CPU that has no
            instructions for it. For the others, the precision that the folder must have, or None for any.
        threads: Threads per operator on a CPU; None for all cores.
        revision: Branch, tag or commit of a model on the hub; None for the default branch.

    Raises:
        EngineError: The runtime is unknown or not installed, or the folder is of another kind, damaged, or does not fit
            this machine.
        CheckpointError: The checkpoint is missing or incomplete.
    """
    if name not in RUNTIMES:
        raise EngineError(f"runtime {name!r} is unknown; choose from {', '.join(RUNTIMES)}")
    folder = Path(path).expanduser()
    exported = (folder / MANIFEST).is_file()
    if name == "torch":
        if exported:
            raise EngineError(f"{path} is an exported folder; use --runtime onnx or tensorrt, or pass the checkpoint")
        return _open_torch(path, device, precision, threads, revision)
    if not exported:
        raise EngineError(
            f"{path} is not an exported folder, which the {name} runtime needs; create one with: "
            f"penguin-vl export --model {path} --out DIR"
        )
    if revision is not None:
        raise EngineError(f"{path} is an exported folder, which has no revision {revision!r}; omit the revision")
    if name == "onnx":
        return _open_onnx(folder, device, precision, threads)
    return _open_tensorrt(folder, device, precision)


def _open_torch(
    path: str | Path, device: str, precision: str | None, threads: int | None, revision: str | None
) -> tuple[Runtime, Processor]:
    _check_installed("torch", "torch", "transformers", "safetensors")
    check_model(path, revision)
    import torch

    from penguin_engine.runtimes.torch import TorchRuntime
    from penguin_models.checkpoint import load_pretrained

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if threads is not None:
        torch.set_num_threads(threads)
    model, processor = load_pretrained(path, precision or "auto", device, revision=revision)
    return TorchRuntime(model), processor


def _open_onnx(folder: Path, device: str, precision: str | None, threads: int | None) -> tuple[Runtime, Processor]:
    _check_installed("onnx", "onnxruntime")
    from penguin_engine.runtimes.onnx import OnnxRuntime
    from penguin_engine.runtimes.onnx_session import best_device

    runtime = OnnxRuntime(folder, best_device() if device == "auto" else device, precision, threads)
    return runtime, runtime.manifest.processor(folder)


def _open_tensorrt(folder: Path, device: str, precision: str | None) -> tuple[Runtime, Processor]:
    _check_installed("tensorrt", "pycuda")  # the plans say which flavour of TensorRT they need
    from penguin_engine.runtimes.tensorrt.runtime import TensorRTRuntime

    if device == "cpu":
        raise EngineError("the tensorrt runtime needs a GPU; use --device cuda")
    runtime = TensorRTRuntime(folder, "cuda" if device == "auto" else device, precision)
    return runtime, runtime.manifest.processor(folder)


def _check_installed(name: str, *packages: str) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise EngineError(f"the {name} runtime needs {', '.join(missing)}; run: pip install {' '.join(missing)}")
