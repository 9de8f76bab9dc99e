"""`penguin-vl curate` in this process; tests/training/curation has the steps, and one run over Ray."""

import json

import numpy as np
import pytest
from curation_samples import InThisProcess, picture
from PIL import Image

from penguin_models.errors import CheckpointError
from penguin_ros.cli.curate import OpenModel
from penguin_training.curation import workers


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(8):
        Image.fromarray(picture(number % 6, number % 4)).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "8.png").write_bytes(b"no picture")
    return tmp_path / "in"


def test_curate_selects_names_and_refuses(cli, checkpoint, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "Workers", lambda address, processes, gpus: InThisProcess())
    options = ("--model", checkpoint, "--device", "cpu", "--out", tmp_path / "out")
    result = cli("curate", pictures, *options, "--keep", "4")
    assert result.code == 0 and "4 of 9 samples selected" in result.out and "unreadable: 1" in result.out
    assert any(line.startswith("note: 8.png: ") for line in result.messages)
    lines = (tmp_path / "out" / "selected" / "samples.jsonl").read_text().splitlines()
    assert len(lines) == 4 and all(json.loads(line)["image"].startswith(str(pictures)) for line in lines)
    error = cli("curate", pictures, *options, "--keep", "5").error
    assert "keep is 4 there, and 5 here; choose a new folder" in error
    for clusters in ("10,x", "2,4", "0", "4,4", "-1"):
        result = cli("curate", pictures, *options, "--keep", "4", f"--clusters={clusters}")
        assert result.code == 2 and "--clusters" in result.err
    result = cli("curate", pictures, "--model", tmp_path / "nope", "--out", tmp_path / "new", "--keep", "4")
    assert result.code == 1 and "nope" in result.error and not (tmp_path / "new").exists()


def write_clip(folder):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 32, "patch_size": 16}
    text = {**sizes, "vocab_size": 10, "max_position_embeddings": 8}
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder, 16


def write_siglip_vision(folder):
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=32, patch_size=16)).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder, 32


@pytest.mark.parametrize("write", [write_clip, write_siglip_vision])
def test_other_encoders_come_through_transformers(write, tmp_path):
    folder, width = write(tmp_path)
    embed = OpenModel(str(folder), "cpu", None, 256)()
    vectors = embed([picture(1), picture(2, side=64), picture(1)])
    assert vectors.shape == (3, width) and vectors.dtype == np.float32
    assert np.allclose(vectors[0], vectors[2], atol=1e-5) and not np.allclose(vectors[0], vectors[1], atol=1e-3)


def test_a_model_of_words_is_no_encoder(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="is no image encoder that transformers reads"):
        OpenModel(str(tmp_path), "cpu", None, 256)()
