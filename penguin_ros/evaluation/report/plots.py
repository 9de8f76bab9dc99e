"""The plots of a report: matplotlib figures as SVG for the page. Text stays text, in the fonts of the page."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from penguin_ros.evaluation.metrics.statistics import FloatArray
from penguin_ros.evaluation.question_file import Question
from penguin_ros.evaluation.records import Timeline
from penguin_ros.evaluation.report.cards import Column, anchor
from penguin_ros.evaluation.results import ScoredRecord
from penguin_ros.evaluation.summary import AGE_GROUPS

COLOURS = ("#0b62a4", "#c75000", "#7b3294", "#00737f")
"""Colours of a report's columns, distinguishable with red-green colour blindness."""
_FAINT, _GRID, _RIGHT, _WRONG, _EVENT = "#777777", "#dddddd", "#1f7a1f", "#b3261e", "#f0c36d"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names may contain dollar signs
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": _GRID,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "grid.color": _GRID,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
}
_LONGEST_NAME = 28


@matplotlib.rc_context(_STYLE)
def age_plot(columns: Sequence[Column]) -> Markup | None:
    """Plots the share of right answers by age of the needed evidence; None if no question states its evidence."""
    groups = [column.summary["groups"]["age"] for column in columns]
    names = [name for name in AGE_GROUPS if any(name in group for group in groups)]
    if not names:
        return None
    figure, axes = _figure("share of right answers", "age of the needed evidence when asked")
    for number, (column, group) in enumerate(zip(columns, groups, strict=True)):
        offset = (number + 1) / (len(columns) + 1) - 0.5
        for at, name in enumerate(names):
            found = group.get(name, {}).get("metrics", {}).get("accuracy")
            if found is not None:
                axes.plot(at + offset, found["value"], "o", color=column.colour)
                if found["low"] is not None:
                    axes.vlines(at + offset, found["low"], found["high"], color=column.colour, linewidth=3, alpha=0.45)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(-0.03, 1.03)
    return _svg(figure, "age")


@matplotlib.rc_context(_STYLE)
def latency_plot(columns: Sequence[Column]) -> Markup | None:
    """Plots the distribution of the time to the first token (solid) and to the last (dashed); None without answers."""
    figure, axes = _figure("share of answers", "seconds after the question")
    for column in columns:
        if column.answered:
            axes.ecdf([max(r.first_token_s, 1e-4) for r in column.answered], color=column.colour)
            axes.ecdf([max(r.total_s, 1e-4) for r in column.answered], color=column.colour, linestyle="--")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    return _svg(figure, "latency") if axes.lines else None


@matplotlib.rc_context(_STYLE)
def token_plot(columns: Sequence[Column]) -> Markup | None:
    """Plots each answer's visual tokens against the work until its first token; None without answers."""
    figure, axes = _figure("seconds of work to the first token", "visual tokens in the prompt")
    for column in columns:
        tokens = [record.visual_tokens for record in column.answered]
        work_s = [record.first_token_s - record.waited_s for record in column.answered]
        axes.plot(tokens, work_s, "o", markersize=4, alpha=0.6, markeredgewidth=0, color=column.colour)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    return _svg(figure, "tokens") if any(column.answered for column in columns) else None


@matplotlib.rc_context(_STYLE)
def memory_plot(timeline: Timeline, column: Column) -> Markup:
    """Plots one memory over time: tokens and compactions above; frames and the questions about them below."""
    asked = [
        (question, record)
        for question in column.results.questions
        if (record := column.records.get(question.id)) is not None
        and record.bag == timeline.bag
        and timeline.camera in (question.cameras or (timeline.camera,))
    ]
    heights_in = (2, 0.2 * (2 + len(asked)))
    figure = Figure(figsize=(10, sum(heights_in)), layout="constrained")
    tokens, rows = figure.subplots(2, 1, sharex=True, height_ratios=heights_in)
    _draw_tokens(tokens, timeline)
    _draw_rows(rows, timeline, asked)
    return _svg(figure, f"memory {timeline.bag} {timeline.camera} {timeline.method}")


def _draw_tokens(axes: Axes, timeline: Timeline) -> None:
    time_s, budget = np.array(timeline.time_s), timeline.token_budget
    axes.set_title("visual tokens in memory")
    axes.fill_between(time_s, timeline.tokens, color=COLOURS[0], alpha=0.18, linewidth=0)
    axes.plot(time_s, timeline.tokens, color=COLOURS[0], linewidth=1)
    axes.axhline(budget, color=_WRONG, linewidth=1, linestyle="--")
    axes.text(1, budget, "budget", transform=axes.get_yaxis_transform(), color=_WRONG, ha="right", va="bottom")
    compacted = np.array(timeline.shrunk) + np.array(timeline.left) > 0
    _draw_strokes(axes, time_s[compacted], 0, budget, COLOURS[2], linestyle=":")
    axes.set_ylim(0, 1.12 * budget)


def _draw_rows(axes: Axes, timeline: Timeline, asked: Sequence[tuple[Question, ScoredRecord]]) -> None:
    time_s, kind = np.array(timeline.time_s), np.array(timeline.kind)
    for row in (0, 1):
        _draw_strokes(axes, time_s[kind == row], row - 0.4, row + 0.4, _FAINT)
    for row, (question, record) in enumerate(asked, start=2):
        for start, end in _events(question):
            (bar,) = axes.barh(row, end - start, 0.7, start, color=_EVENT, edgecolor=_EVENT)
            bar.set_url(f"#{anchor(question.id)}")
        colour = _RIGHT if record.correct else _WRONG
        face = colour if record.correct else "white"
        mark = axes.scatter([record.time_s], [row], marker="v", facecolors=face, edgecolors=colour, zorder=3)
        mark.set_urls([f"#{anchor(question.id)}"])
    names = ["keyframes", "other frames", *(_shortened(question.id) for question, _ in asked)]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    end_s = max(1.0, *timeline.time_s, *(record.time_s for _, record in asked))
    axes.set_xlim(-0.01 * end_s, 1.01 * end_s)
    axes.set_xlabel("seconds")


def _draw_strokes(axes: Axes, time_s: FloatArray, low: float, high: float, colour: str, linestyle: str = "-") -> None:
    """Draws vertical strokes as one path, which keeps the page small."""
    heights = np.tile([low, high, np.nan], len(time_s))
    axes.plot(np.repeat(time_s, 3), heights, color=colour, linewidth=1, linestyle=linestyle)


def _events(question: Question) -> list[tuple[float, float]]:
    """Returns when the things in question happen."""
    spans = [item.accept[0] for item in question.expected if item.type == "time_range"]
    return spans or ([question.evidence_s] if question.evidence_s is not None else [])


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _figure(title: str, x_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.6, 2.8), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=x_label)
    return figure, axes


def _svg(figure: Figure, name: str) -> Markup:
    """Returns the figure as an SVG element; ids in it are derived from the name, so they differ between plots."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # the browser has the glyphs
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    return Markup(text[text.index("<svg") :])
