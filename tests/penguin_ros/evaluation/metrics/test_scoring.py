"""Answers against what was expected of them, worked out by hand."""

import pytest

from penguin_models.grounding import parse
from penguin_models.types import Size
from penguin_ros.evaluation.metrics.scoring import METRICS, Prediction, score
from penguin_ros.evaluation.metrics.statistics import Ratio
from penguin_ros.evaluation.question_file import (
    ExpectedAbsence,
    ExpectedChoice,
    ExpectedNumber,
    ExpectedObjects,
    ExpectedText,
    ExpectedTime,
)

SIZE = Size(480, 640)


def said(text, spans=()):
    grounding = parse(text)
    return Prediction(grounding.text, grounding.objects, spans, SIZE)


def test_text():
    found = score(said("The red mug."), [ExpectedText(accept=["blue mug", "red mug"])])
    assert found.correct and found.parts == {"accuracy": Ratio(1), "exact": Ratio(0), "normalised": Ratio(1)}


def test_text_by_another_metric():
    found = score(said("recieved"), [ExpectedText(accept=["received"], metric="anls")])
    assert found.correct
    assert found.parts["anls"].numerator == pytest.approx(0.75) and found.parts["normalised"] == Ratio(0)


@pytest.mark.parametrize(
    ("answer", "tolerance", "correct", "error", "missing"),
    [
        ("three", 0, True, Ratio(0), Ratio(0)),
        ("There are 5", 0, False, Ratio(2), Ratio(0)),
        ("There are 5", 2, True, Ratio(2), Ratio(0)),
        ("a few", 2, False, Ratio(0, 0), Ratio(1)),
    ],
)
def test_numbers(answer, tolerance, correct, error, missing):
    found = score(said(answer), [ExpectedNumber(value=3, tolerance=tolerance)])
    assert found.correct is correct
    assert (found.parts["count_error"], found.parts["no_number"]) == (error, missing)
    assert found.parts["number_accuracy"] == Ratio(float(correct))


def test_choice():
    expected = [ExpectedChoice(options=["red", "blue"], answer="B")]
    assert score(said("B. blue"), expected).correct
    assert not score(said("A"), expected).correct and not score(said("hm"), expected).correct


def objects(*items, unit="px"):
    return ExpectedObjects(objects=[{"label": label, "box": box} for label, *box in items], unit=unit)


def test_boxes_in_pixels_and_in_thousandths():
    """x from 64 to 320 of 640 pixels is 100 to 500; y from 48 to 240 of 480 is 100 to 500."""
    answer = said("There is a [mug](100,100,500,500).")
    for expected in (objects(("mug", 64, 48, 320, 240)), objects(("mug", 100, 100, 500, 500), unit="1000")):
        found = score(answer, [expected])
        assert found.correct
        assert found.parts["box_miou"] == Ratio(pytest.approx(1), 1)
        assert found.parts["label_f1"] == Ratio(2, 2)


def test_boxes_half_right():
    answer = said("A [mug](0,0,100,100) and a [ghost](500,500,600,600).")
    found = score(answer, [objects(("mug", 0, 0, 100, 80), ("tray", 800, 800, 900, 900), unit="1000")])
    assert not found.correct
    assert found.parts == {
        "accuracy": Ratio(0),
        "box_miou": Ratio(pytest.approx(0.8), 2),
        "box_precision": Ratio(1, 2),
        "box_recall": Ratio(1, 2),
        "label_f1": Ratio(2, 4),
        "hallucinated": Ratio(1, 2),
    }


def test_nothing_to_point_at():
    assert score(said("An empty table."), [objects()]).correct
    assert not score(said("A [mug](0,0,9,9)."), [objects()]).correct


@pytest.mark.parametrize(
    ("spans", "iou", "hits"),
    [([(2, 6)], 1, [1, 1, 1]), ([(4, 8)], 1 / 3, [1, 0, 0]), ([(3, 6)], 0.75, [1, 1, 1]), ([], 0, [0, 0, 0])],
)
def test_time_ranges(spans, iou, hits):
    found = score(said("Then.", spans), [ExpectedTime(accept=[(2, 6)])])
    assert found.parts["time_miou"] == Ratio(pytest.approx(iou))
    assert [found.parts[f"time_r{t}"].numerator for t in (0.3, 0.5, 0.7)] == hits
    assert found.correct == bool(hits[1])


@pytest.mark.parametrize(
    ("answer", "correct", "hallucinated"),
    [
        ("No, there is no mug.", True, Ratio(0, 0)),
        ("The [mug](1,2,3,4) is there.", False, Ratio(1, 1)),
        ("No, but here is a [cup](1,2,3,4).", False, Ratio(1, 1)),
        ("On the table.", False, Ratio(0, 0)),
    ],
)
def test_absence(answer, correct, hallucinated):
    found = score(said(answer), [ExpectedAbsence()])
    assert found.correct is correct and found.parts["hallucinated"] == hallucinated


def test_everything_expected_must_be_met():
    expected = [ExpectedText(accept=["2 mugs"]), objects(("mug", 0, 0, 9, 9), unit="1000")]
    assert not score(said("2 mugs"), expected).correct
    both = score(said("2 [mugs](0,0,9,9)"), expected)
    assert not both.correct  # a label that is not the one expected
    assert (both.parts["normalised"], both.parts["box_recall"], both.parts["label_f1"]) == (
        Ratio(1),
        Ratio(1),
        Ratio(0, 2),
    )


def test_two_results_of_one_type_add_up():
    expected = [ExpectedText(accept=["red"]), ExpectedText(accept=["blue"])]
    assert score(said("red"), expected).parts["normalised"] == Ratio(1, 2)


def test_every_part_has_a_title():
    expected = [
        ExpectedText(accept=["x"], metric="relaxed"),
        ExpectedNumber(value=1),
        ExpectedChoice(options=["a", "b"], answer="A"),
        objects(),
        ExpectedTime(accept=[(0, 1)]),
        ExpectedAbsence(),
    ]
    assert set(score(said("x"), expected).parts) <= set(METRICS)
