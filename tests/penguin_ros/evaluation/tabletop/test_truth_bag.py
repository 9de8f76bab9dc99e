"""Bags with ground truth, and questions about simulated clips: what is read back is what was written."""

import numpy as np
import pytest

from penguin_models.errors import EvaluationError
from penguin_models.grounding import Box, GroundedObject
from penguin_models.types import Size
from penguin_ros.evaluation.bags.ground_truth import read_truth
from penguin_ros.evaluation.bags.plan import make_plan
from penguin_ros.evaluation.bags.recording import open_recording
from penguin_ros.evaluation.question_file import read_questions
from penguin_ros.evaluation.records import ModelSpec, RunSettings
from penguin_ros.evaluation.tabletop.truth_bag import CAMERA, TRUTH, TrueFrame, write_bag

START_NS = 1_700_000_000_000_000_000


def frames():
    for number in range(3):
        items = [GroundedObject("mug", Box(100 * number, 200, 100 * number + 50, 400))] if number else []
        yield TrueFrame(0.5 * number, np.full((100, 200, 3), 60 * number, np.uint8), items)


def test_images_and_boxes_are_read_back(tmp_path):
    bag = write_bag(tmp_path / "bag", frames())
    recording = open_recording(bag, [None])
    assert recording.cameras == (CAMERA,)
    assert [(ref.stamp_ns - START_NS) * 1e-9 for ref in recording.images] == [0, 0.5, 1]
    assert [round(image.load().rgb.mean()) for image in recording.read()] == pytest.approx([0, 60, 120], abs=2)
    truth = read_truth(bag, TRUTH)
    assert truth.at(START_NS) == ()
    (mug,) = truth.at(START_NS + 10**9)
    assert (mug.label, mug.box) == ("mug", pytest.approx((40, 20, 50, 40)))  # of 200x100 pixels


def test_an_existing_bag_is_an_error(tmp_path):
    write_bag(tmp_path / "bag", frames())
    with pytest.raises(EvaluationError, match=r"bag .*bag cannot be written: .*exists"):
        write_bag(tmp_path / "bag", frames())


def test_questions_about_simulated_clips_match_their_bags(tmp_path):
    """Every question is within its bag, and its boxes are those that the bag contains."""
    pytest.importorskip("pybullet")
    from penguin_ros.evaluation.tabletop.clip_bags import write_clips

    bags = write_clips(tmp_path, clips=2, seed=7, seconds=6.0, fps=2.0, size=Size(112, 112))
    questions = read_questions(tmp_path / "questions.jsonl")
    jobs, failed, _ = make_plan(bags, questions, ModelSpec(path="model"), RunSettings())
    assert len(jobs) == 2 and failed == {}
    assert all(3.0 <= question.time_s <= 5.5 for question in questions)
    types = {item.type for question in questions for item in question.expected}
    assert {"number", "choice"} <= types
    for question in questions:
        for item in question.expected:
            if item.type == "objects" and question.kind == "where_at_end":
                truth = read_truth(tmp_path / question.bag, TRUTH)
                seen = {found.label for found in truth.at(START_NS + round(question.time_s * 1e9))}
                assert {found.labels[0] for found in item.objects} <= seen
    for question in questions:  # what is asked about is over
        assert all(item.accept[0][1] <= question.time_s for item in question.expected if item.type == "time_range")
    for question in questions:  # the evidence is the first event of the kind
        if question.kind in ("happens", "clip_count"):
            (item,) = question.expected
            happened = item.answer == "A" if question.kind == "happens" else item.value > 0
            assert (question.evidence_s is not None) == happened
            assert not happened or question.evidence_s[0] < question.evidence_s[1] <= question.time_s
    stated = [question.evidence_s for question in questions if question.kind == "happens" and question.evidence_s]
    ranges = {item.accept[0] for question in questions for item in question.expected if item.type == "time_range"}
    assert set(stated) & ranges  # an event with two kinds of question
    again = tmp_path / "again"
    write_clips(again, clips=2, seed=7, seconds=6.0, fps=2.0, size=Size(112, 112))
    assert (again / "questions.jsonl").read_text() == (tmp_path / "questions.jsonl").read_text()


def test_questions_are_asked_in_calm_views():
    """The first calm view after the middle and the last one, if they exist."""
    pytest.importorskip("pybullet")
    from types import SimpleNamespace

    from penguin_ros.evaluation.tabletop.clip_bags import calm_views

    def views(*events):
        clip = SimpleNamespace(events=[SimpleNamespace(start_s=start, end_s=end) for start, end in events])
        return [view.stamp_s for view in calm_views(clip, [SimpleNamespace(stamp_s=i / 2) for i in range(20)])]

    assert views() == [5.0, 9.5]
    assert views((1.0, 3.0), (4.0, 6.2), (9.5, 12.0)) == [6.5, 9.0]
    assert views((4.0, 9.5)) == [9.5] and views((0.0, 12.0)) == []
