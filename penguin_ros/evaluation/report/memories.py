"""The memories of a report: a plot of each over time, with the questions and what they are about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penguin_ros.evaluation.question_file import Question
from penguin_ros.evaluation.report import plots
from penguin_ros.evaluation.report.cards import Column
from penguin_ros.evaluation.results import BagTimeline


def timelines(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """A plot for each memory of each column."""
    found = []
    for column in columns:
        records = column.records
        for timeline in column.results.timelines:
            if timeline.method != column.method or not timeline.time_s:
                continue
            asked = [
                (question, records[question.id])
                for question in column.results.questions
                if question.id in records
                and records[question.id].bag == timeline.bag
                and timeline.camera in (question.cameras or (timeline.camera,))
            ]
            marks = [plots.Mark(record.time_s, question.id, record.correct) for question, record in asked]
            spans = [
                plots.Span(start, end, question.id, question.question)
                for question, _ in asked
                for start, end in _happenings(question)
            ]
            drawn = plots.memory_plot(timeline, marks, spans)
            found.append({"timeline": timeline, "column": column, "plot": drawn, "facts": _memory_facts(timeline)})
    return found


def _happenings(question: Question) -> list[tuple[float, float]]:
    spans = [item.accept[0] for item in question.expected if item.type == "time_range"]
    return spans or ([question.evidence_s] if question.evidence_s is not None else [])


def _memory_facts(timeline: BagTimeline) -> str:
    keys = timeline.kind.count(0)
    parts = [
        f"{timeline.images} images, {len(timeline.time_s)} frames taken, {keys} key frames",
        f"{sum(timeline.shrunk)} shrank, {sum(timeline.left)} left, {timeline.frames[-1]} held at the end",
    ]
    for count, words in (
        (timeline.dropped, "dropped for lack of time"),
        (timeline.kind.count(-1), "late"),
        (timeline.bad, f"damaged ({timeline.last_error})"),
        (timeline.unstamped, "without a stamp"),
    ):
        if count:
            parts.append(f"{count} {words}")
    return "; ".join(parts)
