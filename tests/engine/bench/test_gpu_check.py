"""The prepared GPU day: a dry run without a GPU, steps that fail in every way, parts, and comparisons on the CPU."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from penguin_engine.bench.gpu_check import pack, step, torch_steps, wheels
from penguin_engine.bench.gpu_check.plan_steps import compare_runtimes
from penguin_engine.bench.gpu_check.step import Finding, Skipped, Step, run_step
from penguin_engine.runtimes.tensorrt import flavour
from penguin_engine.runtimes.torch import TorchRuntime
from penguin_models.types import Size

ROOT = Path(__file__).resolve().parents[3]
NO_GPU = "no CUDA GPU"


def gpu_check(*arguments, python=(sys.executable,), folder):
    """Runs the script with a given Python and returns its exit code, its lines, the results and the table."""
    (folder / "bin").mkdir()
    (folder / "bin" / "python3").write_text(f'#!/bin/sh\nexec {" ".join(python)} "$@"\n')
    (folder / "bin" / "python3").chmod(0o755)
    environment = os.environ | {
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(folder),
    }
    command = (ROOT / "scripts" / "gpu_check.sh", "run", *arguments, "--out", folder / "out")
    done = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    results = json.loads((folder / "out" / "gpu_check.json").read_text())
    return done.returncode, done.stdout.splitlines(), results, (folder / "out" / "gpu_check.md").read_text()


@pytest.mark.skipif(torch_steps.torch.cuda.is_available(), reason="this machine has a GPU: run scripts/gpu_check.sh")
def test_a_dry_run_says_what_it_skips_and_does_the_rest(tmp_path):
    code, lines, results, table = gpu_check(folder=tmp_path)
    status = {found["name"]: found["status"] for found in results["steps"]}
    notes = {found["name"]: found["note"] for found in results["steps"]}
    built = "passed" if flavour.RTX in flavour.installed() else "skipped"
    assert (code, results["passed"]) == (0, True)
    assert status == {
        "installation": "skipped",
        "imports for torch": "passed",
        "machine": "passed",
        "parity in float32": "passed",
        "parity in 16 bits": "skipped",
        "CUDA graphs, 2B shapes": "skipped",
        "packed attention, 2B shapes": "skipped",
        "rates, 2B shapes": "skipped",
        "imports for TensorRT": "passed",
        "TensorRT plans of penguin-tiny, built": built,
        "pycuda, compiled": "skipped",
        "TensorRT plans of penguin-tiny, run": "skipped",
        "TensorRT plans of the 2B shapes": "skipped",
    }
    assert [name for name, note in notes.items() if note == NO_GPU] == [
        name
        for name in status
        if status[name] == "skipped" and name not in ("installation", "TensorRT plans of penguin-tiny, built")
    ]
    assert "10 of 10 cases agree" in notes["parity in float32"]
    assert results["machine"]["gpu"] is None and results["machine"]["versions"]["torch"]
    assert len(lines) == len(status)
    for text, found in zip(lines, results["steps"], strict=True):
        assert text.startswith(found["name"]) and text.endswith(found["note"]) and found["status"] in text
        assert f"| {found['name']} | {found['status']} | {found['note']} | {found['seconds']:.0f} s |" in table
    assert not list(tmp_path.glob("gpu-check-*")), "temporary files are left"


def test_a_python_without_any_package_reports_each_failure(tmp_path):
    code, lines, results, _ = gpu_check(tmp_path, python=(sys.executable, "-S"), folder=tmp_path)
    assert (code, results["passed"], len(lines)) == (1, False, 3)
    assert {found["status"] for found in results["steps"]} == {"failed"}
    assert "contains no complete wheel" in lines[0] and "No module named" in lines[1]


@pytest.fixture
def forked(monkeypatch):
    """Steps run in forked processes, also on a machine with a GPU."""
    monkeypatch.setattr(step, "has_driver", lambda: False)


def passes(work):
    sys.stdout.write("text of a library")
    (work / "left").write_text("")
    return Finding("all is well", {"value": 1})


def differs(work):
    return Finding("numbers differ", passed=False)


def raises(work):
    raise RuntimeError("CUDA error:\n  out of order")


def skips(work):
    raise Skipped("no kernels")


def dies(work):
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(work):
    with (work / "pipe").open("w") as pipe:
        subprocess.run(["sleep", "1000"], stdout=pipe, check=True)


@pytest.mark.parametrize(
    ("run", "status", "note"),
    [
        (passes, "passed", "all is well"),
        (differs, "failed", "numbers differ"),
        (raises, "failed", "RuntimeError: CUDA error: out of order"),
        (skips, "skipped", "no kernels"),
        (dies, "failed", "the process ended with exit code -11, see log"),
        (hangs, "timed out", "stopped after 0.3 s"),
    ],
)
def test_every_end_of_a_step_is_an_outcome(forked, tmp_path, run, status, note):
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    outcome = run_step(Step("step", 0.3 if run is hangs else 30, run), tmp_path, tmp_path / "log", left_s=100)
    assert (outcome.status, outcome.note) == (status, note)
    assert outcome.figures == ({"value": 1} if run is passes else {})
    log = (tmp_path / "log").read_text()
    assert ("text of a library" in log) == (run is passes) and ("Traceback" in log) == (run is raises)
    assert ("Segmentation fault" in log) == (run is dies)
    os.set_blocking(pipe, True)
    assert os.read(pipe, 1) == b""  # returns when every process that has the other end is gone
    os.close(pipe)


def test_a_step_that_needs_more_time_than_is_left_is_skipped(tmp_path):
    outcome = run_step(Step("step", 480, passes, needs_s=150), tmp_path, tmp_path / "log", left_s=40.4)
    assert (outcome.status, outcome.note) == ("skipped", "needs about 150 s, 40 s are left")


def test_a_killed_script_leaves_results_and_no_process(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    code = f"""
from pathlib import Path
from penguin_engine.bench.gpu_check import __main__ as check, step
from penguin_engine.bench.gpu_check.step import Finding, Step
step.has_driver = lambda: False
def waits(work):
    import time
    with Path({str(tmp_path / "pipe")!r}).open("w"):
        time.sleep(1000)
