"""`penguin-vl evaluate recall`: which questions are asked, what each method sees, and whose clock times count from."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace

import pytest

pytest.importorskip("pybullet", reason="needs the extra sim")

from penguin_engine.scene.answer import Answer
from penguin_engine.scene.generation import Sampling
from penguin_models.errors import EvaluationError
from penguin_models.grounding import TimeRange, format_time_range
from penguin_ros.evaluation.recall import episodes, methods, run
from penguin_ros.evaluation.recall.compared import ALL_METHODS, GUESSES, METHODS, SHOWN
from penguin_ros.evaluation.recall.methods import START_NS, Model
from penguin_ros.evaluation.recall.questions import BANDS, NOMINAL_AGES_S, RECENT, band_of, choose_questions
from penguin_ros.evaluation.recall.run import FPS, SIZE, RecallRun, evaluate_recall
from penguin_ros.evaluation.recall.summary import summarise
from penguin_tabletop.clips.timeline import TabletopRecording
from penguin_tabletop.conversations.recall_tasks import RECALL_TASKS
from penguin_tabletop.seeds import Split, seeded_random
from penguin_tabletop.truth import planned_truth

LENGTH_S, LAST_S = 36.5, 36.0
BUDGET, FRAME_TOKENS = 360, 36
RUN = RecallRun(seed=3, lengths_s=(LENGTH_S,), recordings=2, per_band=3)


@pytest.mark.parametrize(
    ("age_s", "band"),
    [
        *[(1.5, "15s"), (30, "15s"), (30.01, "60s"), (134, "60s"), (135, "5min"), (734, "5min")],
        *[(735, "30min"), (3600, "30min"), (3601, "2h"), (14_000, "2h")],
    ],
)
def test_bands_meet_between_their_nominal_ages(age_s, band):
    assert band_of(age_s) == band
    assert all(band_of(nominal_s) == name for name, nominal_s in NOMINAL_AGES_S.items())


def test_questions_are_balanced_and_belong_to_the_band_of_their_evidence():
    answers, tasks, most = Counter(), Counter(), 6
    for number, seconds in enumerate([60, 60, 60, 60, 300, 1800]):
        recording = TabletopRecording(Split.TEST.seed(number), SIZE, seconds, FPS)
        last_s = recording.stamps_s[-1]
        now = planned_truth(recording.scene(last_s), SIZE)
        asked = choose_questions(recording, now, SIZE, seeded_random(number, "test"), most)
        by_band = {band: [item for item in asked if item.band == band] for band in BANDS}
        assert sum(map(len, by_band.values())) == len(asked) and all(len(items) <= most for items in by_band.values())
        assert len({item.turn.question for item in asked}) == len(asked)
        for item in asked:
            assert item.age_s == pytest.approx(last_s - item.evidence_s[1]) and item.evidence_s[0] <= item.evidence_s[1]
            assert (item.band == RECENT) == (item.age_s == 0) and (item.band == RECENT or item.age_s >= 1.5)
        tasks.update(item.turn.task for item in asked if item.band != RECENT)
        answers.update(item.turn.expected.answer for item in asked if item.turn.expected.options == ("yes", "no"))
    assert 0.3 <= answers["yes"] / answers.total() <= 0.7 and answers.total() > 20
    assert len(tasks) == len(RECALL_TASKS) and max(tasks.values()) < 0.3 * tasks.total()


@pytest.fixture(scope="module")
def truthful(scripted, processor):
    """Replies of all methods, from a runtime that knows the truth but takes the times in its prompt for the clock."""
    turns = {}

    def remember(*args):
        asked = choose_questions(*args)
        turns.update({item.turn.question: item.turn for item in asked})
        return asked

    def answer(question, numbers):
        times_s = [float(text) for text in re.findall(r"Time ([\d.]+)s:", runtime.prompt)]
        turn = turns.get(question)
        if turn is None or turn.expected.span is None:
            return turn.answer if turn else "A red cube."
        start_s = LAST_S - times_s[-1] if times_s else 0.0
        span = turn.expected.span
        if span.start_s < start_s:
            return "That was before."
        return format_time_range(TimeRange(span.start_s - start_s, span.end_s - start_s))

    runtime = scripted(answer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "choose_questions", remember)
        return evaluate_recall(Model(runtime, processor, BUDGET), RUN)


def test_times_count_from_the_start_of_the_recording(truthful):
    """A truthful model is right about everything but the times of what began before the first frame that it sees."""
    spans = Counter()
    for reply in (reply for replies in truthful for reply in replies):
        if reply.task != "when":
            assert reply.right, reply
            continue
        begins_s = float(re.search(r"period ([\d.]+)", reply.wanted)[1])
        assert reply.right == (begins_s >= reply.start_s - 0.001), reply
        spans[reply.method] += reply.right
    assert min(spans[method] for method in ("memory", "uniform", "offline", "shown", "text-only")) > 0
    assert spans["last-4"] == 0


def test_methods_see_what_they_say_within_the_budget(truthful):
    full = BUDGET // FRAME_TOKENS
    for replies in truthful:
        by_method = {method: [reply for reply in replies if reply.method == method] for method in ALL_METHODS}
        assert len({len(items) for items in by_method.values()}) == 1
        assert all(reply.visual_tokens <= BUDGET for reply in replies if reply.method != SHOWN)
        seen = {method: {(item.visual_tokens, item.start_s) for item in items} for method, items in by_method.items()}
        assert seen["window"] == {(full * FRAME_TOKENS, LAST_S - (full - 1) / FPS)}
        assert seen["last-4"] == {(4 * FRAME_TOKENS, LAST_S - 1.5)}
        assert seen["uniform"] == {(full * FRAME_TOKENS, 0)}
        assert seen["text-only"] == {(0, 0)} and seen["last-frame"] == {(FRAME_TOKENS, LAST_S)}
        assert {start_s for _, start_s in seen["offline"]} == {0}
        assert min(tokens for method in ("memory", "offline") for tokens, _ in seen[method]) > BUDGET / 2
        for item in by_method["episodes"]:
            assert 1 <= len(item.episodes_s) <= 8 and item.episodes_s[0] == item.start_s < LAST_S - 1.5
        for item in by_method["shown"]:
            assert 4 * FRAME_TOKENS <= item.visual_tokens <= 12 * FRAME_TOKENS
            assert item.start_s <= LAST_S - item.age_s and (item.band != RECENT or item.start_s == LAST_S - 1.5)
        assert all(item.first_token_s > 0 for item in replies) and sum(item.alone for item in replies) == len(
            ALL_METHODS
        )


def test_the_summary_compares_methods_in_each_band(truthful):
    replies = [[replace(reply, right=False) if reply.method == "window" else reply for reply in r] for r in truthful]
    summary = json.loads(json.dumps(summarise(replies, RUN)))
    assert list(summary["scores"]) == list(METHODS) and list(summary["guesses"]) == list(GUESSES)
    bands = list(summary["scores"]["memory"])
    assert bands == ["recent", "15s", "60s"] and list(summary["shown"]) == bands
    for rows in (summary["scores"], summary["guesses"]):
        assert all({*score} == {"value", "low", "high", "answers"} for row in rows.values() for score in row.values())
    assert summary["scores"]["last-4"]["recent"]["value"] == 1 and summary["scores"]["window"]["15s"]["value"] == 0
    counts = Counter(reply.band for r in replies for reply in r if reply.method == "memory")
    assert {band: score["answers"] for band, score in summary["scores"]["memory"].items()} == counts
    assert list(summary["differences"]) == ["memory - last-4", "memory - window", "episodes - last-4"]
    difference, memory = summary["differences"]["memory - window"]["15s"], summary["scores"]["memory"]["15s"]
    assert difference["value"] == memory["value"] and difference["recordings"] == 2
    assert summary["when_r0.5"]["last-4"]["15s"]["value"] == 0 and summary["tasks"]["memory"]["when"]["answers"] > 0
    assert summary["visual_tokens"]["last-4"] == 144 and {*summary["first_token_s"]} == {*METHODS}


def test_the_first_token_of_a_long_recording_is_compared_with_that_of_the_same_recording(truthful):
    def at(length, number, seconds):
        found = [reply for reply in truthful[0] if reply.alone and reply.method in seconds]
        return [replace(r, recording=f"{length}s-{number}", first_token_s=seconds[r.method]) for r in found]

    replies = [at(60, 0, {"memory": 0.1, "episodes": 0.1}), at(60, 1, {"memory": 0.1, "episodes": 0.2})]
    replies += [at(7200, 0, {"memory": 0.2, "episodes": 0.8}), at(300, 0, {"memory": 0.1})]
    assert summarise(replies, RUN)["first_token_ratio"] == {"episodes / memory": {"60s": 1.5, "7200s": 4.0}}


def test_recordings_depend_on_the_seed_and_not_on_other_lengths(scripted, processor):
    def replies(*lengths_s, seed=0):
        def look(seen, asked):
            return [Answer(raw=str([int(f.rgb.sum()) for f in seen.frames[::5]]), start_ns=START_NS) for _ in asked]

        options = RecallRun(seed, lengths_s, recordings=1)
        return evaluate_recall(Model(scripted(), processor, BUDGET), options, methods={"look": look})

    first = replies(10, 12)
    assert replies(12) == first[1:] and replies(10) == first[:1] != replies(10, seed=1) and first[0]


def test_recordings_without_questions_have_no_score(scripted, processor, monkeypatch):
    monkeypatch.setattr(run, "choose_questions", lambda *args: [])
    with pytest.raises(EvaluationError, match="nothing happened in the recordings"):
        evaluate_recall(Model(scripted(), processor, BUDGET), RecallRun(lengths_s=(10,), recordings=1))


@pytest.fixture
def recall(cli, checkpoint, monkeypatch):
    """Runs the command on the small checkpoint, with short answers."""
    for module in (methods, episodes):
        monkeypatch.setattr(module, "SAMPLING", Sampling(max_new_tokens=3))
    return lambda *args: cli("evaluate", "recall", "--model", checkpoint, "--recordings", 1, *args)


def test_the_command_prints_scores_and_writes_plot_and_answers(recall, tmp_path):
    result = recall("--lengths", "10", "--json", "--plot", tmp_path / "a.png", "--answers", tmp_path / "a.jsonl").json
    assert {"scores", "shown", "guesses", "differences", "settings"} <= {*result}
    settings = {name: result["settings"][name] for name in ("lengths_s", "recordings", "token_budget", "dtype")}
    assert settings == {"lengths_s": [10], "recordings": 1, "token_budget": 1024, "dtype": "float32"}
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert {line["method"] for line in lines} == {*ALL_METHODS}


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--lengths", "60,abc"], 2, "'60,abc' is not a list of seconds such as 60,300"),
        (["--lengths", ""], 2, "is not a list of seconds"),
        (["--lengths", "60,"], 2, "'60,' is not a list of seconds"),
        (["--lengths", "60,5"], 2, "a recording of 5 seconds must have from 10 to 14400"),
        (["--lengths", "nan"], 2, "a recording of nan seconds must have from 10"),
        (["--lengths", "60,60"], 2, "each only once"),
        (["--recordings", "20000"], 2, "20000 recordings of a length; it must be 1 to 10000"),
        (["--lengths", "10", "--budget", "143"], 1, "143 visual tokens cannot hold the last 4 frames of 36 each"),
        (["--lengths", "10", "--budget", "100000"], 1, "100000 visual tokens needs a context of"),
        (["--plot", "plot.xyz"], 2, "name it .png or .svg"),
        (["--seed", "-1"], 2, "--seed"),
    ],
)
def test_bad_usage_is_one_clear_line(recall, args, code, message):
    result = recall(*args)
    assert result.code == code and message in re.sub(r"[│\s]+", " ", result.err), result.err
