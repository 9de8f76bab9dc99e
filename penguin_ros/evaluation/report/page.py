"""Results -> one HTML page. Everything is in it: style, script, plots, and the frames as data."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from penguin_models.errors import EvaluationError
from penguin_ros.evaluation.metrics.scoring import METRICS
from penguin_ros.evaluation.records import METHODS
from penguin_ros.evaluation.report import plots
from penguin_ros.evaluation.report.cards import Card, Column, make_cards
from penguin_ros.evaluation.report.memories import timelines
from penguin_ros.evaluation.report.pictures import Pictures
from penguin_ros.evaluation.report.svg import COLOURS
from penguin_ros.evaluation.results import Results, methods_of
from penguin_ros.evaluation.summary import compare_records

_PERCEPTION = ("recent", "recall", "not stated")


def write_report(path: Path, runs: Sequence[Results], folders: Sequence[Path]) -> Path:
    """Writes the page of a run, or of two that are compared.

    Args:
        path: the page.
        runs: one, or the first and the second to compare.
        folders: of the runs, in the same order; their pictures are taken from there.

    Raises:
        EvaluationError: the runs cannot be compared, or the page cannot be written.
    """
    html = render(runs, folders)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(html, encoding="utf-8")
    except OSError as err:
        raise EvaluationError(f"report {path} cannot be written: {err.strerror}") from err
    return path


def render(runs: Sequence[Results], folders: Sequence[Path]) -> str:
    """The page as text; see `write_report`."""
    columns = make_columns(runs, folders)
    pictures = Pictures()
    cards = make_cards(columns, pictures)
    files = resources.files("penguin_ros.evaluation.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files / "page.html").read_text(encoding="utf-8"))
    return template.render(
        title=" against ".join(run.title for run in reversed(runs)),
        style=(files / "page.css").read_text(encoding="utf-8"),
        script=(files / "page.js").read_text(encoding="utf-8"),
        runs=runs,
        columns=columns,
        methods=METHODS,
        metrics=metric_rows(columns),
        groups={name: group_rows(columns, name) for name in ("perception", "kind", "bag", "camera")},
        costs=cost_rows(columns),
        comparisons=comparisons(columns),
        age_plot=_age_plot(columns),
        latency_plot=_latency_plot(columns),
        token_plot=_token_plot(columns),
        timelines=timelines(columns),
        cards=cards,
        filters=filters(cards, columns),
        definitions=pictures.definitions(),
    )


def make_columns(runs: Sequence[Results], folders: Sequence[Path]) -> list[Column]:
    """The methods of one run; of two runs, the first method that both have.

    Raises:
        EvaluationError: the runs have no method in common, or nothing was answered.
    """
    if len(runs) == 1:
        methods = methods_of(runs[0].records)
        if not methods:
            failed = "; ".join(f"{bag.name}: {bag.failed}" for bag in runs[0].bags if bag.failed)
            raise EvaluationError(f"no question was answered; {failed or 'there was none'}")
        return [Column(method, COLOURS[i], runs[0], folders[0], method) for i, method in enumerate(methods)]
    method = shared_method(runs)
    parts = zip(titles_of(runs), COLOURS, runs, folders, strict=False)
    return [Column(name, colour, run, folder, method) for name, colour, run, folder in parts]


def titles_of(runs: Sequence[Results]) -> list[str]:
    """By what two runs are told apart: their titles, where these differ."""
    first, second = (run.title for run in runs)
    return [first, second] if first != second else ["first run", "second run"]


def shared_method(runs: Sequence[Results]) -> str:
    """The first way of answering that two runs have in common.

    Raises:
        EvaluationError: there is none.
    """
    first, second = runs
    shared = [method for method in methods_of(first.records) if method in methods_of(second.records)]
    if not shared:
        raise EvaluationError(f"{first.title} and {second.title} answered in no common way")
    return shared[0]


def summary_of(column: Column) -> dict[str, Any]:
    """What the summary says of a column's method."""
    found: dict[str, Any] = column.results.summary["methods"][column.method]
    return found