check._torch_steps = lambda: (Step("first", 9, lambda work: Finding("done")), Step("second", 999, waits))
check._plan_steps = lambda: ()
check.run(None, Path({str(tmp_path)!r}))
"""
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'models'}:{ROOT / 'engine'}", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", code]
    script = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)
    with script, (tmp_path / "pipe").open() as pipe:  # opening waits for the second step
        script.kill()
        assert pipe.read() == ""  # returns when the step's process is gone
    steps = json.loads((tmp_path / "gpu_check.json").read_text())["steps"]
    assert [(found["name"], found["status"]) for found in steps][-1] == ("first", "passed")


def test_parts_have_a_limited_size_and_give_the_same_files(tmp_path):
    sizes = {"a.whl": 250, "b.whl": 30, "c.whl": 100, "d.whl": 20}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(os.urandom(size))
    groups = [[tmp_path / "a.whl", tmp_path / "b.whl"], [tmp_path / "c.whl", tmp_path / "d.whl"]]
    folder, target = tmp_path / "parts", tmp_path / "joined"
    target.mkdir()
    assert wheels.write_parts(groups, folder, part_bytes=100) == [3, 2]
    pieces = {part: [file for file in part.iterdir() if file.name != wheels.CHECKSUMS] for part in folder.iterdir()}
    assert max(sum(file.stat().st_size for file in files) for files in pieces.values()) <= 100
    joined, missing = wheels.join_parts(folder, target)
    assert {file.name: file.read_bytes() for file in joined} == {name: (tmp_path / name).read_bytes() for name in sizes}
    assert missing == []
    (folder / "part-01" / "a.whl.00").write_bytes(b"damaged")
    (folder / "part-05" / "d.whl.00").unlink(missing_ok=True)
    joined, missing = wheels.join_parts(folder, target)
    assert ([file.name for file in joined], missing) == (["b.whl", "c.whl"], ["a.whl", "d.whl"])


def test_packed_wheels_are_what_the_steps_need_without_torch():
    torch = pack.required(["torch"], "3.12")
    needed = pack.required(["transformers", "numpy"], "3.12") - torch
    assert {"tokenizers", "huggingface-hub", "pyyaml"} <= needed
    assert {"torch", "sympy", "filelock"} <= torch and not needed & torch
    old, new = (pack.pinned(ROOT / "constraints.txt", python) for python in ("3.10", "3.12"))
    assert old["numpy"] != new["numpy"] and new["pycuda"]


def test_recorded_steps_are_compared_with_eager_ones(model):
    def unrecorded(work):
        return work

    def wrong(work):
        return lambda: work() * 1.2

    compare = partial(torch_steps.compare_decoding, model, new_tokens=8, at_least_s=0)
    same, different = compare(unrecorded), compare(wrong)
    assert same.passed and same.figures["same_tokens"] == 9
    assert not different.passed and different.figures["relative_errors"]["eager"] == pytest.approx(0.2, rel=0.01)
    assert set(same.figures["tokens_per_s"]) == {"eager", "fixed shapes", "graphs"}


def test_attention_rates_and_runtimes_are_measured_on_any_device(model, monkeypatch):
    attention = torch_steps.compare_attention(model, [Size(4, 6), Size(4, 6), Size(8, 4)], at_least_s=0)
    assert attention.passed and attention.figures["relative_error"] == 0
    monkeypatch.setattr(
        torch_steps, "machine_limits", lambda device, dtype: {"memory_bytes_per_s": 1e9, "operations_per_s": 1e9}
    )
    monkeypatch.setattr("penguin_engine.bench.rates.timed", lambda run: run() or 1.0)
    rates = torch_steps.measure_rates(model, 16, 2, 1)
    assert rates.figures["rates"]["decode_tokens_per_s"] == 2 and set(rates.figures["shares"]) == {
        "encode",
        "prefill",
        "decode",
    }
    runtime = TorchRuntime(model)
    images = torch_steps.random_images(model, [Size(4, 6)])
    compared = compare_runtimes(runtime, runtime, images, limit=0, new_tokens=4, at_least_s=0)
    assert compared.passed and "5 of 5 tokens are equal" in compared.note
