"""Energy of a piece of work in joules, if the machine has sensors.

Sources: RAPL (packages of Intel and AMD processors), INA3221 (supply rails of a Jetson), NVML (NVIDIA GPUs). RAPL and
NVML count energy; INA3221 gives power, which a thread samples and integrates.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from penguin_engine.bench.machine import nvml_devices

_SAMPLE_PERIOD_S = 0.05
_WHOLE_MODULE = ("VDD_IN", "POM_5V_IN", "5V_IN")
"""Labels of the rail that feeds a whole Jetson module (Orin NX and Nano, Xavier NX, Nano); the others are parts of it.
A module without one (AGX) takes the sum of its rails."""
_NOT_ADDED = ("", "NC", "VDDQ_VDD2_1V8AO")
"""Labels of unconnected channels, and of the memory of an AGX Orin, which VIN_SYS_5V0 contains."""


Source = Callable[[], Callable[[], float]]
"""Starts a measurement with one kind of sensor; what it returns ends the measurement and returns its joules."""


@dataclass
class Reading:
    """Energy of one measurement."""

    joules: dict[str, float] = field(default_factory=dict)  # by source; empty if the machine has no sensor

    @property
    def total(self) -> float | None:
        """Sum of all sources, nothing counted twice; None without a sensor."""
        if "board" in self.joules:  # includes processor and GPU
            return self.joules["board"]
        return sum(self.joules.values()) if self.joules else None


class EnergyMeter:
    """All energy sensors of this machine; `root` is the root of its file system."""

    def __init__(self, root: Path = Path("/")):
        sources = {"processor": _rapl(root), "board": _ina3221(root), "gpu": _nvml()}
        self._sources = {name: source for name, source in sources.items() if source is not None}
        self.sources = list(self._sources)

    @contextmanager
    def measure(self) -> Iterator[Reading]:
        """Measures the work inside the `with` block; the reading is filled at its end."""
        reading = Reading()
        running = {name: start() for name, start in self._sources.items()}
        try:
            yield reading
        finally:
            reading.joules = {name: stop() for name, stop in running.items()}


def _rapl(root: Path) -> Source | None:
    """Counters of processor packages in microjoules, which wrap; the platform's counter if there is no other."""
    zones = sorted(root.glob("sys/class/powercap/*-rapl:[0-9]"))
    # The zone "psys" includes the packages.
    packages = [zone for zone in zones if _text(zone / "name").startswith("package")] or zones
    if not packages or any(_number(zone / "energy_uj") is None for zone in packages):
        return None

    def start() -> Callable[[], float]:
        before = [_number(package / "energy_uj") or 0 for package in packages]

        def stop() -> float:
            joules = 0.0
            for package, earlier in zip(packages, before, strict=True):
                growth = (_number(package / "energy_uj") or 0) - earlier
                joules += 1e-6 * (growth if growth >= 0 else growth + (_number(package / "max_energy_range_uj") or 0))
            return joules

        return stop

    return start


def _ina3221(root: Path) -> Source | None:
    """Sampled power of a Jetson's supply rails: millivolts times milliamperes."""
    rails = {}
    for label in sorted(root.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in[1-3]_label")):
        name, channel = _text(label).strip(), label.name[2]
        if name not in _NOT_ADDED:
            rails[name] = (label.parent / f"in{channel}_input", label.parent / f"curr{channel}_input")
    whole = [rails[name] for name in _WHOLE_MODULE if name in rails]
    chosen = whole[:1] or list(rails.values())
    if not chosen or any(_number(file) is None for rail in chosen for file in rail):
        return None

    def watts() -> float:
        return sum((_number(volts) or 0) * (_number(amperes) or 0) * 1e-6 for volts, amperes in chosen)

    return lambda: _integrate(watts)


def _integrate(watts: Callable[[], float]) -> Callable[[], float]:
    """Starts to sample power in a thread."""
    samples = [(time.perf_counter(), watts())]
    stopping = threading.Event()

    def sample() -> None:
        while not stopping.wait(_SAMPLE_PERIOD_S):
            samples.append((time.perf_counter(), watts()))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()

    def stop() -> float:
        stopping.set()
        thread.join()
        samples.append((time.perf_counter(), watts()))
        return sum((t1 - t0) * (w0 + w1) / 2 for (t0, w0), (t1, w1) in pairwise(samples))

    return stop


def _nvml() -> Source | None:
    """Counters of NVIDIA GPUs in millijoules."""
    devices = nvml_devices()
    if not devices:
        return None
    import pynvml

    def read() -> int:
        return sum(int(pynvml.nvmlDeviceGetTotalEnergyConsumption(device)) for device in devices)

    def start() -> Callable[[], float]:
        before = read()
        return lambda: 1e-3 * (read() - before)

    try:
        read()
    except pynvml.NVMLError:  # GPUs without a counter, such as a Jetson's
        return None
    return start


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # missing, or readable by root only
        return ""
