"""The commands around compiled engines: export, quantize, bench engine, and --runtime elsewhere."""

import importlib.util
import json
import threading
from dataclasses import replace
from functools import partial

import pytest

from penguin_engine.bench import variants
from penguin_engine.export.manifest import Manifest
from penguin_engine.runtimes.loading import open_runtime
from penguin_models.errors import EngineError
from penguin_models.types import Size
from penguin_ros.cli import bench_engine as cli_bench_engine
from penguin_ros.cli import build


def test_export(cli, checkpoint, tmp_path):
    result = cli("export", "--model", checkpoint, "--out", tmp_path / "out", "--profile", "fused", "--json")
    report = json.loads(result.out)
    assert result.code == 0
    assert (report["profile"], report["opset"], report["precision"]) == ("fused", 24, "float32")
    assert report["bytes"] == sum(file.bytes for file in Manifest.read(tmp_path / "out").files.values())


def test_export_of_float16_shows_its_ranges(cli, checkpoint, reference, tmp_path):
    sample = reference / "media" / "portrait.png"
    result = cli("export", "--model", checkpoint, "--out", tmp_path / "out", "--dtype", "float16", "--sample", sample)
    assert result.code == 0
    assert "portable profile, opset 18, float16" in result.out
    assert "float16 ends at 65504" in result.out


def test_export_into_a_folder_of_something_else(cli, checkpoint, tmp_path):
    (tmp_path / "note.txt").write_text("")
    result = cli("export", "--model", checkpoint, "--out", tmp_path)
    assert result.code == 1
    assert result.err.startswith(f"error: {tmp_path} exists and is not an exported folder; choose another")


def test_ask_answers_alike_with_every_runtime(cli, checkpoint, exported, reference):
    answers = []
    for runtime, model in (("torch", checkpoint), ("onnx", exported(profile="onnxruntime"))):
        result = cli(
            *("ask", "--model", model, "--runtime", runtime, "--image", reference / "media" / "tabletop.png"),
            *("-q", "What is this?", "--max-tokens", 64, "--max-new-tokens", 8, "--json"),
        )
        assert result.code == 0, result.err
        answers.append(json.loads(result.out)["raw"])
    assert answers[0] == answers[1] != ""


def test_ask_with_a_checkpoint_that_was_not_exported(cli, checkpoint):
    result = cli("ask", "--model", checkpoint, "--runtime", "onnx", "-q", "what?")
    assert result.code == 1
    assert result.err.startswith(f"error: {checkpoint} is not an exported folder, which the onnx runtime needs")
    assert result.err.count("\n") == 1


def test_bench_session_with_a_runtime(cli, exported, monkeypatch):
    monkeypatch.setattr("penguin_engine.bench.session._REPEATS", 1)
    model = exported(profile="onnxruntime")
    result = cli("bench", "session", "--model", model, "--runtime", "onnx", "--tokens", 400, "--json")
    report = json.loads(result.out)
    assert report["runtime"] == "onnx" and report["sessions"][0]["visual_tokens"] == 391


def test_bench_session_shows_what_it_has_measured_before_it_fails(cli, exported, monkeypatch):
    monkeypatch.setattr("penguin_engine.bench.session._REPEATS", 1)
    arguments = ("bench", "session", "--model", exported(profile="onnxruntime"), "--runtime", "onnx")
    result = cli(*arguments, "--tokens", 400, "--tokens", 60_000)
    assert result.code == 1 and "a memory of 60400 visual tokens needs" in result.err
    assert [line.split()[0] for line in result.out.splitlines()[1:]] == ["visual", "391"]


def test_bench_engine(cli, checkpoint, tmp_path, monkeypatch):
    measured = {"encode_patches_per_s": 10.0, "prefill_tokens_per_s": 20.0, "decode_tokens_per_s": 3.5, "load_s": 1.0}
    monkeypatch.setattr(variants, "_in_own_process", lambda variant, settings: measured)
    limits = {"memory_bytes_per_s": 1e10, "operations_per_s": 1e11}
    monkeypatch.setattr(variants, "machine_limits", lambda *args: limits)
    arguments = ("bench", "engine", "--model", checkpoint, "--work", tmp_path, "--variant", "onnx:float32")
    report = json.loads(cli(*arguments, "--variant", "torch:bfloat16", "--json").out)
    assert [row["variant"] for row in report["variants"]] == ["onnx:float32", "torch:bfloat16"]
    assert report["machine"]["cores"] >= 1 and "onnxruntime" in report["machine"]["versions"]
    text = cli(*arguments).out
    assert "3.50" in text and "memory bandwidth, GB/s" in text and "no sensor" in text


