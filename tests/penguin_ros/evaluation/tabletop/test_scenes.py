"""Scores on the simulated table-top: hand-worked answers, the ground truth's own answers, and the command."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("pybullet", reason="needs the extra sim")

from penguin_engine.scene.generation import Sampling
from penguin_models.grounding import Box, GroundedObject, TimeRange
from penguin_ros.evaluation.metrics.statistics import Ratio
from penguin_ros.evaluation.tabletop import scenes
from penguin_ros.evaluation.tabletop.scenes import summarise
from penguin_ros.evaluation.tabletop.scores import Scored, score_answer
from penguin_tabletop.clips.events import Event
from penguin_tabletop.conversations.turns import ExpectedReply, Turn
from penguin_tabletop.dataset import Mixture, TabletopDataset, TabletopSettings
from penguin_tabletop.seeds import Split

CUBE = GroundedObject("red cube", Box(100, 100, 300, 300))
BALL = GroundedObject("blue ball", Box(500, 500, 700, 700))
APPEARS = Event("appears", 2.0, 3.0, 1, "red cube")
LEAVES = Event("leaves", 6.0, 8.0, 2, "blue ball", "off the table")


def turn(task, **expected):
    return Turn(task, "?", "", ExpectedReply(**expected))


@pytest.mark.parametrize(
    ("answer", "f1", "right"),
    [
        ("A red cube and a blue ball on a wooden table.", Ratio(4, 4), True),
        ("There are two red cubes on a wooden table.", Ratio(2, 4), False),
        ("A red cube, a blue ball and a green duck.", Ratio(4, 5), False),
        ("Nothing.", Ratio(0, 2), False),
    ],
)
def test_captions_are_scored_by_their_objects(answer, f1, right):
    scored = score_answer(turn("caption_short", kind="caption", objects=(CUBE, BALL)), answer)
    assert scored.parts["object_f1"] == f1 and scored.right == right


def test_boxes_are_matched_one_to_one():
    asked = turn("find_everything", kind="boxes", objects=(CUBE, BALL))
    shifted = score_answer(asked, "[red cube](150,100,350,300), [red ball](500,500,700,700), [duck](0,0,50,50)")
    assert shifted.parts["box_share"] == Ratio(2, 2)  # overlap of 150 out of a width of 250: IoU 0.6
    assert shifted.parts["box_miou"].numerator == pytest.approx(1.6)
    assert shifted.parts["labelled_box_share"] == Ratio(1, 2)
    assert shifted.parts["box_precision"] == Ratio(2, 3) and not shifted.right
    nothing = score_answer(turn("find_all", kind="boxes"), "There are no ducks.")
    assert nothing.right and nothing.parts["box_share"] == Ratio(0, 0)


@pytest.mark.parametrize(
    ("expected", "good", "bad"),
    [
        ({"kind": "number", "number": 2}, "There are two red cubes.", "There are 3 red cubes."),
        (
            {"kind": "choice", "answer": "no", "options": ("yes", "no")},
            "No, there is no duck.",
            "Yes, there is a duck.",
        ),
        ({"kind": "label", "answer": "blue ball"}, "This is a blue ball.", "A red cube is on the blue ball."),
        ({"kind": "choice", "answer": "left of", "options": ("left of", "right of")}, "left of", ""),
    ],
)
def test_questions_have_right_and_wrong_answers(expected, good, bad):
    asked = turn("count", **expected)
    assert [score_answer(asked, text).parts["accuracy"].numerator for text in (good, bad)] == [1, 0]


def test_printed_words_and_time_ranges():
    reading = turn("reading", kind="text", answer="SALT")
    assert score_answer(reading, 'It says "salt".').right and not score_answer(reading, '"MALT"').right
    when = turn("when", kind="span", span=TimeRange(2.0, 4.0))
    half = score_answer(when, "During the period 3.00 - 5.00 seconds.")
    assert half.parts["event_miou"].numerator == pytest.approx(1 / 3) and half.parts["event_r0.5"] == Ratio(0)
    assert score_answer(when, "During the period 2.00 - 4.50 seconds.").right


def test_events_are_scored_with_their_objects_and_times():
    changed = turn("what_changed", kind="events", events=(APPEARS, LEAVES))
    assert score_answer(changed, "A red cube has appeared.").parts["change_f1"] == Ratio(2 / 3)
    assert score_answer(turn("what_changed", kind="events"), "Nothing has changed.").parts["change_f1"] == Ratio(1)
    dense = turn("clip_dense", kind="events", events=(APPEARS, LEAVES), timed=True)
    scored = score_answer(
        dense,
        "During the period 2.00 - 3.00 seconds, a red cube appears. "
        "During the period 1.00 - 3.00 seconds, the blue ball leaves.",
    )
    assert scored.parts["dense_r0.5"] == Ratio(1, 2) and scored.parts["event_f1"] == Ratio(1) and not scored.right


def test_the_ground_truths_own_answers_are_right():
    """Covers every kind of task: each answer is parsed as it was meant."""
    dataset = TabletopDataset(TabletopSettings(Split.VALIDATION, turns=8, mixture=Mixture(8, 2, 2, 0, 0)))
    tasks = set()
    for number in range(60):
        for asked in dataset[number].turns:
            tasks.add(asked.task)
            scored = score_answer(asked, asked.answer)
            assert scored.right, (asked, scored)
    assert len(tasks) > 25


def test_intervals_are_over_scenes():
    """Two answers about a single scene have no interval."""
    one, zero = Scored({"reading": Ratio(1)}, True), Scored({"reading": Ratio(0)}, False)
    single = summarise([[one, zero]])["reading"]
    assert (single.value, single.low, single.answers) == (0.5, None, 2)
    several = summarise([[one, one], [zero], [one]])["reading"]
    assert several.value == 0.75 and 0 <= several.low < 0.75 < several.high <= 1


@pytest.fixture
def run(cli, checkpoint, monkeypatch):
    """Runs the command on two scenes and returns exit code, standard output and standard error.

    Answers have at most 16 tokens: the small random checkpoint never ends one.
    """
    monkeypatch.setattr(scenes, "Sampling", lambda max_new_tokens: Sampling(min(16, max_new_tokens)))

    def command(*options):
        result = cli("evaluate", "tabletop", "--model", checkpoint, "--scenes", "2", *options)
        return result.code, result.out, result.err

    return command


def test_the_command_prints_scores_and_writes_answers(run, tmp_path):
    file = tmp_path / "answers.jsonl"
    code, out, err = run("--json", "--seed", "3", "--mixture", "image=1", "--answers", str(file))
    assert code == 0, err
    found = json.loads(out)
    assert (found["seed"], found["scenes"]) == (3, 2)
    answers = [json.loads(line) for line in file.read_text().splitlines()]
    assert answers and all(answer["scene"].startswith("test-3-") for answer in answers)
    assert all(score["value"] == 0 or score["answers"] > 0 for score in found["scores"].values())
    code, out, _ = run("--mixture", "clip=1", "--size", "112")
    assert code == 0 and "95 % interval" in out
    code, _, err = run("--answers", str(file / "answers.jsonl"))
    assert code == 1 and f"{file / 'answers.jsonl'} cannot be written: Not a directory" in err
    for family in ("chart", "text"):
        code, out, err = run("--mixture", f"image=1,{family}=1")
        assert code == 1 and f"no questions are asked about the family {family}; use image, pair and clip" in err
    earlier = file.read_text()
    code, _, err = run("--max-tokens", "3", "--answers", str(file))
    assert code == 1 and "3" in err and len(err.splitlines()) == 1
    assert file.read_text() == earlier and list(tmp_path.iterdir()) == [file]
