"""bfloat16 and compiled layers, as shipped, train as float32 does."""

import pytest
import torch
from safetensors.torch import load_file

from penguin_training.run.loop import train


def test_bfloat16_and_compiled_layers_train_as_float32(values, reconstruction, start, losses, tmp_path):
    reconstruction(values, reading=1.0)
    values["optimizer"] = {"kind": "muon"}
    values["schedule"] = {"steps": 2}
    runs = {}
    for name, engine in (
        ("float32", {}),
        ("bf16", {"precision": "bf16"}),
        ("both", {"precision": "bf16", "compile": True}),
    ):
        runs[name] = start(values | {"output": str(tmp_path / name), "engine": values["engine"] | engine})
        train(runs[name])
    exact, rounded, compiled = (losses(run) for run in runs.values())
    assert rounded != exact and rounded == pytest.approx(exact, rel=0.02)
    assert compiled == pytest.approx(rounded, rel=0.02)
    assert {p.dtype for p in runs["both"].model.parameters()} == {torch.float32}
    ours, expected = (load_file(runs[name].output / "model.safetensors") for name in ("both", "float32"))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0.05, atol=5e-3, msg=name)
