"""`penguin-vl evaluate`: the shipped example end to end, and one clear line for each error."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from penguin_ros.cli import evaluate
from penguin_ros.evaluation.question_file import read_questions
from penguin_ros.shipped import EXAMPLE, MODEL

BAGS = [EXAMPLE / "tabletop-0", EXAMPLE / "tabletop-1"]


@pytest.fixture
def cli(cli):
    return partial(cli, "evaluate")


@pytest.fixture
def bags_of(cli, checkpoint, tmp_path):
    """Evaluates bags with the small checkpoint; later options replace these."""

    def run(bags, questions, *args):
        options = ("--model", checkpoint, "--out", tmp_path / "out", "--param", "answer.max_new_tokens=2")
        return cli("bags", *bags, "--questions", questions, *options, *args)

    return run


def short(tmp_path, *numbers):
    """Writes a file with some questions of the example."""
    lines = (EXAMPLE / "questions.jsonl").read_text().splitlines()
    file = tmp_path / "short.jsonl"
    file.write_text("".join(lines[number] + "\n" for number in numbers))
    return file


def changed(tmp_path, **fields):
    """Writes a file with the first question of the example, changed."""
    file = tmp_path / "changed.jsonl"
    first = json.loads((EXAMPLE / "questions.jsonl").read_text().splitlines()[0])
    file.write_text(json.dumps(first | fields) + "\n")
    return file


def test_the_example_bags_end_to_end(bags_of, cli, tmp_path):
    questions = read_questions(EXAMPLE / "questions.jsonl")
    done = bags_of(BAGS, EXAMPLE / "questions.jsonl", "--json", "--title", "the example").json
    assert done["failed"] == {}
    summary = done["summary"]["methods"]["memory"]
    assert (summary["questions"], summary["errors"]) == (len(questions), 0)
    assert {"accuracy", "time_miou", "number_accuracy", "choice_accuracy"} < set(summary["metrics"])
    assert set(summary["groups"]["perception"]) == {"recent", "recall", "not stated"}
    assert summary["keyframes_per_min"] > 0 and summary["latency_s"]["first_token"]["p99"] > 0
    page = Path(done["report"]).read_text()
    assert page.count("<article") == len(questions) and "the example" in page
    again = bags_of(BAGS, EXAMPLE / "questions.jsonl", "--json", "--title", "again").json
    assert again["summary"] == done["summary"]  # nothing was asked again: even the latencies are equal
    result = cli("report", tmp_path / "out")
    assert result.code == 0 and re.search(r"right answers +0\.\d{3} \(", result.out) and "report.html" in result.out


def test_the_shipped_model_gets_its_own_token_budget(bags_of, tmp_path):
    done = bags_of(BAGS[:1], short(tmp_path, 0), "--model", MODEL, "--json").json
    assert json.loads(Path(done["results"]).read_text())["settings"]["parameters"]["token_budget"] == 1024


def test_the_example_command_of_make_evaluate(cli, checkpoint, tmp_path, monkeypatch):
    """Runs twice, with one bag and two questions: nothing of the first run is reused."""
    example, out = tmp_path / "example", tmp_path / "out"
    shutil.copytree(BAGS[0], example / BAGS[0].name)
    shutil.copy(short(tmp_path, 0, 1), example / "questions.jsonl")
    monkeypatch.setattr(evaluate, "EXAMPLE", example)
    monkeypatch.setitem(evaluate.EXAMPLE_PARAMETERS, "answer.max_new_tokens", 2)
    monkeypatch.chdir(checkpoint.parent)
    result = cli("example", "--model", checkpoint, "--out", out)
    assert result.code == 0, result.err
    assert f"page: {out / 'report.html'}" in result.out.splitlines() and (out / "report.html").is_file()
    results = json.loads((out / "results.json").read_text())
    created = results["records"]
    assert results["model"]["spec"]["path"] == checkpoint.name  # without the location of the clone
    table = cli("report", out, "--markdown").out.splitlines()
    assert table[:2] == ["| score | memory | last-4 | offline |", "| --- | --- | --- | --- |"]
    assert re.fullmatch(r"\| right answers \|( \d\.\d{3} \(\d\.\d{3} to \d\.\d{3}\) n=2 \|){3}", table[2])
    assert re.fullmatch(r"\| whole answer, median \|( \d+\.\d{3} s \|){3}", table[-1])
    again = cli("example", "--model", checkpoint, "--out", out, "--json").json
    assert set(again["summary"]["methods"]) == {"memory", "last-4", "offline"} and again["failed"] == {}
    renewed = json.loads((out / "results.json").read_text())["records"]
    assert [record["raw"] for record in renewed] == [record["raw"] for record in created]
    assert [record["seconds"] for record in renewed] != [record["seconds"] for record in created]
    makefile = Path(__file__).resolve().parents[2] / "Makefile"
    assert "\n\t@$(bin)/penguin-vl evaluate example\n" in makefile.read_text()


def test_missing_shipped_files_are_an_error(cli, monkeypatch, tmp_path):
    result = cli("example", "--model", tmp_path / "none", "--out", tmp_path / "out")
    assert re.search(r"checkpoint .*none does not exist; give another one with --model", result.error)
    monkeypatch.setattr(evaluate, "EXAMPLE", tmp_path / "nowhere")
    result = cli("example", "--out", tmp_path / "out")
    assert "use a clone or a colcon workspace" in result.error


def test_baselines_and_realtime_in_one_run(bags_of, tmp_path):
    options = ("--baseline", "last-4", "--baseline", "offline", "--realtime")
    result = bags_of(BAGS[:1], short(tmp_path, 0, 1), *options)
    assert result.code == 0, result.err
    for method in ("realtime", "last-4", "offline"):
        assert re.search(rf"^{method} against memory: right answers \d.\d{{3}} -> ", result.out, re.MULTILINE)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [record["method"] for record in results["records"]] == ["memory", "realtime", "last-4", "offline"] * 2


def test_report_compares_two_runs(bags_of, cli, tmp_path):
    questions = short(tmp_path, 0, 1)
    for name, budget in (("large", 2000), ("small", 100)):
        options = ("--param", f"token_budget={budget}", "--out", tmp_path / name, "--title", name)
        assert bags_of(BAGS[:1], questions, *options).code == 0
    result = cli("report", tmp_path / "small", "--against", tmp_path / "large", "--json").json
    assert result["comparison"]["questions"] == 2 and result["titles"] == ["large", "small"]
    assert result["report"] == str(tmp_path / "small" / "comparison.html")
    assert "small against large" in Path(result["report"]).read_text()
    result = cli("report", tmp_path / "small", "--against", tmp_path / "large")
    assert result.out.startswith("small against large: right answers")
    result = cli("report", tmp_path / "small", "--against", tmp_path / "small").out
    assert result.startswith("second run against first run: right answers")
    assert "right only in first run: 0" in result and "right only in second run: 0" in result


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"time_s": 99.0}, r"tabletop-0/1-\w+ is asked at 99.00 s, but bag tabletop-0 has images of .* 15.50 s"),
        ({"camera": "/rear"}, "bag .*tabletop-0 has no topic /rear; its image topics: /camera/image_raw/compressed"),
        ({"bag": "attic"}, "is about bag attic; the bags are tabletop-0"),
        (
            {"expected": [{"type": "text", "accept": ["a"], "metric": "bleu"}]},
            "line 1: .*metric: Input should be 'exact'",
        ),
        ({"expected": [{"type": "objects", "topic": "/boxes"}]}, "no topic /boxes; topics with boxes: /ground_truth"),
        ({"extra": 1}, "line 1: extra: Extra inputs are not permitted"),
    ],
)
def test_a_question_that_does_not_fit_its_bag_is_an_error(bags_of, tmp_path, fields, message):
    result = bags_of(BAGS[:1], changed(tmp_path, **fields), "--json")
    assert re.search(message, result.error)


def test_a_file_without_questions_is_an_error(bags_of, tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text("\n\n{\n")
    assert re.search(r"q.jsonl: line 3: Invalid JSON", bags_of(BAGS[:1], file).error)
    assert "cannot be read: No such file" in bags_of(BAGS[:1], tmp_path / "none.jsonl").error


def test_an_unreadable_bag_fails_the_command_and_keeps_the_others(bags_of, tmp_path):
    broken = tmp_path / "tabletop-0.mcap"
    broken.write_bytes((BAGS[0] / "tabletop-0.mcap").read_bytes()[:5000])
    lines = [json.loads(line) for line in (EXAMPLE / "questions.jsonl").read_text().splitlines()]
    numbers = [next(i for i, line in enumerate(lines) if line["bag"] == bag.name) for bag in BAGS]
    questions = short(tmp_path, *numbers)
    with questions.open("ab") as file:  # neither do a bad line, nor a question about another time
        file.write(b"\xff[" * 5000 + b"\n" + json.dumps(lines[numbers[1]] | {"id": "late", "time_s": 99}).encode())
    result = bags_of([broken, BAGS[1]], questions)
    assert result.code == 1 and "2 of 3 questions were not asked" in result.out
    assert f"error: {questions}: line 3: Invalid JSON" in result.err
    assert "error: question late is asked at 99.00 s, but bag tabletop-1 has images of" in result.err
    assert re.search(r"error: bag tabletop-0 could not be evaluated: bag .*tabletop-0.mcap cannot be read", result.err)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [record["bag"] for record in results["records"]] == ["tabletop-1"]
    empty = tmp_path / "empty.mcap"
    empty.touch()
    error = bags_of([empty], changed(tmp_path, bag="empty"), "--out", tmp_path / "other").error
    assert re.search(r"no question was answered; empty: bag .*empty.mcap is empty \(0 bytes\)", error)


def test_invalid_input_leaves_earlier_results_unchanged(bags_of, tmp_path):
    """Even with --overwrite, they are deleted only when the new run starts to answer."""
    assert bags_of(BAGS[:1], short(tmp_path, 0)).code == 0

    def files():
        return {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}

    before = files()
    assert {"results.json", "report.html", "tabletop-0.jsonl"} < {file.name for file in before}
    broken = tmp_path / "tabletop-0.mcap"
    broken.write_bytes((BAGS[0] / "tabletop-0.mcap").read_bytes()[:5000])
    unknown = [{"type": "text", "accept": ["a"], "metric": "bleu"}]
    for bag, fields in (
        (BAGS[0], {"time_s": 99.0}),
        (BAGS[0], {"camera": "/rear"}),
        (BAGS[0], {"expected": unknown}),
        (BAGS[0], {"expected": []}),
        (broken, {}),
    ):
        assert bags_of([bag], changed(tmp_path, **fields), "--overwrite").code == 1
        assert files() == before


def test_other_settings_need_another_folder(bags_of, tmp_path):
    questions = short(tmp_path, 0)
    assert bags_of(BAGS[:1], questions).code == 0
    error = bags_of(BAGS[:1], questions, "--param", "token_budget=100").error
    assert "holds answers of another model or" in error and "--overwrite" in error
    assert bags_of(BAGS[:1], questions, "--param", "token_budget=100", "--overwrite").code == 0


def test_markdown_excludes_json(cli, tmp_path):
    result = cli("report", tmp_path, "--markdown", "--json")
    assert result.code == 2 and "prints the scores of one run" in " ".join(result.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--baseline", "first-4"], "'first-4' is not one of"), (["--jobs", "0"], "Invalid value for '--jobs'")],
)
def test_invalid_options_are_usage_errors(bags_of, options, message):
    result = bags_of(BAGS, EXAMPLE / "questions.jsonl", *options)
    assert result.code == 2 and message in result.out + result.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--param", "sample_rate_hz=-1"], "sample_rate_hz is -1.0, it must be from 0.0 to 1000.0"),
        (["--param", "token_budget=3"], "token_budget is 3 for 1 camera: a token budget of 3 cannot hold"),
        (["--param", "keyframe.threshold"], "'keyframe.threshold' is not NAME=VALUE"),
        (["--param", "keyframe.threshold=many"], "keyframe.threshold is 'many', it must be a number"),
        (["--param", "keyframe.policy=best"], "keyframe.policy is 'best', it must be one of novelty, reference"),
        (
            ["--param", "queue_size=3"],
            "queue_size does not change answers; parameters that change answers: token_budget",
        ),
        (["--params-file", "/none.yaml"], "parameter file /none.yaml cannot be read"),
    ],
)
def test_an_invalid_parameter_is_an_error(bags_of, options, message):
    assert message in bags_of(BAGS, EXAMPLE / "questions.jsonl", *options).error


def test_parameters_override_a_robots_parameter_file(bags_of, tmp_path):
    file = tmp_path / "robot.yaml"
    file.write_text("penguin:\n  ros__parameters: {token_budget: 300, keyframe: {policy: reference}, queue_size: 2}\n")
    options = ("--params-file", file, "--param", "keyframe.policy=novelty", "--json")
    assert bags_of(BAGS[:1], short(tmp_path, 0), *options).code == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    parameters = {"token_budget": 300, "keyframe.policy": "novelty", "answer.max_new_tokens": 2}
    assert results["settings"]["parameters"] == parameters
    assert results["timelines"][0]["token_budget"] == 300


def test_export_writes_bags_with_questions(cli, tmp_path):
    pytest.importorskip("pybullet")
    options = ("--clips", 1, "--seconds", 6, "--fps", 1, "--size", 64)
    done = cli("export", tmp_path / "made", *options, "--json").json
    assert done["bags"] == [str(tmp_path / "made" / "tabletop-0")]
    assert read_questions(Path(done["questions"]))
    assert "cannot be written" in cli("export", tmp_path / "made", *options, "--json").error


def test_record_serves_its_page_until_interrupted(tmp_path):
    import http.client

    file = tmp_path / "questions.jsonl"
    command = [sys.executable, "-m", "penguin_ros.cli.main", "evaluate", "record", BAGS[0], "--questions", file]
    process = subprocess.Popen(
        [*map(str, command), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # background jobs of a shell ignore SIGINT
    )
    try:
        line = process.stdout.readline()
        host = re.search(r"open http://([\d.]+:\d+)/ in a browser", line)[1]
        connection = http.client.HTTPConnection(host, timeout=30)
        expected = [{"type": "number", "value": 3}]
        question = {
            "time_s": 2.0,
            "camera": "/camera/image_raw/compressed",
            "question": "How many?",
            "expected": expected,
        }
        connection.request("POST", "/question", json.dumps(question), {"Content-Type": "application/json"})
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and f"1 questions in {file}" in rest
    assert [asked.id for asked in read_questions(file)] == ["tabletop-0-1"]
