"""What the model benchmarks measure; the figures themselves depend on the machine."""

import pytest
import torch

from penguin_engine.bench import model as bench
from penguin_engine.bench.machine import timed
from penguin_engine.bench.rates import runtime_rates
from penguin_engine.runtimes.torch import TorchRuntime


def test_a_full_model_is_extrapolated_from_two_depths():
    """A step takes 5 s plus 2 s per layer, so 28 layers take 61 s."""
    assert bench.extrapolate_rate((1 / 7, 1 / 11), (1, 3)) == pytest.approx(1 / 61)


def test_encoder_memory_covers_the_whole_budget():
    result = bench.encoder_memory(layers=1, tokens=640)
    assert (result["visual_tokens"], result["patches"]) == (640, 2560)
    assert result["bytes_per_patch"] == result["peak_bytes"] / 2560
    assert 0 < result["bytes_per_patch"] < bench.REFERENCE_BYTES_PER_PATCH


def test_rates_of_a_model(model):
    rates = runtime_rates(TorchRuntime(model), prompt_tokens=16, new_tokens=2, frames=1)
    assert set(rates) == {"encode_patches_per_s", "prefill_tokens_per_s", "decode_tokens_per_s"}
    assert all(rate > 0 for rate in rates.values())


def test_a_time_is_the_median_of_enough_runs():
    runs = []
    assert timed(lambda: runs.append(torch.ones(100).sum()), at_least_s=0, at_least_runs=5) > 0
    assert len(runs) == 5
