"""The step that describes the machine."""

from __future__ import annotations

import platform
import shutil
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from penguin_engine.bench.gpu_check.step import Finding
from penguin_engine.bench.machine import machine_facts

_PACKAGES = ("torch", "transformers", "numpy", "onnx", "onnxruntime", "tensorrt_rtx_cu13_bindings", "pycuda")


def machine(work: Path) -> Finding:
    """Describes the machine: processor, GPU, driver and versions."""
    versions = {"Python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    figures: dict[str, Any] = machine_facts() | {"gpu": None, "versions": versions}
    if not torch.cuda.is_available():
        return Finding(f"no CUDA GPU; {figures['cpu']}, {figures['cores']} cores", figures)
    properties = torch.cuda.get_device_properties(0)
    figures |= {
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "gpu_memory_bytes": properties.total_memory,
        "driver": _driver_version(),
    }
    versions |= {"CUDA": str(torch.version.cuda), "driver": figures["driver"]}
    memory_gib = properties.total_memory / 2**30
    return Finding(f"{properties.name}, {figures['compute_capability']}, {memory_gib:.0f} GiB", figures)


def _driver_version() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else "unknown"
