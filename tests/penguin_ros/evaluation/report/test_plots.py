"""The plots of the report as SVG: well-formed, linked to the questions, and safe with any name."""

import re
import xml.etree.ElementTree as ET

import pytest
from report_example import EVIL, QUESTIONS, make

from penguin_ros.evaluation.report import plots
from penguin_ros.evaluation.report.cards import Column, anchor

SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"


def columns(verdicts, folder, **fields):
    results = make(verdicts, **fields)
    return [
        Column(method, colour, results, folder, method)
        for method, colour in zip(results.methods, plots.COLOURS, strict=False)
    ]


def texts(plot):
    return ["".join(element.itertext()) for element in ET.fromstring(plot).iter(f"{SVG}text")]


def test_every_plot_is_well_formed_and_has_ids_of_its_own(tmp_path):
    shown = columns({"memory": "rrwr", "last-4": "wrwr"}, tmp_path)
    timeline = shown[0].results.timelines[0]
    drawn = [plots.age_plot(shown), plots.latency_plot(shown), plots.token_plot(shown)]
    drawn.append(plots.memory_plot(timeline, shown[0]))
    definitions = []
    for plot in drawn:
        root = ET.fromstring(plot)
        assert root.tag == f"{SVG}svg" and root.get("viewBox")
        definitions += [element.get("id") for element in root.iter(f"{SVG}clipPath")]
    assert len(set(definitions)) == len(definitions) > 0
    assert "share of answers" in texts(drawn[1]) and "visual tokens in the prompt" in texts(drawn[2])


def test_the_memory_plot_has_a_row_per_question_of_its_camera(tmp_path):
    (column,) = columns({"memory": "rwwr"}, tmp_path)
    plot = plots.memory_plot(column.results.timelines[0], column)
    rows = texts(plot)
    assert [name for name in ("keyframes", "other frames", "box", "when", "colour") if name in rows] == [
        "keyframes",
        "other frames",
        "box",
        "when",
    ]
    links = [element.get(LINK) for element in ET.fromstring(plot).iter(f"{SVG}a")]
    asked = {f"#{anchor(question.id)}" for question in QUESTIONS if question.camera == "/front"}
    assert set(links) == asked and links.count("#q-when") == 2  # when it was asked and when it happened


@pytest.mark.parametrize("name", [EVIL, "costs $5 & $\\frac", "Où ist 猫?", "x" * 200])
def test_any_name_can_be_drawn(tmp_path, name):
    questions = [QUESTIONS[0].model_copy(update={"id": name})]
    (column,) = columns({"memory": "r"}, tmp_path, questions=[QUESTIONS[0]])
    results = column.results.model_copy(update={"questions": questions})
    records = [record.model_copy(update={"question": name}) for record in results.records]
    results = results.model_copy(update={"records": records})
    plot = plots.memory_plot(results.timelines[0], Column("memory", "red", results, tmp_path, "memory"))
    assert any(name.startswith(text.rstrip("…")) for text in texts(plot) if text[:5] == name[:5])


def test_a_long_recording_makes_a_small_plot(tmp_path):
    """An hour at two frames per second."""
    (column,) = columns({"memory": "rrwr"}, tmp_path)
    count = 7200
    values = {name: [1] * count for name in ("frames", "shrunk", "left", "seconds")}
    values |= {"time_s": [0.5 * i for i in range(count)], "kind": [i % 2 for i in range(count)]}
    timeline = column.results.timelines[0].model_copy(update=values | {"tokens": [i % 60 for i in range(count)]})
    assert len(plots.memory_plot(timeline, column)) < 1_500_000


def test_there_are_no_plots_without_values(tmp_path):
    results = make({"memory": "rrwr"})
    failed = [record.model_copy(update={"error": "no"}) for record in results.records]
    column = Column("memory", "red", results.model_copy(update={"records": failed}), tmp_path, "memory")
    assert plots.latency_plot([column]) is None and plots.token_plot([column]) is None


def test_plots_are_reproducible(tmp_path):
    shown = columns({"memory": "rrwr"}, tmp_path)
    assert plots.age_plot(shown) == plots.age_plot(shown)
    assert not re.search(r"<metadata>|20\d\d-", plots.age_plot(shown))
