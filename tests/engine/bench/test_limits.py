"""Limits of a device, and devices that do not exist."""

import pytest
import torch

from penguin_engine.bench import limits
from penguin_engine.bench.limits import device_name, machine_limits, torch_device
from penguin_models.errors import EngineError


def test_limits_of_this_cpu_are_plausible_rates_in_plain_units():
    measured = machine_limits("cpu", "int8")
    assert 1e6 < measured["memory_bytes_per_s"] < 1e13
    assert 1e6 < measured["operations_per_s"] < 1e14


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
def test_the_type_of_measured_products(device, precision, dtype):
    assert limits.matrix_type(torch.device(device), precision) == dtype


def test_devices(monkeypatch):
    assert torch_device("cpu").type == "cpu" and device_name("cpu") is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for device in ("cuda:1", "tensorrt:1", "tensorrt-rtx:1"):
        assert torch_device(device) == torch.device("cuda", 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match=r"torch, which finds no CUDA GPU; .* or measure with --device cpu"):
        torch_device("cuda")
