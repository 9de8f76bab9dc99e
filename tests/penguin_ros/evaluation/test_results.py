"""Scores of records, summaries of runs, comparisons of runs, and the results file."""

import json

import pytest

from penguin_models.errors import EvaluationError
from penguin_ros.evaluation.question_file import ExpectedNumber, ExpectedObjects, ExpectedText, ExpectedTime, Question
from penguin_ros.evaluation.records import AnswerRecord, FrameRecord, ModelSpec, ObjectRecord, RunSettings, Timeline
from penguin_ros.evaluation.results import (
    ModelInfo,
    Results,
    checkpoint_hash,
    evidence_age_s,
    load_results,
    save_results,
    score_record,
)
from penguin_ros.evaluation.summary import age_group, compare_records, perception, summarise

FRAME = FrameRecord(camera="/camera", stamp_ns=5, time_s=1.0, width=640, height=480, file="x.jpg")


def question(name="q", expected=None, **fields):
    fields = {"time_s": 10.0, "question": "Which?"} | fields
    return Question(id=name, expected=expected or [ExpectedText(accept=["red"])], **fields)


def answer(name="q", text="red", method="memory", **fields):
    fields = {"question": name, "method": method, "key": "k", "time_s": 10.0, "text": text, "frame": FRAME} | fields
    return AnswerRecord(**fields)


def results(texts, method="memory", title="run", **fields):
    """Returns a run over questions q0, q1, ... with these answers; "red" is right."""
    questions = [question(f"q{i}") for i in range(len(texts))]
    records = [
        score_record("bag", asked, answer(asked.id, text, method)) for asked, text in zip(questions, texts, strict=True)
    ]
    made = Results(
        created="2030-01-01T00:00:00",
        package="0",
        title=title,
        model=ModelInfo(spec=ModelSpec(path="m"), hash="h", runtime="scripted", dtype="float32"),
        settings=RunSettings(),
        machine={"cpu": "c"},
        bags=[],
        **{"questions": questions, "records": records} | fields,
    )
    return made.model_copy(update={"summary": summarise(made)})


# Scoring.


def test_a_right_answer_is_scored():
    scored = score_record("bag", question(), answer())
    assert scored.correct and scored.scores["normalised"] == (1.0, 1.0) and scored.bag == "bag"


def test_an_error_counts_as_wrong():
    expected = [ExpectedObjects(objects=[{"label": "mug", "box": (0, 0, 5, 5)}])]
    scored = score_record("bag", question(expected=expected), answer(text="", error="no", frame=None))
    assert not scored.correct and scored.scores["accuracy"] == (0, 1)
    assert scored.scores["box_recall"] == (0, 1) and scored.scores["box_precision"] == (0, 0)


def test_an_error_is_wrong_even_if_an_empty_answer_would_be_right():
    scored = score_record("bag", question(expected=[ExpectedObjects(objects=[])]), answer(text="", error="no"))
    assert not scored.correct


def test_an_error_after_the_answer_voids_the_answer():
    """A topic of the bag may turn out to have no boxes after the answer was made."""
    asked = question(expected=[ExpectedText(accept=["red"])])
    scored = score_record("bag", asked, answer(text="red", error="no"))
    assert not scored.correct and scored.scores["normalised"] == (0, 1)


def test_expected_boxes_of_a_topic_come_from_the_record():
    truth = {"/truth": [{"label": "mug", "box": (64, 48, 320, 240)}]}
    objects = [ObjectRecord(label="mug", box=(100, 100, 500, 500))]
    expected = [ExpectedObjects(topic="/truth")]
    scored = score_record("bag", question(expected=expected), answer(truth=truth, objects=objects))
    assert scored.correct
    unknown = score_record("bag", question(expected=expected), answer(objects=objects))
    assert not unknown.correct and set(unknown.scores) == {"accuracy"}


@pytest.mark.parametrize(
    ("fields", "age"),
    [
        ({"evidence_s": (2.0, 4.0)}, 6),
        ({"evidence_s": (2.0, 40.0)}, 0),
        ({"expected": [ExpectedTime(accept=[(1, 3)])]}, 9),
        ({"expected": [ExpectedTime(accept=[(4, 9), (3, 9)])]}, 7),
        ({"expected": [ExpectedObjects(objects=[])]}, 0),
        ({"expected": [ExpectedObjects(objects=[]), ExpectedTime(accept=[(1, 3)])]}, 9),
        ({}, None),
    ],
)
def test_age_of_the_evidence(fields, age):
    assert evidence_age_s(question(**fields), 10.0) == age


