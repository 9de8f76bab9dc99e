"""`penguin-vl prepare recaption` in this process: what is bad usage, and what fails."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("inflect", reason="recaptioning is an extra: pip install '.[recaption]'")


@pytest.fixture
def annotations(tmp_path):
    Image.fromarray(np.full((60, 80, 3), 90, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": "a", "image": "a.png"}) + "\n")
    return tmp_path / "in.jsonl"


@pytest.mark.parametrize("address", ["nonsense", "http://", "ftp://h/v1", "http://h:port/v1", "http://h:0/v1"])
def test_an_address_that_is_none_is_bad_usage(address, cli, annotations, tmp_path):
    result = cli(
        "prepare", "recaption", annotations, "--out", tmp_path / "out.jsonl", "--model", "m", "--base-url", address
    )
    assert result.code == 2 and "--base-url" in result.err and not (tmp_path / "out.jsonl").exists()


def test_a_model_recaptions_and_the_same_id_twice_fails(cli, checkpoint, annotations, tmp_path):
    options = (
        "--out",
        tmp_path / "out.jsonl",
        "--model",
        checkpoint,
        "--device",
        "cpu",
        "--max-new-tokens",
        "3",
        "--json",
    )
    assert cli("prepare", "recaption", annotations, *options).json["earlier"] == 0
    assert cli("prepare", "recaption", annotations, *options).json["earlier"] == 1
    annotations.write_text(2 * annotations.read_text())
    result = cli("prepare", "recaption", annotations, *options)
    assert result.code == 1 and "line 1 and" in result.error and "line 2; ids must differ" in result.error
