"""`penguin-vl doctor`: what this machine has, and which runtimes can be used on it."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from penguin_engine.runtimes.tensorrt import flavour
from penguin_ros.bridge import bridge_fault
from penguin_ros.cli.output import JsonOption, print_json, stdout
from penguin_ros.probe import probe

_FLAVOURS = {flavour.TENSORRT: "tensorrt", flavour.RTX: "tensorrt-rtx"}
_ENGINE_ERROR = "penguin_models.errors.EngineError: "
_LOAD_FLAVOUR = "from penguin_engine.runtimes.tensorrt import flavour; print(flavour.load({!r}).version)"
_FIND_PLUGIN_GPU = "from penguin_engine.runtimes import onnx_plugin; onnx_plugin.find_gpu(0)"
_FIND_CUDA_GPU = "import pycuda.driver as cuda; cuda.init(); print(cuda.Device(0).name())"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    value: str
    present: bool = True


def doctor(as_json: JsonOption = False) -> None:
    """Show what this machine has and which runtimes can be used on it."""
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


def inspect_machine(root: Path = Path("/")) -> tuple[list[Finding], list[Finding]]:
    """Returns the findings about the machine and about each runtime; /proc and /etc are read below `root`."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch, torch_runtime = _torch()
    onnx, onnx_runtime = _onnxruntime()
    tensorrt, tensorrt_runtime = _tensorrt()
    findings = [
        Finding("machine", f"{platform.machine()}, {cpus} cores, {_memory(root)}, {platform.system()}"),
        Finding("python", f"{sys.version.split()[0]} ({sys.executable})"),
        torch,
        _package("transformers"),
        *onnx,
        *tensorrt,
        _ros(),
        _cv_bridge(),
        _package("vision_msgs", ": ~/detections and ~/detections_3d are not published"),
        _package("foxglove_msgs", ": ~/annotations is not published"),
        _package("visualization_msgs", ": ~/markers is not published"),
        _jetson(root),
    ]
    return findings, [torch_runtime, onnx_runtime, tensorrt_runtime]


