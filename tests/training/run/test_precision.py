"""bfloat16 and compiled layers, as shipped, train as float32 does."""

import pytest
import torch
import torch._inductor.config
from safetensors.torch import load_file

from penguin_models.encoder import EncoderLayer
from penguin_training.run.loop import train


@pytest.fixture
def quickly_compiled(monkeypatch):
    """Code is generated for the encoder's layers only; those of the decoder are traced and differentiated alike.

    To compile the C++ code of a layer takes as long as to train it a hundred times.
    """
    compile_layer = torch.nn.Module.compile

    def compile_(layer, dynamic):
        compile_layer(layer, dynamic=dynamic, backend="inductor" if isinstance(layer, EncoderLayer) else "aot_eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_)
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)  # more are processes that import torch first


@pytest.fixture
def shallow(edit_checkpoint):
    """The small checkpoint with a single layer of the encoder and of the decoder: each one is traced by itself."""

    def drop(tensors):
        for name in [name for name in tensors if ".layers.1." in name or ".layers.2." in name]:
            del tensors[name]

    def count(config):
        config["num_hidden_layers"] = config["vision_encoder_config"]["num_hidden_layers"] = 1

    return edit_checkpoint(drop, count)


def test_bfloat16_and_compiled_layers_train_as_float32(
    values, reconstruction, start, losses, shallow, tmp_path, quickly_compiled
):
    reconstruction(values, reading=1.0)
    values["model"] = {"start": str(shallow)}
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