@pytest.mark.parametrize(
    ("gpu", "installed", "sensors", "note"),
    [
        (None, False, [], "no sensor that can be read on this machine"),
        (None, False, ["processor"], ""),
        (
            "H100",
            False,
            ["processor"],
            "of H100 not measured, its sensor is read with nvidia-ml-py: pip install nvidia",
        ),
        ("H100", True, [], "no sensor that can be read"),
        ("H100", True, ["gpu"], ""),
        ("Orin", False, ["board"], ""),
    ],
)
def test_energy_that_was_not_measured(monkeypatch, gpu, installed, sensors, note):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    found = cli_bench_engine._energy_note(gpu, [{"joules_by_sensor": dict.fromkeys(sensors, 1.0)}])
    assert found.startswith(note) and bool(found) == bool(note)


@pytest.mark.parametrize("arguments", [["--variant", "fast:int8"], ["--variant", "onnx:int7"]])
def test_bench_of_unknown_variants(cli, checkpoint, tmp_path, arguments):
    result = cli("bench", "engine", "--model", checkpoint, "--work", tmp_path, *arguments)
    assert result.code == 1 and result.err.count("\n") == 1


@pytest.mark.parametrize("model", ["random-2b", "checkpoint"])
def test_bench_in_a_place_that_is_no_folder(cli, checkpoint, tmp_path, model):
    (tmp_path / "file").write_text("")
    model = checkpoint if model == "checkpoint" else model
    result = cli("bench", "engine", "--model", model, "--work", tmp_path / "file")
    assert result.code == 1 and result.err.count("\n") == 1
    assert f"{tmp_path / 'file'} cannot be written" in result.err and "choose a folder" in result.err


def test_layers_go_with_random_weights(cli, checkpoint):
    result = cli("bench", "engine", "--model", checkpoint, "--layers", 2)
    assert result.code == 2 and "goes with --model random-2b" in result.err


def test_quantize_and_its_verdict(cli, checkpoint, reference, tmp_path, monkeypatch):
    monkeypatch.setattr("penguin_engine.bench.quantize_report.timed", lambda run, at_least_s: 1.0)
    out = tmp_path / "out"
    arguments = ("quantize", "--model", checkpoint, "--out", out, "--sample", reference / "media" / "portrait.png")
    arguments = (*arguments, "--question", "What is this?", "--json")
    result = cli(*arguments, "--weights", "int8", "--min-agreement", 0.5)
    report = json.loads(result.out)
    assert result.code == 0, result.err
    assert report["comparison"]["good"] is None and report["comparison"]["positions"] == 16
    assert report["runtimes"] == {
        "full": {"runtime": "torch", "device": "cpu", "dtype": "float32"},
        "variant": {"runtime": "onnx", "device": "cpu", "dtype": "int8"},
    }
    assert report["decode_tokens_per_s"].keys() == {"full", "variant"} and report["no_speed"] is None
    assert report["bytes"]["decoder"] < 0.45 * report["bytes"]["float32_decoder"]
    assert json.loads((out / "quantization.json").read_text()) == report
    assert Manifest.read(out).precision == "int8"

    worse = evaluations(tmp_path, {"object_f1": 0.9, "accuracy": 0.5, "question: where": 0.9}, {"object_f1": 0.8})
    result = cli(*arguments, "--weights", "int8", "--min-agreement", 0.5, "--scores", *worse)
    assert result.code == 1
    # The score that the variant does not have is 0; single kinds of question do not count.
    assert "is not good: object_f1 falls from 0.9000 to 0.8000, by more than 0.02; accuracy falls" in result.err
    assert "where" not in result.err


@pytest.fixture
def quantized(cli, checkpoint, reference, tmp_path, monkeypatch):
    """Quantises with few questions and no figure of speed that means anything."""
    monkeypatch.setattr("penguin_engine.bench.quantize_report.timed", lambda run, at_least_s: 1.0)
    sample = reference / "media" / "portrait.png"

    def run(*more):
        arguments = ("--sample", sample, "--question", "What?", "--min-agreement", 0)
        return cli("quantize", "--model", checkpoint, "--out", tmp_path / "out", *arguments, *more)

    return run


def test_a_variant_without_scores_is_not_judged(quantized, tmp_path):
    result = quantized()
    assert result.code == 0 and result.err == ""
    assert "compared: full precision on torch (cpu), this variant on onnx (cpu)" in result.out
    assert "decodes 16.0 tokens/s, full precision 16.0" in result.out
    assert result.out.splitlines()[-1].startswith("not judged: no scores were compared; ") and "--scenes" in result.out
    scores = evaluations(tmp_path, {"object_f1": 0.9}, {"object_f1": 0.9})
    result = quantized("--scores", *scores)
    assert result.code == 0 and result.out.splitlines()[-1].startswith("good: ")


