"""Scores of replies by method and age, their differences, and what answers cost.

A score is the share of right answers; a time range is right at a temporal IoU of 0.5. Intervals are 95 %, bootstrap
over recordings, because answers about one recording are correlated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from penguin_ros.evaluation.metrics.statistics import Ratio, intervals, paired_differences, ratio
from penguin_ros.evaluation.recall.compared import DIFFERENCES, GUESSES, METHODS, SHOWN
from penguin_ros.evaluation.recall.questions import BANDS
from penguin_ros.evaluation.recall.run import RecallRun, Reply

Replies = Sequence[Sequence[Reply]]
"""Replies about each recording."""
_Table = dict[str, dict[str, dict[str, Any]]]


def summarise(replies: Replies, run: RecallRun) -> dict[str, Any]:
    """Returns everything that `evaluate recall --json` prints: plain types by name."""
    by_band = _scores(replies, lambda reply: reply.band, BANDS)
    first_token_s = _costs(replies, lambda reply: reply.first_token_s if reply.alone else None, median)
    tasks = sorted({reply.task for answers in replies for reply in answers})
    return {
        "scores": _only(by_band, METHODS),
        "shown": by_band.get(SHOWN, {}),
        "guesses": _only(by_band, GUESSES),
        "differences": _differences(replies),
        "when_r0.5": _scores(replies, lambda reply: reply.band if reply.task == "when" else None, BANDS),
        "tasks": _scores(replies, lambda reply: reply.task, tasks),
        "visual_tokens": _costs(replies, lambda reply: reply.visual_tokens, fmean),
        "first_token_s": {method: first_token_s[method] for method in METHODS if method in first_token_s},
        "first_token_ratio": {"episodes / memory": _ratios(replies, "episodes", "memory")},
        "settings": {
            "seed": run.seed,
            "lengths_s": list(run.lengths_s),
            "recordings": run.recordings,
            "questions_per_band": run.per_band,
            "token_budget": run.token_budget,
        },
    }


def _only(table: _Table, methods: Mapping[str, object]) -> _Table:
    return {method: table[method] for method in methods if method in table}


def _scores(replies: Replies, group_of: Callable[[Reply], str | None], groups: Sequence[str]) -> _Table:
    """Returns the scores of each method in each group that has answers."""
    columns = _columns(replies, group_of, groups)
    table: _Table = {}
    for ((method, group), column), interval in zip(columns.items(), intervals(list(columns.values())), strict=True):
        low, high = interval or (None, None)
        count = int(sum(part.denominator for part in column))
        table.setdefault(method, {})[group] = {"value": ratio(column), "low": low, "high": high, "answers": count}
    return table


def _differences(replies: Replies) -> _Table:
    """Returns the first score minus the second of pairs of methods in each band."""
    columns = _columns(replies, lambda reply: reply.band, BANDS)
    table: _Table = {}
    for first, second in DIFFERENCES:
        bands = [band for band in BANDS if (first, band) in columns and (second, band) in columns]
        found = paired_differences([columns[second, b] for b in bands], [columns[first, b] for b in bands])
        for band, difference in zip(bands, found, strict=True):
            assert difference is not None
            values = {"value": difference.b - difference.a, "low": difference.low, "high": difference.high}
            table.setdefault(f"{first} - {second}", {})[band] = values | {"recordings": difference.questions}
    return table


def _columns(
    replies: Replies, group_of: Callable[[Reply], str | None], groups: Sequence[str]
) -> dict[tuple[str, str], list[Ratio]]:
    """Returns right answers and answers about each recording, of each method and group that has any."""
    counts: dict[tuple[str, str], list[list[int]]] = {}
    for row, answers in enumerate(replies):
        for reply in answers:
            if (group := group_of(reply)) is not None:
                column = counts.setdefault((reply.method, group), [[0, 0] for _ in replies])
                column[row][0] += reply.right
                column[row][1] += 1
    order = sorted(counts, key=lambda key: groups.index(key[1]))
    return {key: [Ratio(*part) for part in counts[key]] for key in order}


def _costs(
    replies: Replies, cost_of: Callable[[Reply], float | None], average: Callable[[Sequence[float]], float]
) -> dict[str, float]:
    costs: dict[str, list[float]] = {}
    for answers in replies:
        for reply in answers:
            if (cost := cost_of(reply)) is not None:
                costs.setdefault(reply.method, []).append(cost)
    return {method: round(average(values), 4) for method, values in costs.items()}


def _ratios(replies: Replies, above: str, below: str) -> dict[str, float]:
    """Returns what the first token of one method costs in units of another's: median over recordings of a length."""
    found: dict[str, list[float]] = {}
    for answers in replies:
        first_s = {reply.method: reply.first_token_s for reply in answers if reply.alone}
        if above in first_s and first_s.get(below):
            found.setdefault(answers[0].recording.rpartition("-")[0], []).append(first_s[above] / first_s[below])
    return {length: round(median(values), 3) for length, values in found.items()}
