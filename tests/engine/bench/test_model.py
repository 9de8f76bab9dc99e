"""What the benchmarks measure and how they extrapolate; the figures themselves are the machine's."""

import pytest

from penguin_engine.bench import model as bench
from penguin_models.types import FrameKind, Size


@pytest.fixture
def once(monkeypatch):
    """Measures by a single run."""
    timed = bench._timed
    monkeypatch.setattr(bench, "_timed", lambda run: timed(run, at_least_s=1e-9))


def test_a_full_model_is_extrapolated_from_two_depths(monkeypatch):
    """Here a step takes 5 s, and 2 s more for each layer; 28 layers make 61 s."""
    monkeypatch.setattr(bench, "_random_2b", lambda depth, dtype: depth)
    monkeypatch.setattr(bench, "model_speed", lambda depth: {"steps_per_s": 1 / (5 + 2 * depth)})
    result = bench.speed_at_2b_shapes(depths=(1, 3))
    assert result["steps_per_s"] == pytest.approx(1 / 61)
    assert (result["measured_layers"], result["extrapolated_to_layers"], result["dtype"]) == ([1, 3], 28, "float32")


def test_memory_is_that_of_a_whole_budget(once, monkeypatch):
    monkeypatch.setattr(bench, "BUDGET_TOKENS", 960)
    result = bench.encoder_memory(layers=1)
    assert (result["visual_tokens"], result["patches"]) == (960, 3840)
    assert result["bytes_per_patch"] == result["peak_bytes"] / 3840
    assert result["activations_of_full_length"] == pytest.approx(result["bytes_per_patch"] / 4096)
    assert 0 < result["bytes_per_patch"] < bench.REFERENCE_BYTES_PER_PATCH


def test_rates_of_a_model(once, model):
    rates = bench.model_speed(model, prompt_tokens=16, new_tokens=2)
    assert set(rates) == {"encode_patches_per_s", "prefill_tokens_per_s", "decode_tokens_per_s"}
    assert all(rate > 0 for rate in rates.values())


def test_a_policy_sees_frames_of_the_size_asked_for():
    class Watching:
        seen = 0

        def observe(self, frame):
            assert frame.size == Size(50, 90)
            self.seen += 1
            return FrameKind.INTERMEDIATE

        def reset(self):
            raise AssertionError("the frames are one stream")

    policy = Watching()
    result = bench.policy_speed(policy, Size(50, 90), seconds=0.01)
    assert result["frames"] == policy.seen - 20 > 0  # the first twenty are not counted
    assert (result["policy"], result["size"]) == ("Watching", "90x50")
    assert result["reference_frames_per_s"] == 4
