"""The commands for runtimes: export, quantize, build, bench engine, bench session, and --runtime elsewhere."""

import importlib.util
import json
import re
import shutil
import sys
from types import SimpleNamespace

import pytest

from penguin_engine.export.manifest import Manifest
from penguin_engine.runtimes.loading import open_runtime
from penguin_engine.runtimes.onnx_session import best_device
from penguin_ros.cli.bench_engine import not_measured, print_table
from penguin_ros.cli.phases import Phases


def test_export(cli, checkpoint, tmp_path):
    report = cli("export", "--model", checkpoint, "--out", tmp_path / "out", "--profile", "onnxruntime", "--json").json
    assert (report["profile"], report["opset"], report["precision"]) == ("onnxruntime", 18, "float32")
    assert report["bytes"] == sum(file.bytes for file in Manifest.read(tmp_path / "out").files.values())


def test_float16_export_shows_its_ranges(cli, checkpoint, reference, tmp_path):
    sample = reference / "media" / "portrait.png"
    result = cli("export", "--model", checkpoint, "--out", tmp_path / "out", "--dtype", "float16", "--sample", sample)
    assert result.code == 0
    assert "portable profile, opset 18, float16" in result.out
    assert "float16 ends at 65504" in result.out


def test_export_refuses_a_folder_with_other_files(cli, checkpoint, tmp_path):
    (tmp_path / "note.txt").write_text("")
    assert str(tmp_path) in cli("export", "--model", checkpoint, "--out", tmp_path).error
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize("command", ["export", "quantize"])
def test_a_revision_is_for_models_on_the_hub(cli, checkpoint, tmp_path, command):
    error = cli(command, "--model", checkpoint, "--revision", "v1", "--out", tmp_path / "out").error
    assert "v1" in error and str(checkpoint) in error


def test_every_runtime_gives_the_same_answer(cli, checkpoint, exported, reference):
    answers = []
    for runtime, model in (("torch", checkpoint), ("onnx", exported(profile="onnxruntime"))):
        result = cli(
            *("ask", "--model", model, "--runtime", runtime, "--image", reference / "media" / "tabletop.png"),
            *("-q", "What is this?", "--max-tokens", 64, "--max-new-tokens", 8, "--json"),
        )
        answers.append(result.json["raw"])
    assert answers[0] == answers[1] != ""


def test_the_onnx_runtime_needs_an_exported_folder(cli, checkpoint):
    error = cli("ask", "--model", checkpoint, "--runtime", "onnx", "-q", "what?").error
    assert str(checkpoint) in error and "penguin-vl export" in error


def test_bench_session_with_a_runtime(cli, exported):
    model = exported(profile="onnxruntime")
    report = cli("bench", "session", "--model", model, "--runtime", "onnx", "--tokens", 400, "--json").json
    row = report["sessions"][0]
    assert report["runtime"] == "onnx" and row["visual_tokens"] == 391
    assert min(row["reused_s"], row["fresh_s"], row["offline_s"]) > 0


def test_bench_session_shows_results_before_it_fails(cli, exported):
    arguments = ("bench", "session", "--model", exported(profile="onnxruntime"), "--runtime", "onnx")
    result = cli(*arguments, "--tokens", 400, "--tokens", 60_000)
    assert result.code == 1 and "60400 visual tokens" in result.err
    _, line = result.out.splitlines()
    assert line.startswith("391 visual tokens in 1 frames: prefix reused ")


def test_bench_engine(cli, checkpoint, tmp_path, capsys):
    variant = ("--variant", "onnx:float32", "--prompt-tokens", 8, "--new-tokens", 1)
    report = cli("bench", "engine", "--model", checkpoint, "--work", tmp_path, *variant, "--json").json
    (row,) = report["variants"]
    assert row["variant"] == "onnx:float32" and row["scene_visual_tokens"] == 782
    rates = ("encode_patches_per_s", "prefill_tokens_per_s", "decode_tokens_per_s")
    times = ("load_s", "first_token_cold_s", "first_token_reused_s")
    memory = ("resident_loaded_bytes", "resident_bytes", "decoder_resident_bytes", "peak_bytes", "weight_bytes")
    assert all(row[name] > 0 for name in rates + times + memory)
    assert set(row["fractions"]) == {"encode", "prefill", "decode"} and min(row["fractions"].values()) > 0
    assert report["machine"]["cores"] >= 1 and "onnxruntime" in report["machine"]["versions"]
    print_table(report)
    shown = capsys.readouterr().out
    assert f"{row['decode_tokens_per_s']:.2f}" in shown and "measured memory bandwidth, GB/s" in shown


