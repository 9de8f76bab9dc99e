"""Memory of the process and of GPUs."""

import mmap
import sys
from types import SimpleNamespace

import pytest

from penguin_engine.bench.machine import gpu_bytes, peak_bytes, reset_peak_bytes, resident_bytes

MIB = 2**20


def test_resident_and_peak_memory_of_this_process():
    reset_peak_bytes()
    before = resident_bytes()
    with mmap.mmap(-1, 64 * MIB) as block:  # new pages, which no allocator has kept
        for start in range(0, 64 * MIB, mmap.PAGESIZE):
            block[start] = 1
        during = resident_bytes()
    assert during - before > 60 * MIB
    assert peak_bytes() - before > 60 * MIB > resident_bytes() - before


class Nvml(SimpleNamespace):
    """The functions of pynvml, for GPUs with the given numbers of bytes in use; None stands for one that refuses."""

    class NVMLError(Exception):
        pass

    def __init__(self, *used, has_driver=True):
        super().__init__(used=used, has_driver=has_driver, __spec__=SimpleNamespace())

    def nvmlInit(self):  # noqa: N802
        if not self.has_driver:
            raise self.NVMLError

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.used)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, device):  # noqa: N802
        if self.used[device] is None:
            raise self.NVMLError
        return SimpleNamespace(used=self.used[device])


@pytest.mark.parametrize(
    ("nvml", "device", "expected"),
    [
        (Nvml(5 * MIB, 7 * MIB), "cuda", 12 * MIB),
        (Nvml(5 * MIB), "cpu", None),
        (Nvml(None), "cuda", None),
        (Nvml(), "cuda", None),
        (Nvml(5 * MIB, has_driver=False), "cuda", None),
    ],
    ids=["two GPUs", "CPU", "not supported", "no GPU", "no driver"],
)
def test_gpu_memory_in_use(monkeypatch, nvml, device, expected):
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert gpu_bytes(device) == expected


def test_gpu_memory_without_nvidia_ml_py(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_bytes("cuda") is None
