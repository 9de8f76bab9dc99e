"""Summary of a run: scores with intervals in total and by group, latencies, tokens, keyframes and energy, and how
methods differ on the same questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from penguin_models.errors import EvaluationError
from penguin_ros.evaluation.metrics.scoring import METRICS
from penguin_ros.evaluation.metrics.statistics import intervals, paired_differences, percentiles, ratio, sign_test
from penguin_ros.evaluation.records import Timeline
from penguin_ros.evaluation.results import Results, ScoredRecord

_AGE_BOUNDS_S = (2.0, 10.0, 30.0, 60.0)
"""Upper bounds of the groups by age of the needed evidence."""
AGE_GROUPS = ("0 to 2 s", "2 to 10 s", "10 to 30 s", "30 to 60 s", "over 60 s")
NOT_STATED = "not stated"


def summarise(results: Results) -> dict[str, Any]:
    """Returns the scores of each method, comparisons of the first method with the others, and the unasked questions."""
    kinds = {question.id: question.group for question in results.questions}
    answered = {record.question for record in results.records}
    first, *others = results.methods or [""]
    return {
        "methods": {method: _method(results, method, kinds) for method in results.methods},
        "comparisons": [compare_records(results, first, results, other, results.seed) for other in others],
        "not_asked": sum(question.id not in answered for question in results.questions),
    }


def _method(results: Results, method: str, kinds: dict[str, str]) -> dict[str, Any]:
    records = list(results.by_question(method).values())
    timelines = [timeline for timeline in results.timelines if timeline.method == method]
    answered = [record for record in records if record.error is None]
    groups: dict[str, Callable[[ScoredRecord], str]] = {
        "perception": lambda record: perception(record.age_s, results.recent_s),
        "age": lambda record: age_group(record.age_s),
        "kind": lambda record: kinds[record.question],
        "bag": lambda record: record.bag,
        "camera": lambda record: record.frame.camera if record.frame else "none",
    }
    return {
        "questions": len(records),
        "errors": len(records) - len(answered),
        "metrics": metrics(records, results.seed),
        "groups": {name: _grouped(records, key, results.seed) for name, key in groups.items()},
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
        "keyframes_per_min": _keyframes_per_min(timelines),
        "frames_taken": sum(len(timeline.time_s) for timeline in timelines),
        "frames_dropped": sum(timeline.dropped for timeline in timelines),
        "joules_per_answer": _mean([record.joules for record in answered if record.joules is not None]),
    }


def metrics(records: Sequence[ScoredRecord], seed: int) -> dict[str, Any]:
    """Returns each metric that applies to some record: value, 95 % interval, and the number of questions it covers."""
    names = _metric_names(records)
    columns = [[record.part(name) for record in records] for name in names]
    bounds_of = intervals(columns, seed, [METRICS[name].share for name in names])
    found = {}
    for name, parts, bounds in zip(names, columns, bounds_of, strict=True):
        value = ratio(parts)
        if value is not None:
            low, high = bounds or (None, None)
            questions = sum(part.denominator > 0 for part in parts)
            found[name] = {"value": value, "low": low, "high": high, "questions": questions}
    return found


def perception(age_s: float | None, recent_s: float) -> str:
    """Returns "recent" or "recall" by the age of the needed evidence."""
    if age_s is None:
        return NOT_STATED
    return "recent" if age_s <= recent_s else "recall"


def age_group(age_s: float | None) -> str:
    """Returns the group of an age; an upper bound belongs to its group."""
    return NOT_STATED if age_s is None else AGE_GROUPS[int(np.searchsorted(_AGE_BOUNDS_S, age_s))]


def compare_records(a: Results, method_a: str, b: Results, method_b: str, seed: int = 0) -> dict[str, Any]:
    """Compares two methods, of one run or of two, on the questions that both answered.

    Returns both scores and the paired difference of each metric; the questions whose verdict changed; and `chance`, the
    probability of changes at least this uneven if both were equally good.

    Raises EvaluationError if they share no question, or a question differs or was asked about another bag.
    """
    records_a, records_b = a.by_question(method_a), b.by_question(method_b)
    shared = [question for question in records_a if question in records_b]
    if not shared:
        raise EvaluationError(f"{method_a} of {a.title} and {method_b} of {b.title} have no question in common")
    _check_same_questions(a, b, shared)
    for name in shared:
        bag_a, bag_b = records_a[name].bag, records_b[name].bag
        if bag_a != bag_b:
            where = f"bag {bag_a} in {a.title} and about bag {bag_b} in {b.title}"
            raise EvaluationError(f"question {name} was asked about {where}; compare runs on the same bags")
    better = [q for q in shared if records_b[q].correct and not records_a[q].correct]
    worse = [q for q in shared if records_a[q].correct and not records_b[q].correct]
    return {
        "a": method_a,
        "b": method_b,
        "questions": len(shared),
        "only_a": len(records_a) - len(shared),
        "only_b": len(records_b) - len(shared),
        "metrics": _differences([records_a[q] for q in shared], [records_b[q] for q in shared], seed),
        "better": better,
        "worse": worse,
        "chance": sign_test(len(better), len(worse)),
    }


def _differences(a: Sequence[ScoredRecord], b: Sequence[ScoredRecord], seed: int) -> dict[str, Any]:
    names = _metric_names([*a, *b])
    parts_a, parts_b = ([[record.part(name) for record in records] for name in names] for records in (a, b))
    found = zip(names, paired_differences(parts_a, parts_b, seed), strict=True)
    return {name: asdict(difference) for name, difference in found if difference is not None}


def _metric_names(records: Sequence[ScoredRecord]) -> list[str]:
    present = {name for record in records for name in record.scores}
    return [name for name in METRICS if name in present]


def _check_same_questions(a: Results, b: Results, shared: Iterable[str]) -> None:
    questions_a = {question.id: question for question in a.questions}
    questions_b = {question.id: question for question in b.questions}
    for name in shared:
        if questions_a[name] != questions_b[name]:
            raise EvaluationError(
                f"question {name} differs between {a.title} ({questions_a[name].question!r}) and {b.title} "
                f"({questions_b[name].question!r}) in its text or expected result; compare runs on the same questions"
            )


def _grouped(records: Sequence[ScoredRecord], key: Callable[[ScoredRecord], str], seed: int) -> dict[str, Any]:
    by_key: dict[str, list[ScoredRecord]] = {}
    for record in records:
        by_key.setdefault(key(record), []).append(record)
    return {name: {"questions": len(group), "metrics": metrics(group, seed)} for name, group in by_key.items()}


def _keyframes_per_min(timelines: Sequence[Timeline]) -> float | None:
    minutes = sum(timeline.time_s[-1] - timeline.time_s[0] for timeline in timelines if timeline.time_s) / 60
    return sum(timeline.kind.count(0) for timeline in timelines) / minutes if minutes else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