@pytest.mark.parametrize(
    ("gpu", "gpu_bytes", "sensors", "missing"),
    [
        (None, None, [], ["energy"]),
        (None, None, ["processor"], []),
        ("H200", 2**30, ["gpu"], []),
        ("H200", None, ["processor"], ["GPU memory", "energy"]),
        ("Orin", None, ["board"], ["GPU memory"]),
    ],
)
def test_bench_engine_says_what_is_not_available(monkeypatch, gpu, gpu_bytes, sensors, missing):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    notes = not_measured(gpu, [{"gpu_bytes": gpu_bytes, "joules_by_sensor": dict.fromkeys(sensors, 1.0)}])
    assert [note.partition(":")[0] for note in notes] == missing
    assert all(("pip install nvidia-ml-py" in note) == (gpu is not None) for note in notes)


@pytest.mark.parametrize("variant", ["fast:int8", "onnx:int7"])
def test_bench_engine_refuses_unknown_variants(cli, checkpoint, tmp_path, variant):
    error = cli("bench", "engine", "--model", checkpoint, "--work", tmp_path, "--variant", variant).error
    assert variant in error or "int7" in error


@pytest.mark.parametrize("model", ["random-2b", "checkpoint"])
def test_bench_engine_needs_a_folder_to_work_in(cli, checkpoint, tmp_path, model):
    (tmp_path / "file").write_text("")
    model = checkpoint if model == "checkpoint" else model
    error = cli("bench", "engine", "--model", model, "--work", tmp_path / "file").error
    assert f"{tmp_path / 'file'} cannot be written" in error


def test_layers_are_for_random_weights(cli, checkpoint):
    result = cli("bench", "engine", "--model", checkpoint, "--layers", 2)
    assert result.code == 2 and "--model random-2b" in result.err


@pytest.fixture
def quantize(cli, checkpoint, reference, tmp_path):
    sample = reference / "media" / "portrait.png"

    def run(*more):
        return cli("quantize", "--model", checkpoint, "--out", tmp_path / "out", "--sample", sample, *more)

    return run


def test_quantize_scores_both_on_the_tabletop(quantize, tmp_path):
    """The small random checkpoint scores badly; what counts is that both models are asked the same questions."""
    pytest.importorskip("pybullet", reason="needs the extra sim")
    from penguin_ros.evaluation.tabletop.scenes import TabletopRun, evaluate_tabletop

    out = tmp_path / "out"
    result = quantize("--min-agreement", 0, "--max-score-loss", 1, "--scenes", 1, "--seed", 3, "--json")
    report = result.json
    comparison = report["comparison"]
    assert comparison["good"] is True and comparison["positions"] == 3 * 16
    assert report["runtimes"] == {
        "full": {"runtime": "torch", "device": "cpu", "dtype": "float32"},
        "variant": {"runtime": "onnx", "device": "cpu", "dtype": "int8"},
    }
    assert report["bytes"]["decoder"] < 0.45 * report["bytes"]["float32_decoder"]
    found = evaluate_tabletop(*open_runtime("onnx", out), TabletopRun(3, 1))
    assert comparison["scores"]
    assert all(found[name].value == score["variant"] for name, score in comparison["scores"].items())
    assert report["scored_on"] == {"scenes": 1, "seed": 3}
    assert json.loads((out / "quantization.json").read_text()) == report
    assert Manifest.read(out).precision == "int8"


@pytest.mark.parametrize("calibrate", ["--calibrate", "--no-calibrate"])
def test_quantize_reports_errors_without_a_comparison(cli, checkpoint, tmp_path, monkeypatch, calibrate):
    """Of an int4 head and of the blocks; a comparison, which would load the whole model, is not run."""
    monkeypatch.setattr("penguin_models.checkpoint.load_pretrained", None)
    folders = ("--model", checkpoint, "--out", tmp_path / "out")
    report = cli("quantize", *folders, "--weights", "int4", "--no-keep-head", calibrate, "--json").json
    assert report["comparison"] is None and "runtimes" not in report
    assert report["quantization"]["calibrated"] is (calibrate == "--calibrate") is bool(report["activation_ranges"])
    errors = report["quantization"]["relative_error"]
    assert 0.05 < errors["head"] < 0.15 and 0.005 < errors["blocks"] < errors["head"]
    assert json.loads((tmp_path / "out" / "quantization.json").read_text()) == report | {"scored_on": None}


def test_progress_in_a_log(quantize):
    """A line for each phase, in order; a terminal has a bar instead."""
    result = quantize("--weights", "int4", "--compare", "--min-agreement", 0)
    lines = [line for line in result.err.splitlines() if line.startswith("progress: ")]
    phases = list(dict.fromkeys(line.removeprefix("progress: ").partition(",")[0] for line in lines))
    assert phases == ["calibration", "embedding table", "vision", "decoder", "hashing", "comparison"]
    assert re.fullmatch(r"progress: calibration, 0 % after \d+ s", lines[0]) and not result.messages