@pytest.mark.parametrize(
    ("age", "kind", "group"),
    [
        (None, "not stated", "not stated"),
        (0.0, "recent", "0 to 2 s"),
        (2.0, "recent", "0 to 2 s"),
        (2.1, "recall", "2 to 10 s"),
        (60.0, "recall", "30 to 60 s"),
        (61.0, "recall", "over 60 s"),
    ],
)
def test_answers_are_grouped_by_age(age, kind, group):
    assert (perception(age, 2.0), age_group(age)) == (kind, group)


# The summary.


def test_the_summary_of_a_method():
    summary = results(["red", "blue", "Red.", "red"]).summary["methods"]["memory"]
    assert (summary["questions"], summary["errors"]) == (4, 0)
    assert summary["metrics"]["accuracy"]["value"] == 0.75
    assert summary["metrics"]["exact"]["value"] == 0.5
    assert 0 <= summary["metrics"]["accuracy"]["low"] < 0.75 < summary["metrics"]["accuracy"]["high"] <= 1
    assert summary["groups"]["kind"]["text"]["questions"] == 4
    assert list(summary["groups"]["camera"]) == ["/camera"]
    assert list(summary["groups"]["bag"]) == ["bag"]
    assert summary["joules_per_answer"] is None and summary["keyframes_per_min"] is None


def test_groups_count_their_own_questions():
    questions = [
        question("new", evidence_s=(9, 9.5)),
        question("old", evidence_s=(0, 1)),
        question("old too", evidence_s=(0, 2), expected=[ExpectedNumber(value=3)], kind="count"),
    ]
    texts = ["red", "red", "4"]
    records = [score_record("bag", q, answer(q.id, text)) for q, text in zip(questions, texts, strict=True)]
    groups = results([], questions=questions, records=records).summary["methods"]["memory"]["groups"]
    assert groups["perception"]["recent"]["metrics"]["accuracy"]["value"] == 1
    assert groups["perception"]["recall"]["metrics"]["accuracy"]["value"] == 0.5
    assert groups["kind"]["count"]["metrics"]["count_error"]["value"] == 1
    assert groups["age"]["2 to 10 s"]["questions"] == 2


def test_a_metric_counts_only_the_questions_it_applies_to():
    """An answer without a number has no numerical error."""
    questions = [question(f"q{i}", expected=[ExpectedNumber(value=3)]) for i in range(3)]
    texts = ["4", "Perhaps.", "3"]
    records = [score_record("bag", q, answer(q.id, text)) for q, text in zip(questions, texts, strict=True)]
    found = results([], questions=questions, records=records).summary["methods"]["memory"]["metrics"]
    assert (found["number_accuracy"]["questions"], found["count_error"]["questions"]) == (3, 2)
    assert found["count_error"]["value"] == 0.5
    assert (found["no_number"]["low"], found["no_number"]["high"]) == (0, 1)


def test_only_shares_have_wilson_intervals():
    """Four right answers of four do not prove a share of 1; a mean error is not a share."""
    questions = [question(f"q{i}", expected=[ExpectedNumber(value=3)]) for i in range(4)]
    records = [score_record("bag", q, answer(q.id, "3")) for q in questions]
    found = results([], questions=questions, records=records).summary["methods"]["memory"]["metrics"]
    assert (found["number_accuracy"]["low"], found["number_accuracy"]["high"]) == (pytest.approx(0.510, abs=1e-3), 1)
    assert (found["count_error"]["low"], found["count_error"]["high"]) == (0, 0)


def test_the_summary_has_costs():
    seconds = [{"encode": 0.0, "prefill": 0.1 * i, "decode": 1.0} for i in range(1, 4)]
    questions = [question(f"q{i}") for i in range(3)]
    records = [
        score_record("bag", q, answer(q.id, seconds=s, visual_tokens=100, joules=2.0))
        for q, s in zip(questions, seconds, strict=True)
    ]
    line = Timeline(
        bag="bag",
        camera="/camera",
        method="memory",
        token_budget=9,
        time_s=[0.0, 30.0],
        kind=[0, 0],
        seconds=[0.1, 0.3],
    )
    made = results([], questions=questions, records=records, timelines=[line]).summary["methods"]["memory"]
    assert made["latency_s"]["first_token"]["p50"] == pytest.approx(0.2)
    assert made["latency_s"]["total"]["p50"] == pytest.approx(1.2)
    assert made["latency_s"]["frame"]["p50"] == pytest.approx(0.2)
    assert made["tokens"]["visual"] == 100 and made["joules_per_answer"] == 2
    assert made["keyframes_per_min"] == 4 and made["frames_taken"] == 2


