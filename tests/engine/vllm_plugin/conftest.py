"""A real vLLM, in an environment of its own: its requirements conflict with constraints.txt."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DEFAULT = ROOT / ".vllm" / "bin" / "python"


@pytest.fixture(scope="session")
def vllm_python():
    """Returns the Python of an environment with vLLM and this package; skips if there is none."""
    python = Path(os.environ.get("PENGUIN_VLLM_PYTHON", DEFAULT))
    find = "import importlib.util as u; raise SystemExit(not (u.find_spec('vllm') and u.find_spec('penguin_engine')))"
    if not python.is_file() or subprocess.run([python, "-c", find], cwd="/").returncode:
        pytest.skip(f"{python} has no vLLM with this package: docs/vllm.md says how to install it; PENGUIN_VLLM_PYTHON")
    return python


@pytest.fixture(scope="session")
def vllm_environment():
    """Environment variables for a small model on few cores."""
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("models", "engine", "."))
    others = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return others | settings | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONPATH": paths}
