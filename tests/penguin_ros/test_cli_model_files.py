"""`penguin-vl ask` on checkpoints whose weights or end tokens are unusual."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

QUESTION = ("-q", "What is on the table?", "--max-new-tokens", 40)
SHIPPED = Path(__file__).parents[2] / "models" / "penguin-tiny"
END, OTHER = 1274, 1275  # <|im_end|> and <|endoftext|> of penguin-tiny
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def drawn(picture, tmp_path):
    Image.fromarray(picture(84, 112)).save(tmp_path / "drawn.png")
    return tmp_path / "drawn.png"


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("weights", ["nan", "overflow"])
def test_logits_that_are_not_finite_are_one_line(cli, edit_checkpoint, drawn, weights, temperature):
    def damage(tensors):
        if weights == "nan":
            tensors[DOWN][0, 0] = np.nan
        else:
            tensors[DOWN] *= 1e8

    folder = edit_checkpoint(damage)
    dtype = "float16" if weights == "overflow" else "float32"
    options = ("--dtype", dtype, "--temperature", temperature)
    result = cli("ask", "--model", folder, "--image", drawn, *QUESTION, *options)
    assert not result.out.strip()
    for part in ("logits are not finite", dtype, "bfloat16 or float32", "check its weights"):
        assert part in result.error
    if weights == "overflow":
        assert cli("ask", "--model", folder, "--image", drawn, *QUESTION, "--dtype", "bfloat16").code == 0


@pytest.fixture
def other_end(tmp_path):
    """penguin-tiny with the output rows of two tokens swapped: it ends answers with <|endoftext|>."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(SHIPPED, tmp_path / "other_end")
    weights = load_file(folder / "model.safetensors")
    head = weights["model.embed_tokens.weight"].clone()
    head[[END, OTHER]] = head[[OTHER, END]]
    save_file(weights | {"lm_head.weight": head}, folder / "model.safetensors")
    for name, values in (
        ("config.json", {"tie_word_embeddings": False}),
        ("generation_config.json", {"eos_token_id": [END, OTHER]}),
    ):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | values))
    return folder


def test_an_answer_ends_at_a_token_that_only_generation_config_names(cli, other_end, drawn, tmp_path):
    def answer(*model):
        return cli("ask", "--model", *model, "--image", drawn, *QUESTION, "--json").json

    expected, found = answer(SHIPPED, "--dtype", "float32"), answer(other_end, "--dtype", "float32")
    assert (found["raw"], found["ended_by"]) == (expected["raw"], "end") and found["raw"]
    assert cli("export", "--model", other_end, "--out", tmp_path / "onnx", "--dtype", "float32").code == 0
    found = answer(tmp_path / "onnx", "--runtime", "onnx")
    assert (found["raw"], found["ended_by"]) == (expected["raw"], "end")