def _torch() -> tuple[Finding, Finding]:
    """Returns the findings about the package and the runtime."""
    if importlib.util.find_spec("torch") is None:
        missing = Finding("runtime torch", "torch is not installed: pip install torch", False)
        return Finding("torch", "not installed", False), missing
    import torch

    if not torch.cuda.is_available():
        package = Finding("torch", f"{torch.__version__}, CPU only, {torch.get_num_threads()} threads")
        return package, Finding("runtime torch", "on the CPU only; torch sees no CUDA GPU")
    gpu = torch.cuda.get_device_properties(0)
    package = Finding("torch", f"{torch.__version__}, {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
    return package, Finding("runtime torch", "on the CPU, --device cuda")


def _onnxruntime() -> tuple[list[Finding], Finding]:
    """Returns the findings about the package and its plug-in, and about the runtime."""
    package, plugin = _package("onnxruntime"), _package("onnxruntime-ep-nv-tensorrt-rtx")
    if not package.present:
        return [package], Finding("runtime onnx", "onnxruntime is not installed: pip install onnxruntime", False)
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    options = {"CUDAExecutionProvider": "--device cuda", "TensorrtExecutionProvider": "--device tensorrt"}
    devices = ["on the CPU", *(option for provider, option in options.items() if provider in providers)]
    if plugin.present:
        plugin = _tried(plugin, _FIND_PLUGIN_GPU)
        devices += ["--device tensorrt-rtx"] if plugin.present else []
    findings = [
        Finding("onnxruntime", ", ".join([package.value, *providers])),
        Finding("rtx plug-in", plugin.value, plugin.present),
    ]
    return findings, Finding("runtime onnx", f"{', '.join(devices)}; needs an exported folder")


def _tensorrt() -> tuple[list[Finding], Finding]:
    """Returns the findings about both flavours and pycuda, and about the runtime."""
    flavours = {name: _flavour(name, label) for name, label in _FLAVOURS.items()}
    pycuda = _package("pycuda")
    if pycuda.present:
        pycuda = _tried(pycuda, _FIND_CUDA_GPU)
    loaded = [name for name, found in flavours.items() if found.present]
    builds = [flavour.FLAVOURS[name] for name in loaded if pycuda.present or name == flavour.RTX]
    missing = ([] if loaded else ["TensorRT"]) + ([] if pycuda.present else ["pycuda with a GPU"])
    runs = f"missing to run plans: {', '.join(missing)}" if missing else "runs plans"
    verdict = "; ".join([runs, f"builds plans of {' and '.join(builds)}" if builds else "builds no plans"])
    return [*flavours.values(), pycuda], Finding("runtime tensorrt", verdict, not missing)


def _flavour(name: str, label: str) -> Finding:
    if name not in flavour.installed():
        return Finding(label, "not installed", False)
    return _tried(Finding(label, ""), _LOAD_FLAVOUR.format(name))


def _tried(package: Finding, code: str) -> Finding:
    """Returns the finding about an installed package with what `code` prints, or with the reason why it fails."""
    printed, fault = probe(code)
    if fault is not None:
        fault = fault.removeprefix(_ENGINE_ERROR) if fault.startswith(_ENGINE_ERROR) else f"cannot be used: {fault}"
    return Finding(package.name, "; ".join(filter(None, (package.value, printed, fault))), fault is None)


def _package(name: str, consequence: str = "") -> Finding:
    for distribution in (name, f"{name}-gpu", f"{name}-cu12", f"{name}-cu13"):
        try:
            return Finding(name, metadata.version(distribution))
        except metadata.PackageNotFoundError:
            continue
    if importlib.util.find_spec(name) is not None:  # Debian packages may lack pip's metadata: TensorRT on a Jetson
        return Finding(name, "installed")
    return Finding(name, f"not installed{consequence}", False)


def _cv_bridge() -> Finding:
    fault = bridge_fault()
    if fault is not None:
        return Finding("cv_bridge", fault, False)
    return _package("cv_bridge", ": the package's own image conversion is used")


def _ros() -> Finding:
    if importlib.util.find_spec("rclpy") is None:
        return Finding("ros", "not found: source /opt/ros/DISTRO/setup.bash, or `make setup`", False)
    built = importlib.util.find_spec("penguin_vl") is not None
    messages = "built" if built else "not found: source install/setup.bash"
    distribution = os.environ.get("ROS_DISTRO", "rclpy without ROS_DISTRO")
    return Finding("ros", f"{distribution}, messages of penguin_vl {messages}")


def _jetson(root: Path) -> Finding:
    board = _read(root / "proc/device-tree/model")
    if not re.search("jetson|orin|thor", board, re.IGNORECASE):
        return Finding("jetson", "no", False)
    release = _read(root / "etc/nv_tegra_release").split(",")[0].removeprefix("# ")
    return Finding("jetson", ", ".join(filter(None, (board, release, _power_mode()))))


def _power_mode() -> str:
    try:
        done = subprocess.run(["nvpmodel", "-q"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError) as err:
        return f"power mode unknown (nvpmodel: {type(err).__name__})"
    found = re.search(r"Power Mode: *(\S+)", done.stdout)
    return f"power mode {found[1]}" if found else "power mode unknown"


def _memory(root: Path) -> str:
    gib = {name: int(kib) / 2**20 for name, kib in re.findall(r"(\w+): +(\d+) kB", _read(root / "proc/meminfo"))}
    if "MemTotal" not in gib:
        return "memory unknown"
    return f"{gib['MemTotal']:.1f} GiB memory, {gib.get('MemAvailable', 0.0):.1f} GiB available"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip("\0\n ")
    except OSError:  # this kind of machine does not have the file
        return ""