def test_onnx_runtimes_speed_is_not_told_of_a_variant_for_tensorrt(quantized, tmp_path):
    result = quantized("--profile", "portable", "--weights", "int4")
    assert result.code == 0, result.err
    assert "tokens/s" not in result.out
    assert "this variant on onnx (cpu)\nspeeds not compared: the profile portable is for TensorRT" in result.out
    report = json.loads((tmp_path / "out" / "quantization.json").read_text())
    assert report["decode_tokens_per_s"] is None and "TensorRT" in report["no_speed"]


def test_speeds_of_two_devices_are_not_compared(quantized, monkeypatch):
    from penguin_engine.runtimes.torch import TorchRuntime

    info = property(lambda runtime: replace(runtime._info, device="cuda:0"))
    monkeypatch.setattr(TorchRuntime, "info", info)
    result = quantized()
    assert "speeds not compared: full precision ran on cuda:0, the variant on cpu" in result.out


def test_bfloat16_images_cannot_be_compared_on_a_cpu(quantized, tmp_path, monkeypatch):
    monkeypatch.setattr("penguin_engine.runtimes.onnx_session.best_device", lambda: "cpu")
    result = quantized("--vision-dtype", "bfloat16")
    assert result.code == 1 and result.err.count("\n") == 1
    assert "no bfloat16 on a CPU, where the variant would be compared; take --vision-dtype float16 or" in result.err
    assert not (tmp_path / "out").exists()


def test_a_report_that_cannot_be_written(quantized, tmp_path, monkeypatch):
    monkeypatch.setattr("penguin_engine.export.quantize.REPORT", "none/quantization.json")
    result = quantized()
    assert result.code == 1 and "quantization.json cannot be written" in result.err


def evaluations(folder, *scores, scenes=(10, 10)):
    """Files as `evaluate tabletop --json` writes them."""
    paths = [folder / "full.json", folder / "variant.json"]
    for path, found, count in zip(paths, scores, scenes, strict=True):
        values = {name: {"value": value} for name, value in found.items()}
        path.write_text(json.dumps({"seed": 0, "scenes": count, "scores": values}))
    return paths


def test_quantize_scores_both_on_the_tabletop(cli, checkpoint, reference, tmp_path, monkeypatch):
    """The small checkpoint knows nothing of it: what counts is that both are asked, and what becomes of a loss."""
    pytest.importorskip("pybullet", reason="needs the extra sim")
    from penguin_ros.evaluation.tabletop import scenes as tabletop

    only_pictures = tabletop.Mixture(image=1, pair=0, clip=0, chart=0, text=0)
    short = partial(tabletop.TabletopRun, turns=1, size=Size(56, 56), max_new_tokens=4, mixture=only_pictures)
    monkeypatch.setattr(tabletop, "TabletopRun", short)
    monkeypatch.setattr("penguin_engine.bench.quantize_report.timed", lambda run, at_least_s: 1.0)
    arguments = (
        *("quantize", "--model", checkpoint, "--out", tmp_path / "out", "--weights", "int8", "--min-agreement", 0),
        *("--sample", reference / "media" / "portrait.png", "--question", "What?"),
        *("--scenes", 2, "--seed", 3, "--json"),
    )
    report = json.loads(cli(*arguments).out)
    found, _ = tabletop.evaluate_tabletop(*open_runtime("onnx", tmp_path / "out"), short(3, 2))
    scores = report["comparison"]["scores"]
    assert scores and all(found[name].value == variant for name, (_, variant) in scores.items())
    assert not any(name.startswith("question") for name in scores)
    assert report["scored_on"] == {"scenes": 2, "seed": 3}
    assert json.loads((tmp_path / "out" / "quantization.json").read_text()) == report


