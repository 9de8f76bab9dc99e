"""Memory in use on a GPU, by all processes: `python -m penguin_engine.bench.gpu_memory INDEX` asks the driver for it.

The driver answers inside a CUDA context only. A process of its own opens one, so that whoever asks has neither a
context nor a library for it in its own memory; what that context takes is in every answer alike. Where processor and
GPU share their memory, as on a Jetson, it is all memory in use.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any

from penguin_engine.runtimes.tensorrt.cuda_graph import load_driver
from penguin_models.errors import EngineError


def gpu_bytes(device: str) -> int | None:
    """GPU memory in use now; None on a CPU.

    Args:
        device: "cpu", "cuda", "cuda:1", ... (ONNX Runtime's "tensorrt" is a CUDA device too).

    Raises:
        EngineError: the driver does not say.
    """
    kind, _, index = device.partition(":")
    if kind == "cpu":
        return None
    command = [sys.executable, "-m", "penguin_engine.bench.gpu_memory", index or "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise EngineError(
            f"memory of device {device!r} cannot be read: {lines[-1]}; is there such a GPU, and its driver?"
        )
    return int(done.stdout)


def _ask_driver(index: int) -> int:
    driver = load_driver()
    device, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()

    def call(name: str, *arguments: Any) -> None:
        if error := getattr(driver, name)(*arguments):
            raise SystemExit(f"{name} failed with CUDA error {error}")

    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), index)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)
    call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return total.value - free.value


if __name__ == "__main__":
    sys.stdout.write(f"{_ask_driver(int(sys.argv[1]))}\n")
