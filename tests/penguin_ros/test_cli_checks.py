"""Commands that check policies, the model and the machine: bench tra, parity and doctor."""

from __future__ import annotations

import json
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from command_line import schema
from PIL import Image
from safetensors.numpy import load_file, save_file

from penguin_models.errors import MediaError
from penguin_ros.evaluation.tabletop.keyframe_clips import check_plot, draw_timelines


def test_bench_tra_compares_both_policies(cli, tmp_path):
    pytest.importorskip("pybullet", reason="the table-top needs PyBullet")
    rows = cli("bench", "tra", "--rendered", "--clips", 1, "--seconds", 0.1, "--json").json["policies"]
    assert [row["policy"] for row in rows] == ["NoveltyPolicy", "ReferencePolicy"]
    for row in rows:
        assert row["events"] > 0 and 0 <= row["recall"] <= 1 and row["frames_per_s"] > 0
        assert len(row["timeline"]) == 2 and row["timeline"][1]["events"] == []
    assert rows[0]["recall"] >= rows[1]["recall"]


@pytest.mark.parametrize("name", ["plot.png", "plot.svg"])
def test_timelines_are_plotted(tmp_path, name):
    pytest.importorskip("matplotlib", reason="needs the extra eval")
    clips = [{"events": [[5.0, 6.5]], "keyframes": [5.2, 6.0]}, {"events": [], "keyframes": []}]
    check_plot(tmp_path / name)
    draw_timelines(tmp_path / name, {"One": clips, "Other": clips})
    if name == "plot.png":
        with Image.open(tmp_path / name) as image:
            colours = {colour for _, colour in image.convert("RGB").getcolors(2**20)}
        assert {(255, 205, 120), (30, 90, 200)} <= colours
    else:
        text = (tmp_path / name).read_text()
        assert "#ffcd78" in text and "#1e5ac8" in text


@pytest.mark.parametrize(("name", "error"), [("plot.doc", "name it .png or .svg"), ("no/plot.png", "no folder")])
def test_a_plot_that_cannot_be_written_is_reported_at_once(tmp_path, name, error):
    pytest.importorskip("matplotlib", reason="needs the extra eval")
    with pytest.raises(MediaError, match=error):
        check_plot(tmp_path / name)


def test_parity_with_the_reference(cli, reference):
    result = cli("parity", reference, "--json").json
    assert result["passed"] is True
    assert result["tolerances"]["logits"] == 2e-4 and result["tolerances"]["pixels"] == 1e-5
    cases = {case["case"]: case for case in result["cases"]}
    assert {"image_tabletop", "image_portrait", "image_small", "video_native", "video_compressed"} < set(cases)
    assert {"chat template", "training labels", "200 allocations", "keyframes, clip every 3"} < set(cases)
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


def test_parity_notices_one_changed_number(cli, vectors):
    tensors = load_file(vectors / "expected.safetensors")
    tensors["image_small.logits_last8"].flat[5] += 1e-3
    save_file(tensors, vectors / "expected.safetensors")
    result = cli("parity", vectors, "--json")
    assert (result.code, result.err) == (1, "")
    report = json.loads(result.out)
    (failed,) = [case for case in report["cases"] if not case["passed"]]
    assert report["passed"] is False and failed["case"] == "image_small"
    exceeded = [name for name, error in failed["errors"].items() if error > report["tolerances"][name]]
    assert exceeded == ["logits"] and all(failed["equal"].values())


def test_parity_in_words(cli, vectors):
    result = cli("parity", vectors)
    assert result.code == 0 and result.out.endswith("all within tolerance\n")
    rounded = cli("parity", vectors, "--dtype", "float16", "--device", "cpu")
    assert rounded.code == 0 and "logits 0.03" in rounded.out
    labels = json.loads((vectors / "labels.json").read_text())
    labels[1]["labels"][0] += 1
    (vectors / "labels.json").write_text(json.dumps(labels))
    result = cli("parity", vectors)
    assert result.code == 1 and result.out.endswith("1 of 6 cases differ\n")
    assert re.search(r"training labels +3 of 4 +differs: labels 1\b", result.out)


def test_parity_of_an_empty_folder(cli, tmp_path):
    assert cli("parity", tmp_path).error.startswith(f"{tmp_path} has no reference vectors, which are expected.json")


def test_parity_of_a_missing_folder(cli, tmp_path):
    assert cli("parity", tmp_path / "x").error == f"{tmp_path / 'x'} is not a folder of reference vectors"


@pytest.mark.parametrize("empty", [False, True])
def test_parity_of_a_missing_clip(cli, vectors, reference, empty):
    cases = json.loads((reference / "expected.json").read_text())
    (vectors / "expected.json").write_text(json.dumps({"video_native": cases["video_native"]}))
    shutil.rmtree(vectors / "media" / "clip")
    if empty:
        (vectors / "media" / "clip").mkdir()
    assert f"{vectors / 'media' / 'clip'} is not a folder of frames, or is empty" in cli("parity", vectors).error


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
