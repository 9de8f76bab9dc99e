"""GPU memory, asked of a stand-in for the driver library that is compiled here."""

import os
import subprocess
import sys

import pytest

from penguin_engine.bench import worker_process
from penguin_engine.bench.gpu_memory import gpu_bytes
from penguin_engine.bench.worker_process import WorkerSettings, measure
from penguin_models.errors import EngineError

DRIVER = """
#include <stdlib.h>
static long current = 0;
int cuInit(unsigned flags) { return flags; }
int cuDeviceGet(int *device, int index) { *device = 40 + index; return index < 2 ? 0 : 101; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)(long)device; return 0; }
int cuCtxSetCurrent(void *context) { current = (long)context; return 0; }
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    *total = 80L << 30;
    *free = *total - atol(getenv(current == 41 ? "USED_OF_SECOND" : "USED"));
    return current ? 0 : 201;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    compiler = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-x", "c", "-", "-o", str(folder / "libcuda.so.1")]
    subprocess.run(compiler, input=DRIVER, text=True, check=True)
    return folder


@pytest.fixture
def used(library, monkeypatch):
    """Sets the bytes in use on both GPUs."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library), prepend=os.pathsep)

    def use(first, second=0):
        monkeypatch.setenv("USED", str(first))
        monkeypatch.setenv("USED_OF_SECOND", str(second))

    return use


def test_memory_in_use(used):
    used(5 << 30, 7 << 30)
    assert gpu_bytes("cuda") == gpu_bytes("tensorrt") == 5 << 30
    assert gpu_bytes("cuda:1") == 7 << 30
    assert gpu_bytes("cpu") is None


def test_a_gpu_that_does_not_exist(used):
    with pytest.raises(EngineError, match="memory of device 'cuda:2' cannot be read: cuDeviceGet failed with CUDA err"):
        gpu_bytes("cuda:2")


def test_a_worker_measures_gpu_memory_without_torch(used, monkeypatch):
    """What is not of the variant must not be in the memory of the process that runs it."""
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails
    monkeypatch.setattr(worker_process, "_rates", lambda *args: {})
    monkeypatch.setattr(worker_process, "open_runtime", lambda *args: (used(5 << 30), None))
    used(3 << 30)
    result = measure(WorkerSettings("onnx", "", "cuda", scene_frames=0))
    assert result["gpu_bytes"] == 2 << 30