# Comparison.


def test_two_runs_are_compared():
    a, b = results(["red", "blue", "blue", "red"], title="A"), results(["red", "red", "blue", "blue"], title="B")
    found = compare_records(a, "memory", b, "memory")
    assert (found["questions"], found["better"], found["worse"]) == (4, ["q1"], ["q3"])
    assert found["metrics"]["accuracy"]["a"] == found["metrics"]["accuracy"]["b"] == 0.5
    assert found["chance"] == 1


def test_only_shared_questions_are_compared():
    a, b = results(["red"] * 3), results(["blue"] * 5)
    found = compare_records(a, "memory", b, "memory")
    assert (found["questions"], found["only_a"], found["only_b"]) == (3, 0, 2)
    assert found["worse"] == ["q0", "q1", "q2"] and found["chance"] == 0.25


def test_methods_of_one_run_are_compared_with_the_first():
    questions = [question(f"q{i}") for i in range(3)]
    records = []
    for q in questions:
        records.append(score_record("bag", q, answer(q.id, "red", "memory")))
        records.append(score_record("bag", q, answer(q.id, "blue", "last-4")))
    (found,) = results([], questions=questions, records=records).summary["comparisons"]
    assert (found["a"], found["b"], len(found["worse"])) == ("memory", "last-4", 3)


def test_different_questions_are_not_compared():
    a = results(["red"])
    changed = results(["red"], questions=[question("q0", question="Who?")])
    with pytest.raises(
        EvaluationError, match=r"question q0 differs between run \('Which\?'\) and run \('Who\?'\) in its text"
    ):
        compare_records(a, "memory", changed, "memory")
    elsewhere = [item.model_copy(update={"bag": "hall"}) for item in a.records]
    message = "question q0 was asked about bag bag in run and about bag hall in later; compare runs on the same bags"
    with pytest.raises(EvaluationError, match=message):
        compare_records(a, "memory", results(["red"], records=elsewhere, title="later"), "memory")
    with pytest.raises(EvaluationError, match="have no question in common"):
        compare_records(a, "memory", a, "offline")


# The file.


def test_results_are_read_back(tmp_path):
    made = results(["red", "blue"])
    file = save_results(tmp_path / "out", made)
    assert load_results(file) == load_results(tmp_path / "out") == made
    values = json.loads(file.read_text())
    assert (values["format"], values["version"]) == ("penguin-vl/evaluation", 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "not a results file of version 3: version: .*; run the evaluation again"),
        ({"version": None}, "version: "),
        ({"format": "other"}, "format: "),
        ({"records": [{}]}, "records.0.question: Field required"),
    ],
)
def test_results_of_other_versions_are_refused(tmp_path, change, message):
    file = save_results(tmp_path, results(["red"]))
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(EvaluationError, match=message):
        load_results(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "not a results file"), (b"\xff", "not a results file"), (b"[]", "not a results file")],
)
def test_other_files_are_refused(tmp_path, content, message):
    file = tmp_path / "results.json"
    file.write_bytes(content)
    with pytest.raises(EvaluationError, match=message):
        load_results(tmp_path)


def test_missing_results_are_a_clear_error(tmp_path):
    with pytest.raises(EvaluationError, match=r"results .*results.json cannot be read: No such file"):
        load_results(tmp_path)


def test_the_hash_of_a_checkpoint_depends_on_its_content(checkpoint, edit_checkpoint):
    copy = edit_checkpoint(name="copy")
    changed = edit_checkpoint(tensors=lambda t: t["model.norm.weight"].__iadd__(1), name="changed")
    (copy / "README.md").write_text("notes do not count")
    assert checkpoint_hash(copy) != checkpoint_hash(changed)
    again = edit_checkpoint(name="again")
    assert checkpoint_hash(copy) == checkpoint_hash(again)
