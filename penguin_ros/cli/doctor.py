"""`penguin-vl doctor`: what this machine has, and which runtime can be used on it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from penguin_ros.cli.output import JsonOption, print_json, stdout


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    value: str
    present: bool = True


def doctor(as_json: JsonOption = False) -> None:
    """Show what this machine has and what follows for the runtimes."""
    findings, runtimes = inspect_machine()
    if as_json:
        print_json({"machine": [asdict(f) for f in findings], "runtimes": [asdict(f) for f in runtimes]})
        return
    width = max(len(f.name) for f in [*findings, *runtimes]) + 2
    for finding in findings:
        stdout.out(f"{finding.name:<{width}}{finding.value}")
    stdout.out("")
    for runtime in runtimes:
        stdout.out(f"{runtime.name:<{width}}{'yes' if runtime.present else 'no'}: {runtime.value}")


def inspect_machine() -> tuple[list[Finding], list[Finding]]:
    """What there is, and what each runtime can do with it."""
    cuda, torch_text = _torch()
    findings = [
        Finding("machine", f"{platform.machine()}, {_cpus()} cores, {_memory()}, {platform.system()}"),
        Finding("python", f"{sys.version.split()[0]} ({sys.executable})"),
        Finding("torch", torch_text, cuda is not None),
        _package("transformers"),
        _onnxruntime(),
        _package("tensorrt"),
        _package("pycuda"),
        _ros(),
        _module("cv_bridge", "the package's own image conversion is used"),
        _module("vision_msgs", "~/detections is not published"),
        _jetson(),
    ]
    return findings, _runtimes(cuda, {f.name: f for f in findings})


def _runtimes(cuda: str | None, findings: dict[str, Finding]) -> list[Finding]:
    torch_ok = findings["torch"].present
    if not torch_ok:
        torch_says = "torch is not installed: pip install torch"
    elif cuda:
        torch_says = f"on {cuda} (--device cuda) and on the CPU"
    else:
        torch_says = "on the CPU only; torch sees no CUDA GPU"
    needed = [name for name in ("tensorrt", "pycuda") if not findings[name].present]
    return [
        Finding("runtime torch", torch_says, torch_ok),
        _onnx_runtime(findings["onnxruntime"]),
        Finding(
            "runtime tensorrt",
            f"not installed: {', '.join(needed)}" if needed else "needs an exported folder and `penguin-vl build`",
            not needed,
        ),
    ]


def _onnx_runtime(onnxruntime: Finding) -> Finding:
    if not onnxruntime.present:
        return Finding("runtime onnx", "onnxruntime is not installed: pip install onnxruntime", False)
    devices = {"CUDAExecutionProvider": "--device cuda", "TensorrtExecutionProvider": "--device tensorrt"}
    found = [option for provider, option in devices.items() if provider in onnxruntime.value]
    return Finding("runtime onnx", f"on the CPU{''.join(f', {option}' for option in found)}; needs an exported folder")


def _torch() -> tuple[str | None, str]:
    """Name of the first GPU ("" if none; None without torch), and a description."""
    if importlib.util.find_spec("torch") is None:
        return None, "not installed"
    import torch

    if not torch.cuda.is_available():
        return "", f"{torch.__version__}, CPU only, {torch.get_num_threads()} threads"
    properties = torch.cuda.get_device_properties(0)
    return properties.name, f"{torch.__version__}, {properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def _onnxruntime() -> Finding:
    found = _package("onnxruntime")
    if not found.present:
        return found
    import onnxruntime

    return Finding("onnxruntime", f"{found.value}, {', '.join(onnxruntime.get_available_providers())}")


def _package(name: str) -> Finding:
    for distribution in (name, f"{name}-gpu", f"{name}-cu12", f"{name}-cu13"):
        try:
            return Finding(name, metadata.version(distribution))
        except metadata.PackageNotFoundError:
            continue
    # Debian packages (TensorRT on a Jetson) need not carry pip's metadata.
    present = importlib.util.find_spec(name) is not None
    return Finding(name, "installed" if present else "not installed", present)


def _module(name: str, without: str) -> Finding:
    present = importlib.util.find_spec(name) is not None
    return Finding(name, "installed" if present else f"not installed: {without}", present)


def _ros() -> Finding:
    distribution = os.environ.get("ROS_DISTRO")
    rclpy = importlib.util.find_spec("rclpy") is not None
    messages = importlib.util.find_spec("penguin_vl") is not None
    if not rclpy:
        return Finding("ros", "not found: source /opt/ros/DISTRO/setup.bash, or `make setup`", False)
    built = (
        "messages of penguin_vl built" if messages else "messages of penguin_vl not found: source install/setup.bash"
    )
    return Finding("ros", f"{distribution or 'rclpy without ROS_DISTRO'}, {built}")


def _jetson() -> Finding:
    model = _read("/proc/device-tree/model") or ""
    if "jetson" not in model.lower() and "orin" not in model.lower() and "thor" not in model.lower():
        return Finding("jetson", "no", False)
    release = (_read("/etc/nv_tegra_release") or "").split(",")[0].removeprefix("# ")
    return Finding("jetson", ", ".join(filter(None, (model, release, _power_mode()))))


def _power_mode() -> str:
    if shutil.which("nvpmodel") is None:
        return "power mode unknown (no nvpmodel)"
    try:
        done = subprocess.run(["nvpmodel", "-q"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError) as err:
        return f"power mode unknown ({type(err).__name__})"
    modes = [line.partition(":")[2].strip() for line in done.stdout.splitlines() if "Power Mode" in line]
    return f"power mode {modes[0]}" if modes else "power mode unknown"


def _memory() -> str:
    values = {
        name: int(rest.split()[0])
        for name, _, rest in (line.partition(":") for line in (_read("/proc/meminfo") or "").splitlines())
        if rest
    }
    if "MemTotal" not in values:
        return "memory unknown"
    return f"{values['MemTotal'] / 2**20:.1f} GiB memory, {values.get('MemAvailable', 0) / 2**20:.1f} GiB free"


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace").strip("\0\n ")
    except OSError:  # not on this kind of machine
        return None
