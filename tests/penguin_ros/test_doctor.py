"""What `penguin-vl doctor` says of machines that are not this one."""

import subprocess

import pytest

from penguin_ros.cli import doctor

ORIN = "NVIDIA Jetson AGX Orin Developer Kit"
RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64"


@pytest.fixture
def machine(monkeypatch):
    """Lets the doctor see these files, and a power tool that says this (or raises it; None: there is no tool)."""

    def make(files, tool=None):
        monkeypatch.setattr(doctor, "_read", files.get)
        monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/sbin/{name}" if tool else None)

        def run(command, **options):
            assert command == ["nvpmodel", "-q"]
            if isinstance(tool, Exception):
                raise tool
            return subprocess.CompletedProcess(command, 0, stdout=tool)

        monkeypatch.setattr(doctor.subprocess, "run", run)
        findings, runtimes = doctor.inspect_machine()
        return {finding.name: finding for finding in [*findings, *runtimes]}

    return make


@pytest.mark.parametrize(
    ("tool", "power"),
    [
        ("NV Power Mode: MAXN\n0\n", "power mode MAXN"),
        ("NVPM WARN: fan mode is not set\nNV Power Mode: MODE_30W\n2\n", "power mode MODE_30W"),
        ("something else\n", "power mode unknown"),
        (PermissionError(13, "Permission denied"), "power mode unknown (PermissionError)"),
        (subprocess.TimeoutExpired("nvpmodel", 10), "power mode unknown (TimeoutExpired)"),
        (None, "power mode unknown (no nvpmodel)"),
    ],
)
def test_a_jetson(machine, tool, power):
    found = machine({"/proc/device-tree/model": ORIN, "/etc/nv_tegra_release": RELEASE}, tool)
    assert found["jetson"].present
    assert found["jetson"].value == f"{ORIN}, R36 (release), {power}"


def test_a_board_that_is_no_jetson(machine):
    found = machine({"/proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0"}, "NV Power Mode: MAXN")
    assert (found["jetson"].present, found["jetson"].value) == (False, "no")


def test_memory(machine):
    assert "memory unknown" in machine({})["machine"].value
    told = "MemTotal:       8388608 kB\nMemAvailable:   2097152 kB\nHugePages_Total: 0\n"
    assert "8.0 GiB memory, 2.0 GiB free" in machine({"/proc/meminfo": told})["machine"].value


def test_tensorrt_without_pip_metadata(machine, monkeypatch):
    """On a Jetson TensorRT is a Debian package: it can be imported, and pip knows nothing of it."""

    def version(name):
        raise doctor.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object() if name == "tensorrt" else None)
    found = machine({"/proc/device-tree/model": ORIN})
    assert found["tensorrt"].present and found["tensorrt"].value == "installed"
    assert found["runtime tensorrt"].value == "not installed: pycuda"
    assert found["runtime torch"].value == "torch is not installed: pip install torch"
    assert found["ros"].value.startswith("not found: source /opt/ros/DISTRO/setup.bash")
