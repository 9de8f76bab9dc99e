"""What every measurement needs: facts about the machine, elapsed time, and memory of the process and of GPUs."""

from __future__ import annotations

import importlib.util
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def machine_facts() -> dict[str, Any]:
    """Returns processor, usable cores, torch version and its threads; the last two are None without torch."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    facts: dict[str, Any] = {
        "cpu": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": None,
        "torch": None,
    }
    if importlib.util.find_spec("torch") is not None:
        import torch

        facts |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    return facts


def timed(run: Callable[[], Any], at_least_s: float = 1.0, at_least_runs: int = 1) -> float:
    """Returns the seconds of one run: the median over repeated runs."""
    return float(np.median(run_times(run, at_least_s, at_least_runs)))


def run_times(run: Callable[[], Any], at_least_s: float, at_least_runs: int = 1) -> list[float]:
    """Returns the seconds of each of several runs that together take at least `at_least_s`."""
    times: list[float] = []
    while sum(times) < at_least_s or len(times) < at_least_runs:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def resident_bytes() -> int:
    """Returns the memory that this process uses now (Linux)."""
    return _process_status("VmRSS")


def peak_bytes() -> int:
    """Returns the most memory that this process has used since its start or `reset_peak_bytes` (Linux)."""
    return _process_status("VmHWM")


def reset_peak_bytes() -> None:
    """Sets the peak to the memory in use now (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def nvml_devices() -> list[Any]:
    """Returns NVML handles of all NVIDIA GPUs; an empty list without nvidia-ml-py, a driver or a GPU."""
    if importlib.util.find_spec("pynvml") is None:
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def gpu_bytes(device: str) -> int | None:
    """Returns the memory in use on all NVIDIA GPUs; None if `device` is the CPU or NVML cannot read it.

    The sum needs no mapping from CUDA's device numbers to NVML's, which differ. A Jetson's GPU has none of its own.
    """
    devices = [] if device == "cpu" else nvml_devices()
    if not devices:
        return None
    import pynvml

    try:
        return sum(int(pynvml.nvmlDeviceGetMemoryInfo(device).used) for device in devices)
    except pynvml.NVMLError:  # not supported on this GPU, or not permitted
        return None


def _process_status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])
