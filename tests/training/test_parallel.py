"""Several processes: copies and shards give the losses and the weights of a single process."""

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from penguin_models.errors import SettingError
from penguin_training.loop import train
from penguin_training.parallel import make_accelerator


def torchrun(values, folder, *arguments):
    """Two processes on this machine's CPU, through the real command."""
    stage = folder / "stage.yaml"
    stage.write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "penguin_ros.cli.main", "train"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, str(stage), *arguments], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def single(values, reconstruction, start, losses, tmp_path):
    """A stage with every kind of sample and loss, run by one process: its values, losses and weights."""
    reconstruction(values)
    values["budgets"]["micro_batches"] = 4
    values["schedule"] = {"steps": 4}
    values["engine"]["ema_decay"] = 0.5
    values["output"] = str(tmp_path / "single")
    run = start(values)
    train(run)
    return values, losses(run), load_file(run.output / "model.safetensors")


@pytest.mark.parametrize("sharding", ["none", "fsdp2"])
def test_two_processes_are_as_one(single, tmp_path, sharding):
    values, expected, weights = single
    values["output"] = str(tmp_path / sharding)
    values["engine"] |= {"sharding": sharding, "gradient_checkpointing": sharding == "fsdp2"}
    if sharding == "fsdp2":  # also over a stop
        torchrun(values, tmp_path, "--stop-at", "2")
        torchrun(values, tmp_path, "--resume")
    else:
        torchrun(values, tmp_path)
    lines = (tmp_path / sharding / "metrics.jsonl").read_text().splitlines()
    ours = [json.loads(line)["loss"] for line in lines]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=0)
    stored = load_file(tmp_path / sharding / "model.safetensors")
    assert stored.keys() == weights.keys()
    for name, tensor in stored.items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-3, atol=2e-4, msg=name)


def test_what_cannot_be_shared(values, parse, monkeypatch):
    values["engine"]["sharding"] = "fsdp2"
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SettingError, match="needs processes: start with torchrun"):
        make_accelerator(parse(values))
    values["engine"]["sharding"] = "none"
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SettingError, match=r"micro_batches is 2, which 3 processes cannot share .* multiple of 3"):
        make_accelerator(parse(values))
