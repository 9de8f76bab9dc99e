"""Writes results as one HTML page with style, script, plots and frames in it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, UndefinedError
from markupsafe import Markup

from penguin_models.atomic_write import atomic_write
from penguin_models.errors import EvaluationError
from penguin_ros.evaluation.metrics.scoring import METRICS
from penguin_ros.evaluation.question_file import first_ten
from penguin_ros.evaluation.records import Timeline
from penguin_ros.evaluation.report import plots
from penguin_ros.evaluation.report.cards import Card, CardMaker, Column, anchor
from penguin_ros.evaluation.results import Results
from penguin_ros.evaluation.summary import NOT_STATED, compare_records

_PERCEPTION = ("recent", "recall", NOT_STATED)


def write_report(path: Path, runs: Sequence[Results], folders: Sequence[Path]) -> Path:
    """Writes the page of one run, or of an earlier and a later run that are compared, and returns its path.

    Frames are read from the folders of the runs.

    Raises:
        EvaluationError: The runs cannot be compared, or results contradict themselves, as after editing by hand.
        WriteError: The page cannot be written.
    """
    try:
        html = render(runs, folders)
    except EvaluationError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, UndefinedError) as err:
        names = " or ".join(map(str, folders))
        raise EvaluationError(f"results in {names} contradict themselves ({err}); run the evaluation again") from err
    with atomic_write(path) as file:
        file.write(html)
    return path


def render(runs: Sequence[Results], folders: Sequence[Path]) -> str:
    """Returns the page as text; see `write_report`."""
    columns = make_columns(runs, folders)
    maker = CardMaker(columns)
    cards = maker.cards()
    files = resources.files("penguin_ros.evaluation.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files / "page.html").read_text(encoding="utf-8"))
    return template.render(
        title=" against ".join(run.title for run in reversed(runs)),
        style=Markup((files / "page.css").read_text(encoding="utf-8")),
        script=Markup((files / "page.js").read_text(encoding="utf-8")),
        anchor=anchor,
        first_ten=first_ten,
        runs=runs,
        columns=columns,
        metrics=METRICS,
        shown_metrics=[name for name in METRICS if any(name in column.summary["metrics"] for column in columns)],
        groups={name: _groups(columns, name) for name in ("perception", "kind", "bag", "camera")},
        costs=_cost_rows(columns),
        comparisons=_comparisons(columns),
        age_plot=plots.age_plot(columns),
        latency_plot=plots.latency_plot(columns),
        token_plot=plots.token_plot(columns),
        memories=_memories(columns),
        cards=cards,
        images=list(maker.images.values()),
        filters=_filters(cards, columns),
    )


def make_columns(runs: Sequence[Results], folders: Sequence[Path]) -> list[Column]:
    """Returns the methods of one run, or the first shared method of two; raises EvaluationError if there is none."""
    if len(runs) == 1:
        if not runs[0].methods:
            failed = "; ".join(f"{bag.name}: {bag.failed}" for bag in runs[0].bags if bag.failed)
            raise EvaluationError(f"no question was answered; {failed or 'there was none'}")
        parts = zip(runs[0].methods, plots.COLOURS, strict=False)
        return [Column(method, colour, runs[0], folders[0], method) for method, colour in parts]
    method = shared_method(runs)
    compared = zip(titles_of(runs), plots.COLOURS, runs, folders, strict=False)
    return [Column(name, colour, run, folder, method) for name, colour, run, folder in compared]


def titles_of(runs: Sequence[Results]) -> list[str]:
    """Returns names that distinguish two runs: their titles if these differ."""
    first, second = (run.title for run in runs)
    return [first, second] if first != second else ["first run", "second run"]


def shared_method(runs: Sequence[Results]) -> str:
    """Returns the first method that two runs share; raises EvaluationError if they share none."""
    first, second = runs
    shared = [method for method in first.methods if method in second.methods]
    if not shared:
        raise EvaluationError(f"{first.title} and {second.title} share no method of answering")
    return shared[0]


def _groups(columns: Sequence[Column], kind: str) -> list[str]:
    """Returns the groups of a kind; a single group says nothing and is left out."""
    names = list(dict.fromkeys(name for column in columns for name in column.summary["groups"][kind]))
    if kind == "perception":
        return sorted(names, key=_PERCEPTION.index)
    return names if len(names) > 1 else []


def _cost_rows(columns: Sequence[Column]) -> list[tuple[str, list[str]]]:
    """Returns the title and the cells of each row of latencies, tokens, keyframes and energy."""
    summaries = [column.summary for column in columns]
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
        ("keyframes_per_min", "keyframes per minute"),
        ("frames_taken", "frames processed"),
        ("frames_dropped", "frames dropped"),
        ("joules_per_answer", "joules per answer"),
    ):
        if any(s[name] for s in summaries):
            # Methods without a memory count no frames: their cells are empty instead of 0.
            cells = ["" if name.startswith("frames") and not s["frames_taken"] else _number(s[name]) for s in summaries]
            rows.append((title, cells))
    return rows


def _comparisons(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """Compares each column with the first."""
    first, *others = columns
    return [
        {"column": other}
        | compare_records(first.results, first.method, other.results, other.method, first.results.seed)
        for other in others
    ]


def _memories(columns: Sequence[Column]) -> list[dict[str, Any]]:
    return [
        {"timeline": timeline, "column": column, "plot": plots.memory_plot(timeline, column), "facts": _facts(timeline)}
        for column in columns
        for timeline in column.results.timelines
        if timeline.method == column.method and timeline.time_s
    ]


def _facts(timeline: Timeline) -> str:
    parts = [
        f"{timeline.images} images, {len(timeline.time_s)} frames processed, {timeline.kind.count(0)} keyframes",
        f"{sum(timeline.shrunk)} shrunk, {sum(timeline.left)} removed, {timeline.frames[-1]} in memory at the end",
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


def _filters(cards: Sequence[Card], columns: Sequence[Column]) -> dict[str, list[tuple[str, str]]]:
    """Returns the choices of each filter as (value, text)."""
    verdicts = []
    for index, column in enumerate(columns):
        where = f" in {column.name}" if len(columns) > 1 else ""
        verdicts += [(f"right-{index}", f"right{where}"), (f"wrong-{index}", f"wrong{where}")]
        if any(f"error-{index}" in card.tags for card in cards):
            verdicts.append((f"error-{index}", f"no answer{where}"))
    if any(card.unasked for card in cards):
        verdicts.append(("unasked", "not asked"))
    for index, column in enumerate(columns[1:], start=1):
        verdicts += [
            (f"better-{index}", f"right only in {column.name}, not in {columns[0].name}"),
            (f"worse-{index}", f"right only in {columns[0].name}, not in {column.name}"),
        ]
    return {
        "bag": [(name, name) for name in sorted({card.bag for card in cards} - {""})],
        "camera": [(name, name) for name in sorted({card.camera for card in cards} - {""})],
        "kind": [(name, name) for name in sorted({card.question.group for card in cards} - {""})],
        "verdict": verdicts,
    }


def _seconds(value: float) -> str:
    return f"{value:.3f} s" if value < 10 else f"{value:.1f} s"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}".removesuffix(".0")
