"""Learning rates follow the released schedule, and each part has its own."""

import math
from itertools import pairwise

import pytest
import torch

from penguin_training.model.blueprint import make_blueprint
from penguin_training.model.build_model import build_model
from penguin_training.run.cpu_muon import CpuMuon
from penguin_training.run.optimizers import Optimizers, rate_share
from penguin_training.settings.stage import Schedule


def test_rates_rise_linearly_and_fall_along_a_cosine():
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
def test_short_runs_have_valid_rates(steps):
    shares = [rate_share(step, steps, Schedule(epochs=1.0)) for step in range(steps)]
    assert all(0.1 - 1e-9 <= share <= 1 for share in shares)


def test_each_part_has_its_own_rate_and_vectors_never_decay(values, parse, reconstruction):
    values["learning_rates"] = {"encoder": 1e-3, "projector": 2e-3}
    values["optimizer"] = {"weight_decay": 0.5}
    settings = parse(reconstruction(values))
    model = build_model(settings, make_blueprint(settings), 32)
    optimizers = Optimizers(model, settings)
    rates = {"vision_encoder": 1e-3, "vision_projector": 2e-3, "vision_adapter": 1e-3}
    wanted = {id(p): rates[name.split(".")[0]] for name, p in model.named_parameters() if p.requires_grad}
    assert {id(p): group["rate"] for group in optimizers.groups for p in group["params"]} == wanted
    for group in optimizers.groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.5}
    for p in model.parameters():
        p.grad = torch.ones_like(p) if p.requires_grad else None
    optimizers.step(0.5)
    assert [group["lr"] for group in optimizers.groups] == [group["rate"] / 2 for group in optimizers.groups]
    assert all(p.grad is None for p in model.parameters())


def test_muon_trains_the_matrices_of_layers(values, parse):
    values["optimizer"] = {"kind": "muon", "muon_factor": 10.0}
    settings = parse(values)
    model = build_model(settings, make_blueprint(settings), None)
    adamw, muon = Optimizers(model, settings).all
    names = {id(p): name for name, p in model.named_parameters()}
    taken = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert taken == {n for n, p in model.named_parameters() if ".layers." in n and p.ndim == 2 and p.requires_grad}
    assert {name.split(".")[0] for name in taken} == {"language_model", "vision_encoder"}
    rates = settings.learning_rates.trained()
    assert sorted(group["rate"] / 10 for group in muon.param_groups) == pytest.approx(
        sorted([rates["llm"], rates["encoder"]])
    )
    left = [names[id(p)] for group in adamw.param_groups for p in group["params"]]
    assert len(left) + len(taken) == len({*left, *taken}) == sum(p.requires_grad for p in model.parameters())


def test_muon_on_a_cpu_computes_as_torch_does():
    random = torch.Generator().manual_seed(0)
    ours, theirs = ([torch.ones(shape, requires_grad=True) for shape in ((24, 8), (8, 24), (16, 16))] for _ in range(2))
    options = {"lr": 0.1, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    optimizers = CpuMuon(ours, **options), torch.optim.Muon(theirs, **options)
    for _ in range(4):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=random)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=8e-3)  # bfloat16 has 8 bits
        state = optimizers[0].state[mine], optimizers[1].state[other]
        torch.testing.assert_close(state[0]["momentum_buffer"], state[1]["momentum_buffer"])
