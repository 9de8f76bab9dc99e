"""Scores of answers on hand-worked cases."""

import pytest

from penguin_models.grounding import parse
from penguin_models.types import Size
from penguin_ros.evaluation.metrics.boxes import LabelledBox
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


def prediction(text, spans=()):
    grounding = parse(text)
    boxes = [LabelledBox((o.label,), (o.box.x1, o.box.y1, o.box.x2, o.box.y2)) for o in grounding.objects]
    return Prediction(grounding.text, boxes, spans, SIZE)


def test_an_accepted_text():
    scored = score(prediction("The red mug."), [ExpectedText(accept=["blue mug", "red mug"])])
    assert scored.correct and scored.parts == {"accuracy": Ratio(1), "exact": Ratio(0), "normalised": Ratio(1)}


def test_text_by_another_metric():
    scored = score(prediction("recieved"), [ExpectedText(accept=["received"], metric="anls")])
    assert scored.correct
    assert scored.parts["anls"].numerator == pytest.approx(0.75) and scored.parts["normalised"] == Ratio(0)


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
    scored = score(prediction(answer), [ExpectedNumber(value=3, tolerance=tolerance)])
    assert scored.correct is correct
    assert (scored.parts["count_error"], scored.parts["no_number"]) == (error, missing)
    assert scored.parts["number_accuracy"] == Ratio(float(correct))


def test_choice():
    expected = [ExpectedChoice(options=["red", "blue"], answer="B")]
    assert score(prediction("B. blue"), expected).correct
    assert not score(prediction("A"), expected).correct and not score(prediction("hm"), expected).correct


def objects(*items, unit="px"):
    return ExpectedObjects(objects=[{"label": label, "box": box} for label, *box in items], unit=unit)


def test_boxes_in_pixels_and_in_thousandths():
    """x from 64 to 320 of 640 pixels is 100 to 500; y from 48 to 240 of 480 is 100 to 500."""
    answer = prediction("There is a [mug](100,100,500,500).")
    for expected in (objects(("mug", 64, 48, 320, 240)), objects(("mug", 100, 100, 500, 500), unit="1000")):
        scored = score(answer, [expected])
        assert scored.correct
        assert scored.parts["box_miou"] == Ratio(pytest.approx(1), 1)
        assert scored.parts["label_f1"] == Ratio(2, 2)


def test_one_of_two_boxes_is_correct():
    answer = prediction("A [mug](0,0,100,100) and a [ghost](500,500,600,600).")
    scored = score(answer, [objects(("mug", 0, 0, 100, 80), ("tray", 800, 800, 900, 900), unit="1000")])
    assert not scored.correct
    assert scored.parts == {
        "accuracy": Ratio(0),
        "box_miou": Ratio(pytest.approx(0.8), 2),
        "box_precision": Ratio(1, 2),
        "box_recall": Ratio(1, 2),
        "label_f1": Ratio(2, 4),
        "hallucinated": Ratio(1, 2),
    }


def test_an_empty_list_expects_no_boxes():
    assert score(prediction("An empty table."), [objects()]).correct
    assert not score(prediction("A [mug](0,0,9,9)."), [objects()]).correct


@pytest.mark.parametrize(
    ("spans", "iou", "hits"),
    [([(2, 6)], 1, [1, 1, 1]), ([(4, 8)], 1 / 3, [1, 0, 0]), ([(3, 6)], 0.75, [1, 1, 1]), ([], 0, [0, 0, 0])],
)
def test_time_ranges(spans, iou, hits):
    scored = score(prediction("Then.", spans), [ExpectedTime(accept=[(2, 6)])])
    assert scored.parts["time_miou"] == Ratio(pytest.approx(iou))
    assert [scored.parts[f"time_r{t}"].numerator for t in (0.3, 0.5, 0.7)] == hits
    assert scored.correct == bool(hits[1])


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
    scored = score(prediction(answer), [ExpectedAbsence()])
    assert scored.correct is correct and scored.parts["hallucinated"] == hallucinated


def test_every_expected_result_must_be_met():
    expected = [ExpectedText(accept=["2 mugs"]), objects(("mug", 0, 0, 9, 9), unit="1000")]
    assert not score(prediction("2 mugs"), expected).correct
    both = score(prediction("2 [mugs](0,0,9,9)"), expected)
    assert not both.correct  # "mugs" is not the expected label
    assert (both.parts["normalised"], both.parts["box_recall"], both.parts["label_f1"]) == (
        Ratio(1),
        Ratio(1),
        Ratio(0, 2),
    )


def test_expected_results_of_one_type_add_up():
    expected = [ExpectedText(accept=["red"]), ExpectedText(accept=["blue"])]
    assert score(prediction("red"), expected).parts["normalised"] == Ratio(1, 2)


def test_every_metric_has_a_title():
    expected = [
        ExpectedText(accept=["x"], metric="anls"),
        ExpectedNumber(value=1),
        ExpectedChoice(options=["a", "b"], answer="A"),
        objects(),
        ExpectedTime(accept=[(0, 1)]),
        ExpectedAbsence(),
    ]
    assert set(score(prediction("x"), expected).parts) <= set(METRICS)
