"""Terminal output of `penguin-vl evaluate`: progress, scores and comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from penguin_ros.cli.output import print_json, print_note, stderr, stdout

if TYPE_CHECKING:
    from penguin_ros.evaluation.results import Results


class ProgressBar(Progress):
    """A progress bar with one task on standard error, if that is a terminal."""

    def __init__(self, show: bool):
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        super().__init__(*columns, console=stderr, disable=not show or not stderr.is_terminal)
        self._task = self.add_task("", total=None)

    def set_total(self, total: int, done: int = 0) -> None:
        """Sets the total, and how much of it is done already."""
        self.update(self._task, total=total, completed=done)

    def add(self, count: int = 1) -> None:
        """Adds to what is done."""
        self.advance(self._task, count)


def print_results(results: Results, file: Path, page: Path, as_json: bool) -> None:
    """Prints the scores of a run, and where its files are."""
    failed = {item.name: item.failed for item in results.bags if item.failed}
    notes = _notes(results)
    for note in notes:
        print_note(note)
    if as_json:
        summary = {"summary": results.summary, "notes": notes, "problems": results.problems}
        print_json({"results": str(file), "report": str(page), "failed": failed, **summary})
        return
    methods = results.summary["methods"]
    table = Table("score", *methods, box=None)
    for row in _score_rows(methods):
        table.add_row(*row)
    stdout.print(table)
    for method, summary in methods.items():
        first, total = summary["latency_s"]["first_token"], summary["latency_s"]["total"]
        errors = f", {summary['errors']} without an answer" if summary["errors"] else ""
        times = f"; median {first['p50']:.3f} s to the first token, {total['p50']:.3f} s in total" if first else ""
        joules = summary["joules_per_answer"]
        energy = "" if joules is None else f"; {joules:.3g} J per answer"
        stdout.out(f"{method}: {summary['questions']} questions{errors}{times}{energy}")
    for comparison in results.summary["comparisons"]:
        print_comparison(comparison, comparison["a"], comparison["b"])
    if results.summary["not_asked"]:
        stdout.out(f"{results.summary['not_asked']} of {len(results.questions)} questions were not asked")
    stdout.out(f"results: {file}\npage: {page}")
    for name, reason in failed.items():
        stderr.out(f"error: bag {name} could not be evaluated: {reason}")
    for problem in results.problems:
        stderr.out(f"error: {problem}")


def _notes(results: Results) -> list[str]:
    """Returns what is unusual about the bags: their times, and images that could not be decoded."""
    bad = {
        (line.bag, line.camera): f"{line.bad} of {line.images} images cannot be decoded; the last: {line.last_error}"
        for line in results.timelines
        if line.bad
    }
    return [*(f"bag {bag.name}: {note}" for bag in results.bags for note in bag.notes), *bad.values()]


def print_comparison(comparison: dict[str, Any], name_a: str, name_b: str) -> None:
    """Prints how many answers of two runs or methods are right, and which questions differ."""
    accuracy = comparison["metrics"]["accuracy"]
    a, b, low, high = (accuracy[key] for key in ("a", "b", "low", "high"))
    interval = "" if low is None else f" ({low:+.3f} to {high:+.3f})"
    stdout.out(
        f"{name_b} against {name_a}: right answers {a:.3f} -> {b:.3f}, {b - a:+.3f}{interval} "
        f"on {comparison['questions']} questions"
    )
    for name, flipped in ((name_b, comparison["better"]), (name_a, comparison["worse"])):
        stdout.out(f"  right only in {name}: {len(flipped)}{': ' if flipped else ''}{', '.join(flipped)}")


def markdown_scores(results: Results) -> str:
    """Returns scores and latencies as a Markdown table with a column for each method."""
    methods = results.summary["methods"]
    rows = [["score", *methods], ["---"] * (len(methods) + 1), *_score_rows(methods)]
    for name, title in (("first_token", "first token, median"), ("total", "whole answer, median")):
        latencies = [summary["latency_s"][name] for summary in methods.values()]
        rows.append([title, *(f"{latency['p50']:.3f} s" if latency else "" for latency in latencies)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _score_rows(methods: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    """Yields a row for each score: its title, and for each method value, 95 % interval and number of questions."""
    from penguin_ros.evaluation.metrics.scoring import METRICS

    for name, info in METRICS.items():
        scores = [summary["metrics"].get(name) for summary in methods.values()]
        if any(scores):
            yield [info.title, *map(_format_score, scores)]


def _format_score(score: dict[str, Any] | None) -> str:
    if score is None:
        return ""
    interval = "" if score["low"] is None else f" ({score['low']:.3f} to {score['high']:.3f})"
    return f"{score['value']:.3f}{interval} n={score['questions']}"
