"""Downloads the wheels that the check needs in addition to torch, for another Python version if need be.

Runs in the environment of `make setup`: the packages installed there say what needs what.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from penguin_engine.bench.gpu_check.wheels import write_parts
from penguin_models.errors import EngineError

_NEEDED = (
    *("transformers", "safetensors", "numpy", "pillow", "opencv-python-headless"),
    *("onnx", "ml-dtypes", "onnxruntime"),
)
_PLANS = ("onnxruntime-ep-nv-tensorrt-rtx-cu13", "tensorrt-rtx-cu13-bindings")
_PYCUDA = ("pytools", "platformdirs", "siphash24", "mako")
"""What pycuda needs at run time; it is not installed here, so that its metadata cannot be asked."""
_PLATFORMS = [*(f"manylinux_2_{minor}_x86_64" for minor in range(35, 4, -1)), "manylinux2014_x86_64"]
"""Up to the C library of Ubuntu 22.04."""


def pack(folder: Path, constraints: Path, python: str) -> list[int]:
    """Downloads wheels for a Python version ("3.12") and writes them to parts in a folder, which must be empty.

    Returns:
        The number of parts for the torch runtime, and of those for TensorRT, which can be left out.

    Raises:
        EngineError: The folder is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise EngineError(f"{folder} is not empty; choose another folder")
    versions = pinned(constraints, python)
    torch = required(["torch"], python)
    needed = sorted(required(_NEEDED, python) - torch)
    with tempfile.TemporaryDirectory() as downloads:
        runtime = _download(needed, versions, Path(downloads) / "runtime", _for_python(python))
        plans = _download((*_PLANS, *_PYCUDA), versions, Path(downloads) / "plans", _for_python(python))
        plans += _download(["pycuda"], versions, Path(downloads) / "pycuda", ["--no-binary", "pycuda"])
        return write_parts([runtime, plans], folder)


def pinned(constraints: Path, python: str) -> dict[str, str]:
    """Returns the version of each package in a file of constraints for a Python version."""
    lines = (line.partition("#")[0].strip() for line in constraints.read_text().splitlines())
    requirements = [Requirement(line) for line in lines if line]
    chosen = [r for r in requirements if r.marker is None or r.marker.evaluate(_environment(python))]
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in chosen}


def required(roots: Iterable[str], python: str) -> set[str]:
    """Returns the names of packages and of everything that they require, extras included, on a Python version."""
    found: dict[tuple[str, str], None] = {}
    queue = [(canonicalize_name(name), "") for name in roots]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in found:
            continue
        found[name, extra] = None
        for text in _requires(name):
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or marker.evaluate(_environment(python) | {"extra": extra}):
                needed = canonicalize_name(requirement.name)
                queue += [(needed, extra) for extra in ("", *requirement.extras)]
    return {name for name, _ in found}


def _requires(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []  # for another system or version, such as the CUDA libraries of torch


def _environment(python: str) -> dict[str, str]:
    return {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}


def _for_python(python: str) -> list[str]:
    platforms = [option for platform in _PLATFORMS for option in ("--platform", platform)]
    return ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms]


def _download(names: Iterable[str], versions: dict[str, str], folder: Path, options: Sequence[str]) -> list[Path]:
    wanted = [f"{name}=={versions[name]}" if name in versions else name for name in names]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *options, "-d", str(folder), *wanted]
    subprocess.run(command, check=True)
    return sorted(folder.iterdir())
