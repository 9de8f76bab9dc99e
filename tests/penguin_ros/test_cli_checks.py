"""Commands that look at the machine and the package: bench tra, parity, doctor."""

from __future__ import annotations

import json
import re
import shutil
import sys
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import schema
from PIL import Image
from safetensors.numpy import load_file, save_file

from penguin_engine.bench import model as bench
from penguin_models.types import Size

# Benchmarks.


def test_bench_tra_measures_both_policies_and_draws_what_they_noticed(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "drawn_clips", partial(bench.drawn_clips, seconds=12.0))
    monkeypatch.setattr(bench, "policy_speed", partial(bench.policy_speed, size=Size(54, 96)))
    monkeypatch.chdir(tmp_path)
    few = ("bench", "tra", "--clips", 1, "--seconds", 0.1, "--json")
    rows = cli(*few).json["policies"]
    assert [row["policy"] for row in rows] == ["NoveltyPolicy", "ReferencePolicy"]
    for row in rows:
        assert row["events"] > 0 and 0 <= row["recall"] <= 1 and row["frames_per_s"] > 0
    with Image.open("build/key-frames.png") as picture:
        assert picture.getextrema() != ((255, 255),) * 3
    pytest.importorskip("pybullet", reason="the table-top needs PyBullet")
    rendered = cli(*few, "--rendered").json["policies"]
    assert rendered[0]["events"] > 0 and rendered[0]["recall"] >= rendered[1]["recall"]
    assert cli(*few, "--plot", "nowhere/x.png").error.startswith("overlay nowhere/x.png cannot be written")


# Parity.


def test_parity_with_the_reference(cli, reference):
    result = cli("parity", reference, "--json").json
    assert result["passed"] is True
    assert result["tolerances"]["logits"] == 2e-4 and result["tolerances"]["pixels"] == 1e-5
    cases = {case["case"]: case for case in result["cases"]}
    assert {"image_tabletop", "image_portrait", "image_small", "video_native", "video_compressed"} < set(cases)
    assert {"chat template", "training labels", "200 allocations", "key frames, clip every 3"} < set(cases)
    assert all(case["passed"] and case["note"] == "" for case in cases.values())
    for name in ("image_tabletop", "video_compressed"):
        assert set(cases[name]["errors"]) == {"pixels", "encoder", "projector", "logits"}
        assert {"ids", "grids", "generated", "text"} <= set(cases[name]["equal"])


@pytest.fixture
def vectors(reference, tmp_path):
    """A copy of the reference vectors with only one case that runs the model."""
    folder = Path(shutil.copytree(reference, tmp_path / "vectors"))
    cases = json.loads((folder / "expected.json").read_text())
    (folder / "expected.json").write_text(json.dumps({"image_small": cases["image_small"]}))
    return folder


@pytest.mark.parametrize(
    ("tensor", "change", "where"),
    [("logits_last8", 1e-3, "logits"), ("encoder", np.nan, "encoder"), ("generated", 1, "generated")],
)
def test_parity_notices_one_changed_number(cli, vectors, tensor, change, where):
    tensors = load_file(vectors / "expected.safetensors")
    tensors[f"image_small.{tensor}"].flat[5] += change
    save_file(tensors, vectors / "expected.safetensors")
    result = cli("parity", vectors, "--json")
    assert (result.code, result.err) == (1, "")
    report = json.loads(result.out)
    (failed,) = [case for case in report["cases"] if not case["passed"]]
    assert report["passed"] is False and failed["case"] == "image_small"
    off = [name for name, error in failed["errors"].items() if not float(error) <= report["tolerances"][name]]
    assert off + [name for name, same in failed["equal"].items() if not same] == [where]


def test_parity_in_words(cli, vectors):
    result = cli("parity", vectors)
    assert result.code == 0 and result.out.endswith("all within tolerance\n")
    labels = json.loads((vectors / "labels.json").read_text())
    labels[1]["labels"][0] += 1
    (vectors / "labels.json").write_text(json.dumps(labels))
    result = cli("parity", vectors)
    assert result.code == 1 and result.out.endswith("1 of 6 cases differ\n")
    assert re.search(r"training labels +3 of 4 +differs: labels 1\b", result.out)


def test_parity_of_an_empty_folder(cli, tmp_path):
    assert cli("parity", tmp_path).error.startswith(f"{tmp_path} has none of expected.json, chat_template.json")


def test_parity_of_a_missing_folder(cli, tmp_path):
    assert cli("parity", tmp_path / "x").error == f"{tmp_path / 'x'} is not a folder of reference vectors"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("expected.safetensors", None),
        ("expected.safetensors", b"abc"),
        ("expected.json", b"{"),
        ("tra_sizes.json", b"[{}]"),
        ("tra_sizes.json", b"[[]]"),
        ("expected.json", b'{"one": {"case": [], "max_tokens": 100}}'),
        ("media/manifest.png", None),
        ("checkpoint/config.json", None),
    ],
)
def test_parity_of_broken_vectors(cli, vectors, name, data):
    (vectors / name).unlink()
    if data is not None:
        (vectors / name).write_bytes(data)
    assert name in cli("parity", vectors).error


@pytest.mark.parametrize("empty", [False, True])
def test_parity_of_a_missing_clip(cli, vectors, reference, empty):
    cases = json.loads((reference / "expected.json").read_text())
    (vectors / "expected.json").write_text(json.dumps({"video_native": cases["video_native"]}))
    shutil.rmtree(vectors / "media" / "clip")
    if empty:
        (vectors / "media" / "clip").mkdir()
    assert f"{vectors / 'media' / 'clip'} is no folder of frames, or an empty one" in cli("parity", vectors).error


# The other commands.


def test_doctor_as_json(cli):
    report = cli("doctor", "--json").json
    machine = {finding["name"]: finding for finding in report["machine"]}
    runtimes = {finding["name"]: finding for finding in report["runtimes"]}
    finding = {"name": "str", "value": "str", "present": "bool"}
    assert all(schema(found) == finding for found in [*report["machine"], *report["runtimes"]])
    assert machine["python"]["value"] == f"{sys.version.split()[0]} ({sys.executable})"
    assert machine["torch"]["value"].startswith(torch.__version__)
    assert machine["transformers"] == {
        "name": "transformers",
        "value": metadata.version("transformers"),
        "present": True,
    }
    assert machine["ros"]["present"] and machine["ros"]["value"].endswith("messages of penguin_vl built")
    assert runtimes["runtime torch"]["present"]
    assert ("--device cuda" in runtimes["runtime torch"]["value"]) == torch.cuda.is_available()


def test_doctor_in_words(cli):
    result = cli("doctor")
    assert result.code == 0
    assert re.search(r"^runtime torch +yes: on ", result.out, re.MULTILINE)
    assert re.search(r"^machine +.* cores, .* GiB memory", result.out, re.MULTILINE)
