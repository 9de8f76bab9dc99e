"""Energy of a piece of work in joules, if the machine has sensors.

Sources: RAPL (packages of Intel and AMD processors), INA3221 (supply rails of a Jetson), NVML (NVIDIA GPUs). RAPL and
NVML count energy; INA3221 gives power, which a thread samples and integrates.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from penguin_engine.bench.machine import nvml_devices

_SAMPLE_PERIOD_S = 0.05
_WHOLE_MODULE = ("VDD_IN", "POM_5V_IN", "5V_IN")
"""Labels of the rail that feeds a whole Jetson module (Orin NX and Nano, Xavier NX, Nano); the others are parts of it.
A module without one (AGX) takes the sum of its rails."""
_NOT_ADDED = ("", "NC", "VDDQ_VDD2_1V8AO")
"""Labels of unconnected channels, and of the memory of an AGX Orin, which VIN_SYS_5V0 contains."""


@dataclass
class Reading:
    """Energy of one measurement.

    Attributes:
        joules: Energy by source; empty if the machine has no sensor.
    """

    joules: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float | None:
        """Sum of all sources, nothing counted twice; None without a sensor."""
        if "board" in self.joules:  # includes processor and GPU
            return self.joules["board"]
        return sum(self.joules.values()) if self.joules else None


class EnergyMeter:
    """All energy sensors of this machine.

    Args:
        root: Root of the file system, for tests.
    """

    def __init__(self, root: Path = Path("/")):
        found = (_Rapl.find(root), _Ina3221.find(root), _Nvml.find())
        self._sources = [source for source in found if source is not None]

    @property
    def sources(self) -> list[str]:
        """Names of the sensors."""
        return [source.name for source in self._sources]

    @contextmanager
    def measure(self) -> Iterator[Reading]:
        """Measures the work inside the `with` block; the reading is filled at its end."""
        reading = Reading()
        for source in self._sources:
            source.start()
        try:
            yield reading
        finally:
            reading.joules = {source.name: source.stop() for source in self._sources}


class _Rapl:
    """Energy counters of processor packages in microjoules, which wrap; the platform's counter if there is no other."""

    name = "processor"

    def __init__(self, packages: list[Path]):
        self._packages = packages
        self._before: list[int] = []

    @classmethod
    def find(cls, root: Path) -> _Rapl | None:
        zones = sorted(root.glob("sys/class/powercap/*-rapl:[0-9]"))
        # The zone "psys" includes the packages.
        chosen = [zone for zone in zones if _text(zone / "name").startswith("package")] or zones
        return cls(chosen) if chosen and all(_number(zone / "energy_uj") is not None for zone in chosen) else None

    def start(self) -> None:
        self._before = self._read()

    def stop(self) -> float:
        total = 0
        for package, before, after in zip(self._packages, self._before, self._read(), strict=True):
            wrapped = after < before
            total += after - before + (wrapped and (_number(package / "max_energy_range_uj") or 0))
        return total * 1e-6

    def _read(self) -> list[int]:
        return [_number(package / "energy_uj") or 0 for package in self._packages]


class _Ina3221:
    """Sampled power of a Jetson's supply rails: millivolts times milliamperes."""

    name = "board"

    def __init__(self, rails: list[tuple[Path, Path]]):
        self._rails = rails
        self._joules, self._last = 0.0, (0.0, 0.0)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def find(cls, root: Path) -> _Ina3221 | None:
        rails = {}
        for label in sorted(root.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in[1-3]_label")):
            name, channel = _text(label).strip(), label.name[2]
            if name not in _NOT_ADDED:
                rails[name] = (label.parent / f"in{channel}_input", label.parent / f"curr{channel}_input")
        whole = [rails[name] for name in _WHOLE_MODULE if name in rails]
        chosen = whole[:1] or list(rails.values())
        return cls(chosen) if chosen and all(_number(f) is not None for rail in chosen for f in rail) else None

    def start(self) -> None:
        self._joules, self._last = 0.0, (time.perf_counter(), self._watts())
        self._stopping.clear()
        self._thread = threading.Thread(target=self._sample_until_stopped, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        assert self._thread is not None
        self._stopping.set()
        self._thread.join()
        self._sample()
        return self._joules

    def _sample_until_stopped(self) -> None:
        while not self._stopping.wait(_SAMPLE_PERIOD_S):
            self._sample()

    def _sample(self) -> None:
        before_s, before_w = self._last
        self._last = now_s, now_w = time.perf_counter(), self._watts()
        self._joules += (now_s - before_s) * (before_w + now_w) / 2

    def _watts(self) -> float:
        return sum((_number(volts) or 0) * (_number(amperes) or 0) * 1e-6 for volts, amperes in self._rails)


class _Nvml:
    """Energy counters of NVIDIA GPUs in millijoules."""

    name = "gpu"

    def __init__(self, devices: list[Any]):
        self._devices = devices
        self._before = 0

    @classmethod
    def find(cls) -> _Nvml | None:
        devices = nvml_devices()
        if not devices:
            return None
        import pynvml

        source = cls(devices)
        try:
            source.start()
        except pynvml.NVMLError:  # GPUs without a counter, such as a Jetson's
            return None
        return source

    def start(self) -> None:
        self._before = self._read()

    def stop(self) -> float:
        return (self._read() - self._before) * 1e-3

    def _read(self) -> int:
        import pynvml

        return sum(int(pynvml.nvmlDeviceGetTotalEnergyConsumption(device)) for device in self._devices)


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
