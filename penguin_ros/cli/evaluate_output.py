"""How `penguin-vl evaluate` speaks: progress, scores, comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from penguin_ros.cli.output import print_json, stderr, stdout


class Bar:
    """Progress on a terminal: answers made of those wanted."""

    def __init__(self, show: bool):
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=stderr, disable=not show or not stderr.is_terminal)
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, total: int, done: int) -> None:
        """Begins to count."""
        self._progress.update(self._task, total=total, completed=done)

    def advance(self, count: int) -> None:
        """So many more are done."""
        self._progress.advance(self._task, count)


def print_results(results: Any, file: Path, page: Path, as_json: bool) -> None:
    """What a run amounts to, and where its results are."""
    failed = {item.name: item.failed for item in results.bags if item.failed}
    if as_json:
        paths = {"results": str(file), "report": str(page)}
        print_json({**paths, "failed": failed, "summary": results.summary})
        return
    methods = results.summary["methods"]
    _print_scores({method: summary["metrics"] for method, summary in methods.items()})
    for method, summary in methods.items():
        first, total = summary["latency_s"]["first_token"], summary["latency_s"]["total"]
        errors = f", {summary['errors']} without an answer" if summary["errors"] else ""
        times = f"; median {first['p50']:.3f} s to the first token, {total['p50']:.3f} s in all" if first else ""
        joules = summary["joules_per_answer"]
        energy = "" if joules is None else f"; {joules:.3g} J an answer"
        stdout.out(f"{method}: {summary['questions']} questions{errors}{times}{energy}")
    for comparison in results.summary["comparisons"]:
        print_comparison(comparison, comparison["a"], comparison["b"])
    if results.summary["not_asked"]:
        stdout.out(f"{results.summary['not_asked']} of {len(results.questions)} questions were not asked")
    stdout.out(f"results: {file}\npage: {page}")
    for name, reason in failed.items():
        stderr.out(f"error: bag {name} could not be evaluated: {reason}")


def markdown_scores(results: Any) -> str:
    """Scores and times to an answer as a table for a README, a column for each way of answering."""
    methods = results.summary["methods"]
    rows = [*_score_rows({method: summary["metrics"] for method, summary in methods.items()})]
    for name, title in (("first_token", "first token, median"), ("total", "whole answer, median")):
        found = [summary["latency_s"][name] for summary in methods.values()]
        rows.append([title, *(f"{times['p50']:.3f} s" if times else "" for times in found)])
    lines = [["score", *methods], ["---"] * (len(methods) + 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _print_scores(columns: dict[str, dict[str, Any]]) -> None:
    table = Table("score", *columns, box=None)
    for row in _score_rows(columns):
        table.add_row(*row)
    stdout.print(table)


def _score_rows(columns: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    """A row for each score with its 95 % interval and the questions that count, a cell for each way of answering."""
    from penguin_ros.evaluation.metrics.scoring import METRICS

    for name, info in METRICS.items():
        found = [column.get(name) for column in columns.values()]
        if any(found):
            yield [info.title, *(_score(value) for value in found)]


def _score(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    interval = "" if found["low"] is None else f" ({found['low']:.3f} to {found['high']:.3f})"
    return f"{found['value']:.3f}{interval} n={found['questions']}"


def print_comparison(comparison: dict[str, Any], name_a: str, name_b: str) -> None:
    """How two ways of answering differ on right answers, and where."""
    found = comparison["metrics"]["accuracy"]
    interval = "" if found["low"] is None else f" ({found['low']:+.3f} to {found['high']:+.3f})"
    stdout.out(
        f"{name_b} against {name_a}: right answers {found['a']:.3f} -> {found['b']:.3f}, "
        f"{found['b'] - found['a']:+.3f}{interval} on {comparison['questions']} questions"
    )
    for name, flipped in ((name_b, comparison["better"]), (name_a, comparison["worse"])):
        stdout.out(f"  right only in {name}: {len(flipped)}{': ' if flipped else ''}{', '.join(flipped)}")
