"""ONNX Runtime's plug-in provider for TensorRT for RTX: registers it and finds its GPUs."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from penguin_engine.runtimes.tensorrt.flavour import load_rtx_libraries
from penguin_models.errors import EngineError

DEVICE, PROVIDER = "tensorrt-rtx", "NvTensorRTRTXExecutionProvider"
"""Its names as a device of this project and in ONNX Runtime."""
_PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"
_TITLE = "ONNX Runtime's plug-in for TensorRT for RTX"
_INSTALL = "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13 (Linux x86-64)"
_OLDEST = (1, 30)
"""Older versions of ONNX Runtime lack plug-ins, or bind CUDA memory as if it were not the plug-in's."""


def find_gpu(index: int) -> Any:
    """Returns ONNX Runtime's device for CUDA's GPU `index`; registers the plug-in first.

    Raises:
        EngineError: The plug-in is not installed or cannot be loaded, or it does not support this GPU.
    """
    _register()
    # ONNX Runtime lists devices in no particular order, but their memory has CUDA's index.
    gpus = {
        device.memory_info(ort.OrtDeviceMemoryType.DEFAULT).device_id: device
        for device in ort.get_ep_devices()
        if device.ep_name == PROVIDER
    }
    if index not in gpus:
        found = ", ".join(map(str, sorted(gpus))) or "none"
        raise EngineError(
            f"{_TITLE} cannot use GPU {index}: it needs a GeForce RTX 30 or newer (usable here: {found}); use another "
            "--device"
        )
    return gpus[index]


@cache
def _register() -> None:
    """Registers the plug-in, which is possible once per process; a failed attempt is repeated by the next call."""
    if importlib.util.find_spec(_PACKAGE) is None:
        raise EngineError(f"{_TITLE} is not installed; run: {_INSTALL}")
    if tuple(int(part) for part in ort.__version__.split(".")[:2]) < _OLDEST:
        needed = ".".join(map(str, _OLDEST))
        raise EngineError(
            f"{_TITLE} needs ONNX Runtime {needed} or newer, but {ort.__version__} is installed; run: "
            f"pip install 'onnxruntime>={needed}', with Python 3.11 or newer"
        )
    try:
        load_rtx_libraries()  # the package itself does not load CUDA's runtime library, which it contains
        import onnxruntime_ep_nv_tensorrt_rtx as package

        ort.register_execution_provider_library(PROVIDER, package.get_library_path())
    except (ImportError, OSError, ort_errors.Fail, ort_errors.InvalidArgument, ort_errors.NotImplemented) as err:
        reason = str(err).rpartition("with error: ")[2]
        driver = "libcuda" in reason or "libnvidia" in reason
        remedy = "install the driver of your NVIDIA GPU" if driver else f"install it again: {_INSTALL}"
        raise EngineError(f"{_TITLE} cannot be loaded ({reason}); {remedy}, or use --device cpu") from err
