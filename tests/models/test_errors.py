"""Out-of-memory errors are one line that says how much was requested and what to do."""

import pytest
import torch

from penguin_models.checkpoint import load_pretrained
from penguin_models.errors import DeviceMemoryError, oom_as_error

# As torch words it.
FULL = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 7.44 GiB of which 1.20 GiB is free. "
    "Process 77 has 5.1 GiB memory in use.\nOf the allocated memory ... If reserved but unallocated memory is large"
)


def test_our_remedy_replaces_torch_s_advice():
    with pytest.raises(DeviceMemoryError) as raised, oom_as_error("a cake", "Bake a smaller one."):
        raise FULL
    assert str(raised.value) == (
        "a cake does not fit into memory: CUDA out of memory. Tried to allocate 2.50 GiB. "
        "GPU 0 has a total capacity of 7.44 GiB of which 1.20 GiB is free. Bake a smaller one."
    )


def test_other_errors_pass_through():
    with pytest.raises(RuntimeError, match="another"), oom_as_error("a cake", ""):
        raise RuntimeError("another")


def test_weights_that_do_not_fit_are_reported(checkpoint, monkeypatch):
    def full(*args, **kwargs):
        raise FULL

    monkeypatch.setattr("penguin_models.checkpoint.reserve", full)
    with pytest.raises(
        DeviceMemoryError, match=r"checkpoint as float16 does not fit .* 1\.20 GiB is free.*--device cpu"
    ):
        load_pretrained(checkpoint, "float16")
