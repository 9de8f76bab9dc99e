"""What `penguin-vl doctor` reports about machines other than this one: files below a folder, tools on the PATH."""

import importlib.util
from importlib import metadata

import pytest

from penguin_ros.cli.doctor import inspect_machine

ORIN = "NVIDIA Jetson AGX Orin Developer Kit"
RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64"


@pytest.fixture
def findings(tmp_path):
    """Returns what is found on a machine with these files, by name."""

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


def test_tensorrt_without_pip_metadata(findings, monkeypatch):
    """On a Jetson TensorRT is a Debian package: it can be imported, but pip does not list it."""

    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "tensorrt" else None)
    found = findings({"proc/device-tree/model": ORIN})
    assert found["tensorrt"].present and found["tensorrt"].value == "installed"
    assert found["runtime tensorrt"].value == "not installed: pycuda"
    assert found["runtime torch"].value == "torch is not installed: pip install torch"
    assert found["ros"].value.startswith("not found: source /opt/ros/DISTRO/setup.bash")
