"""Compiles pycuda, which has no wheels and without which no plan runs.

It needs a C++ compiler, Python's headers and `cuda.h`, but not nvcc, because we compile no kernels with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from penguin_engine.bench.gpu_check.step import Finding, Skipped
from penguin_engine.bench.gpu_check.wheels import JOINED, SITE

_SETTINGS = "CUDA_ROOT = {root!r}\nCUDA_ENABLE_CURAND = False\nCUDADRV_LIB_DIR = [{stub!r}]\n"
"""Of its build, which would look for CUDA next to nvcc, even if that is a script elsewhere."""


def install(work: Path) -> Finding:
    """Compiles the source among the wheels and installs it next to them."""
    source = next((work / JOINED).glob("pycuda-*.tar.gz"), None)
    root = _toolkit()
    needed = {"its source among the wheels": source, "cuda.h (CUDA toolkit)": root, "g++": shutil.which("g++")}
    if missing := [name for name, found in needed.items() if not found]:
        raise Skipped(f"pycuda has no wheels and cannot be compiled here without {', '.join(missing)}")
    (work / ".aksetup-defaults.py").write_text(_SETTINGS.format(root=str(root), stub=str(_stub(work))))
    # Compiled fast, because these are only bindings. The linker drops a library without symbols unless told otherwise.
    flags = {"CFLAGS": "-O0 -w", "LDFLAGS": "-Wl,--no-as-needed"}
    environment = os.environ | flags | {"HOME": str(work), "PYTHONPATH": os.pathsep.join(sys.path)}
    options = ("--no-index", "--no-deps", "--no-build-isolation", "--target", work / SITE)
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], env=environment, check=True)
    return Finding(f"compiled with {root}")


def _toolkit() -> Path | None:
    """Returns the folder of the CUDA toolkit."""
    nvcc = shutil.which("nvcc")
    named = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_ROOT") if os.environ.get(name)]
    near_nvcc = [Path(nvcc).resolve().parents[1]] if nvcc else []
    folders = [*named, *near_nvcc, *sorted(Path("/usr/local").glob("cuda*"))]
    return next((folder for folder in folders if (folder / "include" / "cuda.h").is_file()), None)


def _stub(work: Path) -> Path:
    """Returns a folder with an empty `libcuda.so` to link with: toolkits may lack one, and drivers name theirs else."""
    options = ("-shared", "-x", "c", "/dev/null", "-Wl,-soname,libcuda.so.1", "-o", work / "libcuda.so")
    subprocess.run(["gcc", *options], check=True)
    return work
