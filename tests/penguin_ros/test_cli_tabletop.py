"""`penguin-vl tabletop`: files and pictures from the command line, and one clear line per error."""

import json
import sys

import pytest
from PIL import Image

from penguin_ros.cli.main import main

pytest.importorskip("pybullet_data", reason="PyBullet is not installed: pip install pybullet")


@pytest.fixture
def run(monkeypatch, capfd):
    """Runs the command in this process; returns (exit code, standard output, standard error)."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["penguin-vl", "tabletop", *map(str, args)])
        with pytest.raises(SystemExit) as raised:
            main()
        return raised.value.code, *capfd.readouterr()

    return call


def test_write_creates_annotations_images_and_masks(run, tmp_path):
    out = tmp_path / "new" / "folder"
    options = ("--out", out, "--scenes", 4, "--split", "test", "--size", "112x84", "--mixture", "image=1,text=1")
    code, said, noise = run("write", *options, "--masks", "--json")
    assert code == 0 and noise == ""
    result = json.loads(said)
    lines = [json.loads(line) for line in (out / "annotations.jsonl").read_text().splitlines()]
    assert result["samples"] == len(lines) == 4 and {line["family"] for line in lines} <= {"image", "text"}
    assert all(line["id"].startswith("test-0-") for line in lines)
    pictures = [Image.open(out / path) for line in lines for path in line.get("image", []) + line.get("masks", [])]
    assert pictures and {picture.size for picture in pictures} == {(112, 84)}
    code, said, _ = run("write", *options, "--masks")
    assert code == 0 and said.startswith(f"4 samples in {out}")


@pytest.mark.parametrize(("family", "columns"), [("image", 1), ("pair", 2), ("clip", 4)])
def test_show_draws_the_frames_and_prints_the_conversation(run, tmp_path, family, columns):
    picture = tmp_path / "picture.png"
    code, said, noise = run("show", "--seed", 1, "--out", picture, "--family", family, "--size", "120")
    assert code == 0 and noise == ""
    assert Image.open(picture).width == 120 * columns and Image.open(picture).height % 120 == 0
    assert "\n[" in said
    code, said, _ = run("show", "--seed", 1, "--out", picture, "--family", family, "--size", "120", "--json")
    shown = json.loads(said)
    assert shown["frames"][0]["objects"] and shown["conversations"][0]["from"] == "human"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--size", "big"), "'big' is not a size such as 224x224"),
        (("--mixture", "image"), "'image' is not a weight such as image=3"),
        (("--mixture", "music=1"), "'music=1' is not a weight such as image=3"),
    ],
)
def test_invalid_options_are_refused(run, tmp_path, options, message):
    code, _, noise = run("write", "--out", tmp_path / "x", "--scenes", 1, *options)
    assert code == 2 and message in " ".join(noise.replace("│", " ").split())


def test_failures_are_reported_in_one_line(run, tmp_path):
    code, _, noise = run("write", "--out", tmp_path / "x", "--scenes", 1, "--size", "20")
    assert code == 1 and noise == "error: image size 20x20 must be between 56 and 1080 pixels a side\n"
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        code, _, noise = run("write", "--out", out, "--scenes", 1)
        assert code == 1 and noise.startswith(f"error: --out {out} cannot be created") and noise.count("\n") == 1
    code, _, noise = run("show", "--seed", 1, "--out", tmp_path / "no" / "picture.png")
    assert code == 1 and noise.startswith("error: overlay") and noise.count("\n") == 1
