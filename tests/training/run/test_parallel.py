"""Several processes: replicas and shards give the losses and the weights of a single process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from penguin_models.errors import SettingError
from penguin_training.model.blueprint import make_blueprint
from penguin_training.model.build_model import build_model
from penguin_training.run.loop import train
from penguin_training.run.parallel import make_accelerator, place
from penguin_training.run.saved_state import find_states

SCRIPT = Path(__file__).parents[2] / "support" / "train_stages.py"


def torchrun(script, *arguments):
    """Runs two processes on the CPU, through the real command."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", script, *arguments]
    # With a fault handler, a process that aborts prints the stacks of its threads.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONFAULTHANDLER": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-6000:]


@pytest.fixture
def stage(values, reconstruction, tmp_path):
    """A stage with every kind of sample and loss, and answers weighted by their length."""
    reconstruction(values)
    values["budgets"]["micro_batches"] = 4
    values["data"]["answer_balance"] = 0.5
    values["schedule"] = {"steps": 4}
    values["engine"] |= {"save_every": 2}
    values["output"] = str(tmp_path / "single")
    return values


def test_two_processes_equal_one(stage, start, losses, tmp_path):
    """Replicas train a whole stage; shards resume what a single process began."""
    single = start(stage)
    train(single)
    outputs, stages = {}, {}
    for sharding in ("none", "fsdp2"):
        outputs[sharding], stages[sharding] = tmp_path / sharding, tmp_path / f"{sharding}.yaml"
        engine = {"sharding": sharding, "gradient_checkpointing": sharding == "fsdp2"}
        changed = stage | {"output": str(outputs[sharding]), "engine": stage["engine"] | engine}
        stages[sharding].write_text(json.dumps(changed))
    begun = find_states(single.output)[0]
    shutil.copytree(begun, outputs["fsdp2"] / "checkpoints" / begun.name)
    shutil.copy(single.output / "metrics.jsonl", outputs["fsdp2"])
    torchrun(SCRIPT, stages["none"], stages["fsdp2"])
    expected = load_file(single.output / "model.safetensors")
    for output in outputs.values():
        ours = [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]
        torch.testing.assert_close(ours, losses(single), rtol=1e-4, atol=0, msg=output.name)
        stored = load_file(output / "model.safetensors")
        assert stored.keys() == expected.keys()
        for name, tensor in stored.items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=2e-4, msg=f"{output.name}: {name}")


def test_no_device_holds_a_whole_model_before_sharding(values, parse, monkeypatch):
    values["engine"]["sharding"] = "fsdp2"
    settings = parse(values)
    model = build_model(settings, make_blueprint(settings), None)
    whole = {name: p.shape for name, p in model.named_parameters()}
    monkeypatch.setattr(model, "to", None)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        placed = place(model, settings, SimpleNamespace(device=torch.device("cpu"), num_processes=1))
        assert {name: p.shape for name, p in placed.named_parameters()} == whole
        assert all(isinstance(p, DTensor) for p in placed.parameters())
    finally:
        dist.destroy_process_group()


def test_impossible_process_counts_are_refused(values, parse, monkeypatch):
    values["engine"]["sharding"] = "fsdp2"
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SettingError, match="needs processes: start with torchrun"):
        make_accelerator(parse(values))
    values["engine"]["sharding"] = "none"
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SettingError, match=r"micro_batches is 2, which 3 processes cannot share .* multiple of 3"):
        make_accelerator(parse(values))
