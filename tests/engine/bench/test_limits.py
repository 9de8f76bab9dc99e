"""Limits of a device: figures that can be limits at all, and devices that are not there."""

import pytest
import torch

from penguin_engine.bench import limits
from penguin_engine.bench.limits import device_name, machine_limits, torch_device
from penguin_models.errors import EngineError


def test_limits_of_this_cpu(monkeypatch):
    """Small matrices: the figures must be rates of this computer in plain units, not of any one quality."""
    monkeypatch.setattr(limits, "_BANDWIDTH_BYTES", {"cpu": 2**22})
    monkeypatch.setattr(limits, "_MATRIX", {"cpu": 128})
    threads = torch.get_num_threads()
    measured = machine_limits(1, "cpu", "int8")
    assert 1e7 < measured["memory_bytes_per_s"] < 1e13
    assert 1e7 < measured["operations_per_s"] < 1e14
    assert torch.get_num_threads() == threads


def test_products_of_a_cpu_are_as_fast_as_the_faster_library(monkeypatch):
    monkeypatch.setattr(limits, "_MATRIX", {"cpu": 128})
    cpu = torch.device("cpu")
    rates = {}
    for faster in ("torch", "onnxruntime"):

        def best(run, place, faster=faster):
            run()  # both must run at all
            return 1.0 if ("_onnx_product" in run.__qualname__) == (faster == "onnxruntime") else 3.0

        monkeypatch.setattr(limits, "_best", best)
        rates[faster] = limits._multiply_seconds(cpu, torch.float32, 1)
    assert rates == {"torch": 1.0, "onnxruntime": 1.0}


@pytest.mark.parametrize(
    ("device", "precision", "dtype"),
    [
        ("cpu", "int8", torch.float32),
        ("cpu", "bfloat16", torch.float32),
        ("cuda", "float32", torch.float32),
        ("cuda", "bfloat16", torch.bfloat16),
        ("cuda", "int4", torch.float16),
    ],
)
def test_the_type_that_is_multiplied(device, precision, dtype):
    assert limits._matrix_type(torch.device(device), precision) == dtype


def test_devices(monkeypatch):
    assert torch_device("cpu").type == "cpu" and device_name("cpu") is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert torch_device("tensorrt:1") == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match=r"torch, which sees no CUDA GPU; .* or measure with --device cpu"):
        torch_device("cuda")