def test_lines_of_progress(capsys, monkeypatch):
    """Each tenth of a phase gets a line, but at most one is printed in 5 seconds."""
    now = iter([0.0, 0.0, 3.0, 6.0, 6.5, 20.0, 30.0])
    monkeypatch.setattr("penguin_ros.cli.phases.time", SimpleNamespace(monotonic=lambda: next(now)))
    with Phases() as phases:
        for done in (0, 50, 60, 61, 62, 100):
            phases.show("decoder", done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"progress: decoder, {text} s" for text in ("0 % after 0", "60 % after 6", "100 % after 30")]


@pytest.mark.parametrize(
    ("option", "message"),
    [("--min-agreement=0.9", "--compare"), ("--max-score-loss=0.1", "--compare"), ("--no-calibrate", "--sample")],
)
def test_quantize_ignores_no_option(quantize, tmp_path, option, message):
    result = quantize(option)
    assert result.code == 2 and message in result.err
    assert not (tmp_path / "out").exists()


def test_a_variant_without_scores_is_not_judged(quantize):
    result = quantize("--profile", "portable", "--weights", "int4", "--compare")
    assert result.code == 0, result.err
    assert "full precision on torch (cpu), this variant on onnx (cpu)" in result.out
    assert result.out.splitlines()[-1].startswith("not judged: no scores were compared; ") and "--scenes" in result.out


def test_a_variant_that_breaks_a_limit_is_an_error(quantize):
    worst = ("--profile", "portable", "--weights", "int4", "--keep-blocks", 0, "--no-keep-head")
    result = quantize(*worst, "--compare", "--min-agreement", 1)
    assert result.code == 1 and "agreement is" in result.err and "--keep-blocks" in result.err
    assert "int8" not in result.err, "it is not available for TensorRT"


def test_scores_of_the_tabletop_are_compared_by_name(monkeypatch):
    """A score that the variant lacks is 0, and accuracies of single kinds of question are left out."""
    pytest.importorskip("pybullet", reason="needs the extra sim")
    from penguin_ros.cli.quantize import tabletop_scorer
    from penguin_ros.evaluation.metrics.statistics import Ratio
    from penguin_ros.evaluation.tabletop import scenes

    def score(*right):
        parts = tuple(Ratio(value) for value in right)
        return scenes.Score("", sum(right) / len(right), None, None, len(right), parts)

    results = {
        "full": {"accuracy": score(*[1] * 8), "object_f1": score(1, 1), "question: where": score(1, 1)},
        "variant": {"accuracy": score(1, 0, 1, 1, 1, 1, 1, 1)},
    }
    monkeypatch.setattr(scenes, "evaluate_tabletop", lambda runtime, *rest: results[runtime])
    found = tabletop_scorer(8, 0)("full", "variant", None)
    assert {name: (change.full, change.variant) for name, change in found.items()} == {
        "accuracy": (1, 7 / 8),
        "object_f1": (1, 0),
    }
    assert found["accuracy"].interval[1] >= 0 and found["object_f1"].interval is None


def test_bfloat16_images_cannot_be_compared_on_a_cpu(quantize, tmp_path):
    if best_device() != "cpu":
        pytest.skip("ONNX Runtime has a GPU here")
    assert "no bfloat16 on a CPU" in quantize("--vision-dtype", "bfloat16", "--compare").error
    assert not (tmp_path / "out").exists()


def test_doctor_knows_the_onnx_runtime(cli):
    assert "runtime onnx yes: on the CPU; needs an exported folder" in " ".join(cli("doctor").out.split())


def test_build_and_run_with_tensorrt_for_rtx(cli, exported, tmp_path):
    """Plans are built without a GPU; running them says what is missing here."""
    folder = shutil.copytree(exported(profile="portable", dtype="float16"), tmp_path / "model")
    result = cli("build", folder, "--flavour", "rtx", "--for", "sm89", "--for", "sm120", "--json")
    assert result.json["machine"]["compute_capabilities"] == ["8.9", "12.0"]
    assert "progress: decoder: Building engine, 0 % after" in result.err
    assert (
        "does not build for sm90; choose from sm75" in cli("build", folder, "--flavour", "rtx", "--for", "sm90").error
    )
    if importlib.util.find_spec("pycuda") is None:
        assert "needs pycuda" in cli("ask", "--model", folder, "--runtime", "tensorrt", "-q", "what?").error


def test_build_names_a_missing_tensorrt(cli, exported):
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("tensorrt is installed here")
    folder = exported(profile="portable", dtype="float16")
    assert cli("build", folder, "--flavour", "tensorrt").error.startswith("TensorRT is not installed; on a Jetson")
    assert "goes with --flavour rtx" in cli("build", folder, "--flavour", "tensorrt", "--for", "sm89").err
