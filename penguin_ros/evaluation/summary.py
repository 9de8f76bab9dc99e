"""What a run amounts to: scores with intervals, as a whole and by group; latencies, tokens, key frames, energy; and how
two ways of answering differ on the same questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from penguin_models.errors import EvaluationError
from penguin_ros.evaluation.metrics.scoring import METRICS
from penguin_ros.evaluation.metrics.statistics import intervals, paired_differences, percentiles, ratio, sign_test
from penguin_ros.evaluation.results import BagTimeline, Results, ScoredRecord, methods_of, records_of, unanswered

AGES_S = (2.0, 10.0, 30.0, 60.0)
"""Bounds of the groups by age of the needed evidence."""


def summarise(results: Results) -> dict[str, Any]:
    """Scores of each method, the comparison of the first with the others, and how many questions were not asked."""
    methods = methods_of(results.records)
    kinds = {question.id: question.group for question in results.questions}
    summary: dict[str, Any] = {"methods": {}, "comparisons": [], "not_asked": len(unanswered(results))}
    for method in methods:
        records = list(records_of(results, method).values())
        timelines = [timeline for timeline in results.timelines if timeline.method == method]
        summary["methods"][method] = _method(records, timelines, kinds, results.recent_s, results.seed)
    for method in methods[1:]:
        summary["comparisons"].append(compare_records(results, methods[0], results, method, results.seed))
    return summary


def _method(
    records: Sequence[ScoredRecord],
    timelines: Sequence[BagTimeline],
    kinds: dict[str, str],
    recent_s: float,
    seed: int,
) -> dict[str, Any]:
    answered = [record for record in records if record.error is None]
    joules = [record.joules for record in answered if record.joules is not None]
    groups: dict[str, Callable[[ScoredRecord], str]] = {
        "perception": lambda record: perception(record.age_s, recent_s),
        "age": lambda record: age_group(record.age_s),
        "kind": lambda record: kinds[record.question],
        "bag": lambda record: record.bag,
        "camera": lambda record: record.frame.camera if record.frame else "none",
    }
    return {
        "questions": len(records),
        "errors": len(records) - len(answered),
        "metrics": metrics(records, seed),
        "groups": {name: _grouped(records, key, seed) for name, key in groups.items()},
        "latency_s": {
            "first_token": percentiles([record.first_token_s for record in answered]),
            "total": percentiles([record.total_s for record in answered]),
            "waited": percentiles([record.waited_s for record in answered]),
            "frame": percentiles([s for timeline in timelines for s in timeline.seconds]),
        },
        "tokens": {
            "visual": _mean([record.visual_tokens for record in answered]),
            "prompt": _mean([record.prompt_tokens for record in answered]),
            "generated": _mean([record.generated_tokens for record in answered]),
        },
        "key_frames_per_min": _key_frames_per_min(timelines),
        "frames_taken": sum(len(timeline.time_s) for timeline in timelines),
        "frames_dropped": sum(timeline.dropped for timeline in timelines),
        "joules_per_answer": _mean(joules),
    }


def metrics(records: Sequence[ScoredRecord], seed: int) -> dict[str, Any]:
    """Every metric that counts for some of the records: value, 95 % interval, and how many questions it is from."""
    present = {name for record in records for name in record.scores}
    columns = {name: [record.part(name) for record in records] for name in METRICS if name in present}
    found = {}
    bounds_of = intervals([*columns.values()], seed, [METRICS[name].share for name in columns])
    for (name, parts), bounds in zip(columns.items(), bounds_of, strict=True):
        value = ratio(parts)
        if value is not None:
            low, high = bounds or (None, None)
            count = sum(part.denominator > 0 for part in parts)
            found[name] = {"value": value, "low": low, "high": high, "questions": count}
    return found


def perception(age_s: float | None, recent_s: float) -> str:
    """ "recent" perception or "recall", by the age of the needed evidence."""
    if age_s is None:
        return "not stated"
    return "recent" if age_s <= recent_s else "recall"


def age_group(age_s: float | None) -> str:
    """The span of ages that an age belongs to."""
    if age_s is None:
        return "not stated"
    bounds = [0.0, *AGES_S]
    index = int(np.searchsorted(AGES_S, age_s))  # a bound belongs to the span below it
    if index == len(AGES_S):
        return f"over {AGES_S[-1]:.0f} s"
    return f"{bounds[index]:.0f} to {AGES_S[index]:.0f} s"


def compare_records(a: Results, method_a: str, b: Results, method_b: str, seed: int = 0) -> dict[str, Any]:
    """Compares two ways of answering, of one run or of two, on the questions that both answered.

    Returns:
        For each metric the two scores and the paired difference; questions that flipped; the chance of such flips if
        both were equally good.

    Raises:
        EvaluationError: they have no question in common, or a question of the same id was another one or was asked
            about another bag.
    """
    records_a, records_b = records_of(a, method_a), records_of(b, method_b)
    shared = [question for question in records_a if question in records_b]
    if not shared:
        raise EvaluationError(f"{method_a} of {a.title} and {method_b} of {b.title} have no question in common")
    _check_same(a, b, shared)
    for question in shared:
        bag_a, bag_b = records_a[question].bag, records_b[question].bag
        if bag_a != bag_b:
            raise EvaluationError(
                f"question {question} was asked about bag {bag_a} in {a.title} and about bag {bag_b} in {b.title}; "
                "compare runs on the same bags"
            )
    better = [q for q in shared if records_b[q].correct and not records_a[q].correct]
    worse = [q for q in shared if records_a[q].correct and not records_b[q].correct]
    return {
        "a": method_a,
        "b": method_b,
        "questions": len(shared),
        "only_a": len(records_a) - len(shared),
        "only_b": len(records_b) - len(shared),
        "metrics": _differences([(records_a[q], records_b[q]) for q in shared], seed),
        "better": better,
        "worse": worse,
        "chance": sign_test(len(better), len(worse)),
    }


def _differences(pairs: Sequence[tuple[ScoredRecord, ScoredRecord]], seed: int) -> dict[str, Any]:
    present = {name for pair in pairs for record in pair for name in record.scores}
    names = [name for name in METRICS if name in present]
    first = [[a.part(name) for a, _ in pairs] for name in names]
    second = [[b.part(name) for _, b in pairs] for name in names]
    found = zip(names, paired_differences(first, second, seed), strict=True)
    return {name: asdict(difference) for name, difference in found if difference is not None}


def _check_same(a: Results, b: Results, shared: Iterable[str]) -> None:
    asked_a = {question.id: question for question in a.questions}
    asked_b = {question.id: question for question in b.questions}
    for question in shared:
        if asked_a[question] != asked_b[question]:
            raise EvaluationError(
                f"question {question} is not the same in {a.title} and {b.title}: {asked_a[question].question!r} and "
                f"{asked_b[question].question!r}, or what was expected differs; compare runs on the same questions"
            )


def _grouped(records: Sequence[ScoredRecord], key: Callable[[ScoredRecord], str], seed: int) -> dict[str, Any]:
    by_key: dict[str, list[ScoredRecord]] = {}
    for record in records:
        by_key.setdefault(key(record), []).append(record)
    return {name: {"questions": len(group), "metrics": metrics(group, seed)} for name, group in by_key.items()}


def _key_frames_per_min(timelines: Sequence[BagTimeline]) -> float | None:
    minutes = sum(timeline.time_s[-1] - timeline.time_s[0] for timeline in timelines if timeline.time_s) / 60
    return sum(timeline.kind.count(0) for timeline in timelines) / minutes if minutes else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
