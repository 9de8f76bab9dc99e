"""A real vLLM, in an environment of its own: its requirements conflict with constraints.txt."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
from openai_servers import free_port

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "models" / "penguin-tiny"
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
    settings |= {"TORCHDYNAMO_DISABLE": "1"}  # `--enforce-eager` leaves a few functions to a C++ compiler
    settings |= {"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "60"}  # clients reuse connections for 5 s: as long as the default
    return others | settings | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONPATH": paths}


@pytest.fixture(scope="session")
def vllm_serving(vllm_python, vllm_environment):
    """Returns a context manager that runs `vllm serve models/penguin-tiny` on a port; see `_serving`."""
    return lambda port=0: _serving(vllm_python, vllm_environment, port or free_port())


@contextmanager
def _serving(python, environment, port):
    """Yields the URL of the API, the port, and a function that kills all processes of the server at once."""
    options = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "4096", "--max-num-seqs", "16"]
    command = [python.parent / "vllm", "serve", SHIPPED, "--served-model-name", "penguin-tiny", *options]
    command += ["--trust-request-mm-kwargs", "--mm-processor-kwargs", '{"max_tokens": 144}']
    command += ["--host", "127.0.0.1", "--port", str(port)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    server = subprocess.Popen(command, env=environment, cwd="/", start_new_session=True, **pipes)

    def kill():
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()

    try:
        lines = []
        for line in server.stdout:
            lines.append(line)
            if "Application startup complete" in line:
                break
        else:
            raise AssertionError("".join(lines[-40:]))
        Thread(target=server.stdout.read, daemon=True).start()  # or the pipe would fill
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}/v1", port=port, kill=kill)
    finally:
        if server.poll() is None:
            server.terminate()
            server.wait()
