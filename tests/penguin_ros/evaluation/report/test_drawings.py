"""The drawings of the page of results: scales, and time lines whose labels do not get into each other's way."""

from itertools import pairwise

import pytest
from report_example import QUESTIONS, Page, make

from penguin_ros.evaluation.question_file import ExpectedTime
from penguin_ros.evaluation.report import plots, svg
from penguin_ros.evaluation.report.page import render


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 47, [0, 10, 20, 30, 40]), (0, 1024, [0, 200, 400, 600, 800, 1000])],
)
def test_ticks_are_round(low, high, ticks):
    assert svg.Scale(low, high, 0, 100).ticks() == pytest.approx(ticks)


def test_logarithmic_scales():
    scale = svg.Scale(0.01, 100, 0, 400, log=True)
    assert [scale(value) for value in (0.01, 0.1, 1, 100)] == pytest.approx([0, 100, 200, 400])
    assert scale.ticks() == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert svg.Scale(2, 30, 0, 1, log=True).ticks() == pytest.approx([2, 5, 10, 20])


def test_questions_of_one_time_are_counted_together(result_folder):
    for verdicts, words in (("rrwr", "3 of 3 right"), ("rwww", "1 of 3 right"), ("wwww", "0 of 3 right")):
        assert words in Page(render([make({"memory": verdicts})], [result_folder])).words
    alone = [asked if asked.id != "when" else asked.model_copy(update={"time_s": 1.0}) for asked in QUESTIONS]
    assert "2 of 2 right" in Page(render([make({"memory": "rwwr"}, questions=alone)], [result_folder])).words


def test_labels_of_the_timeline_stay_in_the_drawing(result_folder):
    """A name that has no room on the right of its bar stands on its left."""
    late = QUESTIONS[1].model_copy(update={"expected": [ExpectedTime(accept=[(4.9, 5.0)])]})
    page = Page(render([make({"memory": "w"}, questions=[late])], [result_folder]))
    (bar,) = page.all("rect", fill="#f0c36d")
    assert "when, 4.9 to 5.0 s: About when?" in page.words
    (label,) = (a for a in page.all("text") if float(a["y"]) == float(bar["y"]) + 10)
    assert label["text-anchor"] == "end" and float(label["x"]) < float(bar["x"])


def test_labels_of_the_timeline_do_not_overlap():
    """Names stand on the right or on the left of their bars; letters are at least 5.5 wide."""
    times = [(0.0, 0.2), (1.0, 1.0), (2.4, 2.4), (3.0, 4.0), (4.4, 4.4), (5.0, 5.0), (5.0, 5.0)]
    spans = [plots.Span(*span, f"when it was {i}", "When?") for i, span in enumerate(times)]
    drawn = Page(plots.memory_plot(make({"memory": "rrwr"}).timelines[0], [], spans))
    rows = {}
    for bar in drawn.all("rect", fill="#f0c36d"):
        rows.setdefault(float(bar["y"]), []).append((float(bar["x"]), float(bar["x"]) + float(bar["width"])))
    for label in drawn.all("text", fill=svg.INK):
        if float(label["y"]) - 10 in rows:
            width = 5.5 * len(spans[0].name)
            x = float(label["x"]) - (width if label["text-anchor"] == "end" else 0)
            rows[float(label["y"]) - 10].append((x, x + width))
    assert sum(map(len, rows.values())) == 2 * len(times) and len(rows) < len(times)
    for places in map(sorted, rows.values()):
        assert all(left[1] <= right[0] for left, right in pairwise(places))
