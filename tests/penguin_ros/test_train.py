"""`penguin-vl train` and `prepare`: from annotation files to a checkpoint, with one line for each error."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from penguin_models.checkpoint import load_pretrained


@pytest.fixture
def cli(cli):
    """Runs the command in this process; returns (exit code, standard output, standard error)."""
    from accelerate.state import AcceleratorState

    def run(*args):
        AcceleratorState._reset_state(reset_partial_state=True)
        result = cli(*args)
        return result.code, result.out, result.err

    yield run
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def data(tmp_path):
    """Sixteen images of one colour each, with conversations and masks."""
    colours = {"red": (200, 0, 0), "green": (0, 180, 0), "blue": (0, 0, 220), "grey": (128, 128, 128)}
    rows = []
    for i in range(16):
        name, rgb = list(colours.items())[i % 4]
        Image.fromarray(np.full((28, 42, 3), rgb, np.uint8)).save(tmp_path / f"{i}.png")
        Image.fromarray(np.full((28, 42), i % 4, np.uint8)).save(tmp_path / f"{i}-mask.png")
        said = [{"from": "human", "value": "<image>\nWhich colour?"}, {"from": "gpt", "value": f"It is {name}."}]
        rows.append({"id": i, "image": [f"{i}.png"], "masks": [f"{i}-mask.png"], "conversations": said})
    path = tmp_path / "annotations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "settings.json").write_text(json.dumps({"classes": list(colours)}))
    return path


@pytest.fixture
def stage(tmp_path, data, checkpoint):
    """A stage file over the data."""
    settings = {
        "name": "colours",
        "kind": "multimodal",
        "output": str(tmp_path / "run"),
        "model": {"start": str(checkpoint)},
        "learning_rates": {"llm": 1e-3, "projector": 1e-3},
        "data": {"files": [{"path": str(data)}], "workers": 0},
        "budgets": {"tokens": 128, "visual_tokens": 32, "micro_batches": 2},
        "schedule": {"steps": 6},
        "engine": {"precision": "float32", "log_every": 2, "save_every": 3},
    }
    path = tmp_path / "stage.yaml"
    path.write_text(json.dumps(settings))
    return path


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """A folder that cannot be written to, even if the tests run as root."""
    folder, allowed = tmp_path / "locked", os.access
    folder.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: allowed(path, mode) and path != folder)
    return folder


def test_a_stage_from_data_to_checkpoint(cli, stage, tmp_path):
    code, _, err = cli("train", stage)
    assert code == 1 and "has no length index for these settings" in err and err.count("\n") == 1
    code, out, _ = cli("prepare", "lengths", stage, "--json")
    (index,) = json.loads(out)["indexes"]
    assert code == 0 and index["samples"] == 16 and 20 < index["tokens"] < 60
    assert (index["unusable"], index["left_out"]) == (0, [])
    code, out, _ = cli("train", stage, "--dry-run", "--json")
    assert code == 0 and json.loads(out)["steps"] == 6 and not (tmp_path / "run").exists()
    code, out, _ = cli("train", stage, "--dry-run")
    assert code == 0 and "trained: " in out and "memory: " in out

    code, out, err = cli("train", stage, "--stop-at", "4")
    assert code == 0 and "step 4 of 6" in out
    assert [line.split(" loss ")[0] for line in err.splitlines()] == ["step 2/6", "step 4/6"]
    code, out, _ = cli("train", stage, "--resume", "--json")
    assert code == 0 and json.loads(out) == {"output": str(tmp_path / "run"), "steps": 2, "step": 6}
    load_pretrained(tmp_path / "run")
    figures = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in figures] == [2, 4, 6]
    assert {"loss", "cross_entropy", "gradient_norm", "epoch", "filled", "tokens_per_s"} <= figures[0].keys()
    assert list((tmp_path / "run" / "trackers").rglob("events.out.tfevents.*"))


def test_tokenizer_and_teacher(cli, data, tmp_path):
    code, out, _ = cli("prepare", "tokenizer", data, "--vocabulary", 270, "--output", tmp_path / "tokenizer", "--json")
    assert code == 0 and json.loads(out)["vocabulary"] == 270
    small = ("--steps", 3, "--images", 2, "--hidden-size", 64, "--workers", 0)
    code, out, _ = cli("prepare", "teacher", data, "--output", tmp_path / "teacher", *small, "--json")
    assert code == 0 and json.loads(out)["loss"] > 0
    assert json.loads((tmp_path / "teacher" / "config.json").read_text())["hidden_size"] == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "engine.sed=1"), "engine.sed is not a setting; did you mean seed?"),
        (("--set", "budgets.tokens=0"), "budgets.tokens is 0: input should be greater than or equal to 1"),
        (("--set", "model.start=/nowhere"), "/nowhere is not a checkpoint folder"),
        (("--set", "engine.trackers=[wandb]"), "engine.trackers names wandb, which is not installed"),
        (("--set", "engine.sharding=fsdp2"), "which needs processes: start with torchrun"),
        (("--resume",), "has no state to resume from"),
        (("--set", "output={stage}"), "stage.yaml is not one; write to another folder"),
        (("--set", "output={stage}/below"), "stage.yaml is not one; write to another folder"),
        (("--set", "output={locked}/a/b"), "is write-protected; write to another folder"),
        (("--set", "output={start}"), "is model.start; write to another folder"),
    ],
)
def test_mistakes_are_reported_before_the_first_step(cli, stage, arguments, message, monkeypatch, checkpoint, locked):
    monkeypatch.setattr("penguin_training.run.build_run.build_model", None)
    arguments = [argument.format(stage=stage, start=checkpoint, locked=locked) for argument in arguments]
    code, out, err = cli("train", stage, *arguments)
    assert code == 1 and message in err and err.startswith("error: ") and err.count("\n") == 1 and not out
    if "output" in arguments[-1]:
        assert cli("train", stage, *arguments, "--dry-run") == (code, out, err)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_finished_checkpoint_is_not_overwritten(cli, stage, tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("{}")
    code, _, err = cli("train", stage)
    assert code == 1 and f"run already holds a checkpoint ({name}); change output, or move it away" in err


@pytest.mark.parametrize("option", [("--resume",), ("--stop-at", "3")])
def test_a_dry_run_refuses_options_of_a_run(cli, stage, option):
    code, _, err = cli("train", stage, "--dry-run", *option)
    assert code == 2 and "cannot use --resume or --stop-at; remove them" in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize("command", ["tokenizer", "teacher"])
def test_an_output_that_cannot_be_written_is_reported_first(cli, data, locked, command, monkeypatch):
    monkeypatch.setattr("penguin_training.model.train_tiny_teacher.train_tiny_teacher", None)
    monkeypatch.setattr("penguin_training.data.train_tokenizer.train_tokenizer", None)
    for output, message in ((data, "cannot be a folder"), (locked / "x", "is write-protected")):
        code, _, err = cli("prepare", command, data, "--output", output)
        assert code == 1 and message in err and err.count("\n") == 1


def test_unusable_samples_are_listed(cli, stage, data, tmp_path):
    with data.open("a") as file:
        file.write('{"id": "broken", "text": 3}\n')
    code, out, _ = cli("prepare", "lengths", stage)
    assert code == 0 and "1 unusable\n  left out broken: text must be a string" in out
    code, out, _ = cli("prepare", "lengths", stage, "--json")
    (index,) = json.loads(out)["indexes"]
    assert index["unusable"] == 1 and index["left_out"][0]["id"] == "broken"
    code, _, err = cli("train", stage, "--stop-at", "2")
    assert code == 0 and "left out broken: text must be a string" in err


def test_preparing_fails_if_no_sample_can_be_used(cli, stage, data):
    data.write_text('{"id": "broken", "prompt": "x"}\n')
    code, out, err = cli("prepare", "lengths", stage)
    assert code == 1 and "left out broken" in out and "no sample can be used: " in err


def test_a_stream_has_no_lengths_to_prepare(cli, stage):
    stream = ("--set", "data.streamed=true", "--set", "schedule={steps: 3}")
    code, out, _ = cli("prepare", "lengths", stage, *stream)
    assert code == 0 and "streams its data, which needs no index" in out
    assert json.loads(cli("prepare", "lengths", stage, *stream, "--json")[1]) == {"indexes": []}


def test_an_image_that_is_back_is_used(cli, stage, tmp_path):
    def unusable(*options):
        code, out, _ = cli("prepare", "lengths", stage, "--json", *options)
        assert code == 0
        (index,) = json.loads(out)["indexes"]
        return [entry["id"] for entry in index["left_out"]]

    kept = (tmp_path / "3.png").read_bytes()
    (tmp_path / "3.png").unlink()
    assert unusable() == ["3"]
    (tmp_path / "3.png").write_bytes(kept)
    assert unusable() == []
    (tmp_path / "3.png").unlink()
    assert unusable() == [] and unusable("--again") == ["3"]


def test_on_a_full_disk_the_last_state_stays_and_is_resumed(cli, stage, small_disk):
    disk = small_disk(32768)
    run = disk / "run"
    options = ("--set", f"output={run}", "--set", "schedule.steps=3", "--set", "engine.save_every=1")
    assert cli("prepare", "lengths", stage)[0] == 0 and cli("train", stage, *options, "--stop-at", 1)[0] == 0
    for kib, place in ((700, "checkpoints/step-00000002"), (0, "")):
        (disk / "filler").unlink(missing_ok=True)
        (disk / "filler").write_bytes(bytes(max(0, shutil.disk_usage(disk).free - kib * 1024)))
        code, _, err = cli("train", stage, *options, "--resume")
        assert code == 1 and f"error: {run / place}" in err and "cannot be written: No space left on device" in err
        assert "Traceback" not in err and err.count("error: ") == 1
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000001"]
    (disk / "filler").unlink()
    assert cli("train", stage, *options, "--resume", "--json")[0] == 0
    load_pretrained(run)