def metric_rows(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """A row for each metric, a cell for each column."""
    return _rows([summary_of(column)["metrics"] for column in columns], columns)


def group_rows(columns: Sequence[Column], name: str) -> list[dict[str, Any]]:
    """Right answers by group: a row for each group, a cell for each column."""
    groups = [summary_of(column)["groups"][name] for column in columns]
    names = list(dict.fromkeys(group for column in groups for group in column))
    if name == "perception":
        names.sort(key=_PERCEPTION.index)
    found = [
        {
            "title": group,
            "cells": [
                _cell(column.get(group, {}).get("metrics", {}).get("accuracy"), columns[i].colour)
                for i, column in enumerate(groups)
            ],
        }
        for group in names
    ]
    return found if len(found) > 1 or name == "perception" else []


def _rows(metrics: Sequence[dict[str, Any]], columns: Sequence[Column]) -> list[dict[str, Any]]:
    return [
        {
            "title": info.title + ("" if info.more_is_better else " (less is better)"),
            "cells": [_cell(column.get(name), columns[i].colour, share=info.share) for i, column in enumerate(metrics)],
        }
        for name, info in METRICS.items()
        if any(name in column for column in metrics)
    ]


def _cell(found: dict[str, Any] | None, colour: str, share: bool = True) -> dict[str, Any] | None:
    if found is None:
        return None
    value, low, high = found["value"], found["low"], found["high"]
    interval = "" if low is None else f"{low:.3f} to {high:.3f}"
    bar = plots.interval_bar(value, low, high, colour) if share else ""
    return {"value": f"{value:.3f}", "interval": interval, "questions": found["questions"], "bar": bar}


def cost_rows(columns: Sequence[Column]) -> list[tuple[str, list[str]]]:
    """Latencies, tokens, key frames and energy: a row each, a cell for each column."""
    summaries = [summary_of(column) for column in columns]
    rows = [("questions", [str(s["questions"]) for s in summaries])]
    rows.append(("without an answer", [str(s["errors"]) for s in summaries]))
    for name, title in (
        ("first_token", "first token"),
        ("total", "whole answer"),
        ("waited", "waited"),
        ("frame", "work per frame"),
    ):
        found = [s["latency_s"][name] for s in summaries]
        if any(f and f["p99"] > 0 for f in found):
            cells = [" / ".join(_seconds(f[p]) for p in ("p50", "p90", "p99")) if f else "" for f in found]
            rows.append((f"{title}, median / 90 % / 99 %", cells))
    for name in ("visual", "prompt", "generated"):
        rows.append((f"{name} tokens per answer", [_number(s["tokens"][name]) for s in summaries]))
    for name, title in (
        ("key_frames_per_min", "key frames per minute"),
        ("frames_taken", "frames taken"),
        ("frames_dropped", "frames dropped"),
        ("joules_per_answer", "joules per answer"),
    ):
        if any(s[name] for s in summaries):
            # Ways of answering without a memory have no counters: nothing is said of them, not 0.
            cells = ["" if name.startswith("frames") and not s["frames_taken"] else _number(s[name]) for s in summaries]
            rows.append((title, cells))
    return rows


def comparisons(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Each column against the first."""
    found = []
    first = columns[0]
    for index, column in enumerate(columns[1:], start=1):
        compared = compare_records(first.results, first.method, column.results, column.method, first.results.seed)
        rows = [
            {
                "title": METRICS[name].title,
                "a": f"{values['a']:.3f}",
                "b": f"{values['b']:.3f}",
                "difference": f"{values['b'] - values['a']:+.3f}",
                "interval": "" if values["low"] is None else f"{values['low']:+.3f} to {values['high']:+.3f}",
            }
            for name, values in compared["metrics"].items()
        ]
        found.append(compared | {"index": index, "first": first, "column": column, "rows": rows})
    return found


def filters(cards: Sequence[Card], columns: Sequence[Column]) -> dict[str, list[tuple[str, str]]]:
    """Choices of each filter: value and words."""
    verdicts = []
    for index, column in enumerate(columns):
        of = f" in {column.name}" if len(columns) > 1 else ""
        verdicts += [(f"right-{index}", f"right{of}"), (f"wrong-{index}", f"wrong{of}")]
        if any(f"error-{index}" in card.tags.split() for card in cards):
            verdicts.append((f"error-{index}", f"no answer{of}"))
    if any(card.unasked for card in cards):
        verdicts.append(("unasked", "not asked"))
    for index, column in enumerate(columns[1:], start=1):
        verdicts += [
            (f"better-{index}", f"right only in {column.name}, not in {columns[0].name}"),
            (f"worse-{index}", f"right only in {columns[0].name}, not in {column.name}"),
        ]
    return {
        "bag": _choices(card.bag for card in cards),
        "camera": _choices(card.camera for card in cards),
        "kind": _choices(card.question.group for card in cards),
        "verdict": verdicts,
    }


def _choices(values: Any) -> list[tuple[str, str]]:
    return [(value, value) for value in sorted(set(values)) if value]


def _age_plot(columns: Sequence[Column]) -> Any:
    groups = [summary_of(column)["groups"]["age"] for column in columns]
    order = {name: position for position, name in enumerate(_AGE_ORDER)}
    names = sorted({name for column in groups for name in column if name in order}, key=lambda name: order[name])
    if not names:
        return None
    cells = {name: [column.get(name, {}).get("metrics", {}).get("accuracy", {}) for column in groups] for name in names}
    return plots.age_plot(cells, [column.name for column in columns])


_AGE_ORDER = ("0 to 2 s", "2 to 10 s", "10 to 30 s", "30 to 60 s", "over 60 s")


def _latency_plot(columns: Sequence[Column]) -> Any:
    answers = [[record for record in column.records.values() if record.error is None] for column in columns]
    first = [[record.first_token_s for record in records] for records in answers]
    total = [[record.total_s for record in records] for records in answers]
    return plots.latency_plot(first, total)


def _token_plot(columns: Sequence[Column]) -> Any:
    answers = [[record for record in column.records.values() if record.error is None] for column in columns]
    return plots.token_plot([[(r.visual_tokens, r.first_token_s - r.waited_s) for r in records] for records in answers])


def _seconds(value: float) -> str:
    return f"{value:.3f} s" if value < 10 else f"{value:.1f} s"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}".removesuffix(".0")
