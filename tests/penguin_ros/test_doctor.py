"""What `penguin-vl doctor` reports about machines other than this one: files below a folder, tools on the PATH."""

import importlib.util
import re
from functools import cache
from importlib import metadata

import pytest

from penguin_ros.cli import doctor
from penguin_ros.cli.doctor import inspect_machine

ORIN = "NVIDIA Jetson AGX Orin Developer Kit"
RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64"


probe_once = cache(doctor.probe)


@pytest.fixture
def findings(tmp_path, monkeypatch):
    """Returns what is found on a machine with these files, by name; installed packages are tried once for all tests."""
    monkeypatch.setattr(doctor, "probe", probe_once)

    def inspect(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        machine, runtimes = inspect_machine(tmp_path)
        return {finding.name: finding for finding in [*machine, *runtimes]}

    return inspect


@pytest.mark.parametrize(
    ("script", "power"),
    [
        ("echo 'NV Power Mode: MAXN'; echo 0", "power mode MAXN"),
        ("echo 'NVPM WARN: fan mode is not set'; echo 'NV Power Mode: MODE_30W'; echo 2", "power mode MODE_30W"),
        ("echo 'something else'", "power mode unknown"),
        (None, "power mode unknown (nvpmodel: FileNotFoundError)"),
    ],
)
def test_a_jetson(findings, tmp_path, monkeypatch, script, power):
    if script:
        tool = tmp_path / "nvpmodel"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = findings({"proc/device-tree/model": ORIN + "\0", "etc/nv_tegra_release": RELEASE})
    assert found["jetson"].present
    assert found["jetson"].value == f"{ORIN}, R36 (release), {power}"


def test_another_board_is_not_a_jetson(findings):
    found = findings({"proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0"})
    assert (found["jetson"].present, found["jetson"].value) == (False, "no")


def test_memory(findings):
    assert "memory unknown" in findings({})["machine"].value
    text = "MemTotal:       8388608 kB\nMemAvailable:   2097152 kB\nHugePages_Total: 0\n"
    assert "8.0 GiB memory, 2.0 GiB available" in findings({"proc/meminfo": text})["machine"].value


def test_packages_that_are_not_installed(findings, monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = findings({"proc/device-tree/model": ORIN})
    assert {found[name].value for name in ("tensorrt", "tensorrt-rtx", "pycuda")} == {"not installed"}
    assert not found["runtime tensorrt"].present
    assert found["runtime tensorrt"].value == "missing to run plans: TensorRT, pycuda with a GPU; builds no plans"
    assert found["runtime torch"].value == "torch is not installed: pip install torch"
    assert found["ros"].value.startswith("not found: source /opt/ros/DISTRO/setup.bash")


TENSORRT = "__version__ = '10.3.0'"
CUDA = """
class Device:
    def __init__(self, index): assert index == 0
    def name(self): return "Orin"
def init(): pass
"""
NO_DRIVER = "raise ImportError('libcuda.so.1: cannot open shared object file')"


@pytest.mark.parametrize(
    ("tensorrt", "cuda", "found", "gpu", "runs"),
    [
        (TENSORRT, CUDA, r"10\.3\.0", "installed; Orin", "runs plans; builds plans of TensorRT$"),
        (TENSORRT, NO_DRIVER, r"10\.3\.0", "installed; cannot be used: .* libcuda", "missing .*: pycuda with a GPU; "),
        (
            "raise ImportError('libnvinfer.so.10: cannot open shared object file')",
            CUDA,
            r"TensorRT cannot be loaded \(libnvinfer\.so\.10: .*\); install it again: on a Jetson",
            "installed; Orin",
            "missing to run plans: TensorRT; builds no plans",
        ),
        ("import os; os.abort()", None, "cannot be used: it ends the process with SIGABRT", "not installed", "missing"),
        (None, None, "not installed", "not installed", "missing"),
    ],
)
def test_tensorrt_is_tried(tmp_path, monkeypatch, tensorrt, cuda, found, gpu, runs):
    """Packages are found without pip's metadata, as on a Jetson; a broken one does not end the command."""
    if any(importlib.util.find_spec(name) for name in ("tensorrt", "pycuda")):
        pytest.skip("tensorrt or pycuda is installed here")
    monkeypatch.setattr(doctor, "_FLAVOURS", {"tensorrt": "tensorrt"})
    packages = {"tensorrt/__init__.py": tensorrt, "pycuda/__init__.py": cuda and "", "pycuda/driver.py": cuda}
    (tmp_path / "tensorrt").mkdir()  # without a module, it is a folder of plans
    for name, content in packages.items():
        if content is not None:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    packages, runtime = doctor._tensorrt()
    by_name = {package.name: package for package in packages}
    for name, value in (("tensorrt", found), ("pycuda", gpu)):
        assert re.match(value, by_name[name].value)
    assert re.match(runs, runtime.value)
    assert runtime.present == runs.startswith("runs")
