"""What figures were measured on."""

from __future__ import annotations

import importlib.util
import os
import platform
from pathlib import Path
from typing import Any


def machine_facts() -> dict[str, Any]:
    """Processor, cores that may be used, and torch with its threads; None for both where it is not installed."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    found: dict[str, Any] = {
        "cpu": model or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": None,
        "torch": None,
    }
    if importlib.util.find_spec("torch") is not None:
        import torch

        found |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    return found
