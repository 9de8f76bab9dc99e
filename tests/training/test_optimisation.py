"""Learning rates and groups: as released in their course, and each part with its own."""

import math
from itertools import pairwise

import pytest
import torch

from penguin_training.blueprint import make_blueprint
from penguin_training.optimisation import MovingAverage, make_optimizer, rate_share, set_rates
from penguin_training.settings import Schedule
from penguin_training.weights import build_model


def test_rates_rise_in_a_line_and_fall_along_a_cosine():
    schedule = Schedule(epochs=1.0)
    shares = [rate_share(step, 1000, schedule) for step in range(1000)]
    assert shares[0] == 0.1 and shares[30] == 1.0 == max(shares)
    assert shares[15] == pytest.approx(0.55) and shares[-1] == pytest.approx(0.1)
    middle = 30 + (999 - 30) // 2
    assert shares[middle] == pytest.approx(0.55, abs=1e-3)
    assert all(a < b for a, b in pairwise(shares[:31]))
    assert all(a >= b for a, b in pairwise(shares[30:]))
    quarter = 30 + 969 // 4
    assert shares[quarter] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2, abs=2e-3)


@pytest.mark.parametrize("steps", [1, 2, 3, 33, 34])
def test_short_runs_have_rates_too(steps):
    shares = [rate_share(step, steps, Schedule(epochs=1.0)) for step in range(steps)]
    assert all(0.1 - 1e-9 <= share <= 1 for share in shares)


def test_each_part_has_its_own_rate_and_vectors_never_decay(values, parse, reconstruction):
    values["learning_rates"] = {"encoder": 1e-3, "projector": 2e-3}
    values["optimizer"] = {"weight_decay": 0.5}
    settings = parse(reconstruction(values))
    model = build_model(settings, make_blueprint(settings), 32)
    optimizer, parts = make_optimizer(model, settings)
    set_rates(optimizer, parts, settings, 0.5)
    found = {part: group["lr"] for part, group in zip(parts, optimizer.param_groups, strict=True)}
    assert found == {"encoder": 5e-4, "projector": 1e-3, "adapter": 5e-4}
    for group in optimizer.param_groups:
        dimensions = {p.ndim > 1 for p in group["params"]}
        assert dimensions == {group["weight_decay"] == 0.5}
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in model.parameters() if p.requires_grad} == trained


def test_the_average_follows_the_weights():
    model = torch.nn.ParameterDict({"vision_projector": torch.nn.Parameter(torch.zeros(2))})
    average = MovingAverage(model, 0.9)
    for _ in range(2):
        model["vision_projector"].data += 1
        average.update(model)
    torch.testing.assert_close(average.weights["vision_projector"], torch.full((2,), 0.1 * 0.9 + 0.1 * 2))