def test_a_variant_that_loses_on_the_tabletop_is_not_good(cli, checkpoint, reference, tmp_path, monkeypatch):
    pytest.importorskip("pybullet", reason="needs the extra sim")
    from penguin_ros.evaluation.tabletop import scenes as tabletop

    values = iter([{"object_f1": 0.9, "box_precision": 0.8}, {"object_f1": 0.85}])

    def evaluate(runtime, processor, run, on_scene):
        return {name: tabletop.Score(name, value, None, None, 5) for name, value in next(values).items()}, []

    monkeypatch.setattr(tabletop, "evaluate_tabletop", evaluate)
    monkeypatch.setattr("penguin_engine.bench.quantize_report.timed", lambda run, at_least_s: 1.0)
    result = cli(
        *("quantize", "--model", checkpoint, "--out", tmp_path / "out", "--weights", "int8", "--min-agreement", 0),
        *("--sample", reference / "media" / "portrait.png", "--scenes", 1, "--max-score-loss", 0.06),
    )
    assert result.code == 1
    assert "object_f1: 0.900 at full precision, 0.850 here" in result.out
    assert "is not good: box_precision falls from 0.8000 to 0.0000, by more than 0.06; keep more" in result.err
    assert "take int8" not in result.err  # it is int8


@pytest.mark.parametrize(
    ("right", "code", "told"),
    [
        ([1, 0, 1, 1, 1, 1, 1, 1], 0, "not judged: accuracy falls from 1.0000 to 0.8750, by more than 0.02 (95 %"),
        ([0] * 8, 1, "is not good: accuracy falls from 1.0000 to 0.0000, by more than 0.02; keep more"),
    ],
)
def test_a_loss_in_one_scene_may_be_chance(cli, checkpoint, reference, tmp_path, monkeypatch, right, code, told):
    pytest.importorskip("pybullet", reason="needs the extra sim")
    from penguin_ros.evaluation.metrics.statistics import Ratio
    from penguin_ros.evaluation.tabletop import scenes as tabletop

    answers = iter([[1] * 8, right])

    def evaluate(runtime, processor, run, on_scene):
        parts = tuple(Ratio(value) for value in next(answers))
        return {"accuracy": tabletop.Score("", sum(p.numerator for p in parts) / 8, None, None, 8, parts)}, []

    monkeypatch.setattr(tabletop, "evaluate_tabletop", evaluate)
    monkeypatch.setattr("penguin_engine.bench.quantize_report.timed", lambda run, at_least_s: 1.0)
    result = cli(
        *("quantize", "--model", checkpoint, "--out", tmp_path / "out", "--weights", "int8", "--min-agreement", 0),
        *("--sample", reference / "media" / "portrait.png", "--scenes", 8),
    )
    assert result.code == code and told in " ".join((result.out + result.err).split())


def test_quantize_with_scores_that_are_none(cli, checkpoint, tmp_path):
    (tmp_path / "a.json").write_text("[]")
    result = cli("quantize", "--model", checkpoint, "--out", tmp_path / "o", "--scores", *[tmp_path / "a.json"] * 2)
    assert result.code == 1 and "a.json is not what `penguin-vl evaluate tabletop --json` writes" in result.err


def test_quantize_with_scores_of_other_scenes(cli, checkpoint, tmp_path):
    paths = evaluations(tmp_path, {"object_f1": 0.9}, {"object_f1": 0.9}, scenes=(10, 20))
    result = cli("quantize", "--model", checkpoint, "--out", tmp_path / "o", "--scores", *paths)
    assert result.code == 1 and "are about other scenes (scenes and seed (10, 0) and (20, 0))" in result.err
    result = cli("quantize", "--model", checkpoint, "--out", tmp_path / "o", "--scores", *paths, "--scenes", 5)
    assert result.code == 2 and "goes without --scores" in result.err


def test_doctor_knows_the_onnx_runtime(cli):
    assert "runtime onnx      yes: on the CPU; needs an exported folder" in cli("doctor").out


def test_build_without_tensorrt(cli, exported):
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("tensorrt is installed here")
    result = cli("build", exported(profile="portable", dtype="float16"), "--precision", "fp16")
    assert result.code == 1
    assert result.err.startswith("error: building plans needs tensorrt") and "docs/jetson.md" in result.err
    assert result.err.count("\n") == 1


def test_the_tensorrt_runtime_without_tensorrt(cli, exported):
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("tensorrt is installed here")
    result = cli("ask", "--model", exported(profile="portable"), "--runtime", "tensorrt", "-q", "what?")
    assert result.code == 1
    assert "error: the tensorrt runtime needs tensorrt" in result.err


def test_ctrl_c_stops_a_build_and_waits_for_its_end():
    """The interrupt reaches the main thread, which tells the build and goes on waiting for what it says."""

    class Building:
        def __init__(self):
            self.answers = iter([TimeoutError(), KeyboardInterrupt(), TimeoutError(), EngineError("was cancelled")])

        def result(self, timeout):
            raise next(self.answers)

    cancelled = threading.Event()
    with pytest.raises(EngineError, match="was cancelled"):
        build._wait(Building(), cancelled)
    assert cancelled.is_set()
