"""`penguin-vl evaluate bags`, as a function: bags and questions in, results on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

from penguin_engine.bench.energy import EnergyMeter
from penguin_engine.bench.machine import machine_facts
from penguin_engine.runtimes.base import Runtime
from penguin_models.checkpoint import resolve_checkpoint
from penguin_models.errors import EvaluationError
from penguin_models.processor import Processor
from penguin_ros.evaluation.bags.jobs import JournalledJob, load_model, run_in_processes, run_in_turn
from penguin_ros.evaluation.bags.plan import Plan, make_plan
from penguin_ros.evaluation.bags.recording import bag_name
from penguin_ros.evaluation.bags.replay import BagJob, truth_at
from penguin_ros.evaluation.journal import Journal, Progress, check_folder, run_key
from penguin_ros.evaluation.question_file import Question
from penguin_ros.evaluation.records import AnswerRecord, ModelSpec, RunSettings, question_key
from penguin_ros.evaluation.results import (
    BagInfo,
    BagTimeline,
    ModelInfo,
    Results,
    ScoredRecord,
    checkpoint_hash,
    save_results,
    score_record,
)
from penguin_ros.evaluation.summary import summarise


@dataclass(frozen=True)
class RunOptions:
    """How a run is done; answers do not depend on it.

    Attributes:
        out: folder of the results.
        title: for the report.
        jobs: processes.
        ray: address of a Ray cluster, "local" for one on this machine; None for no Ray.
        ray_gpus: that each bag gets.
        overwrite: discard the answers of an earlier run in the same folder.
        recent_s: evidence at most this old counts as recent perception.
        seed: of the intervals.
    """

    out: Path
    title: str = ""
    jobs: int = 1
    ray: str | None = None
    ray_gpus: float = 0.0
    overwrite: bool = False
    recent_s: float = 2.0
    seed: int = 0


def run_bags(
    bags: Sequence[Path],
    questions: Sequence[Question],
    model: ModelSpec,
    settings: RunSettings,
    options: RunOptions,
    on_start: Callable[[int, int], None] = lambda total, done: None,
    on_progress: Callable[[int], None] = lambda count: None,
    loaded: tuple[Runtime, Processor] | None = None,
) -> Results:
    """Evaluates a model on bags, resuming what an earlier run in the same folder left.

    Args:
        bags: folders or files.
        questions: about them.
        model: what answers.
        settings: what answers depend on.
        options: how the run is done.
        on_start: called with the number of answers to make and of those that are there already.
        on_progress: called with the number of answers that have been made since.
        loaded: the model, where it is loaded already; only without processes and Ray.

    Returns:
        What is also in the folder. Bags that failed are named in it; their finished answers are kept.

    Raises:
        PenguinError: questions do not fit the bags, the model cannot be loaded, the folder holds another run, or
            nothing was answered; earlier results stay as they are.
    """
    settings = settings.model_copy(update={"methods": list(dict.fromkeys(settings.methods))})
    if "realtime" in settings.methods and (options.jobs > 1 or options.ray is not None):
        raise EvaluationError("method realtime measures this machine and needs it alone: leave out --jobs and --ray")
    check_folder(options.out)
    plan = make_plan(bags, questions)
    info = describe_model(model, loaded)
    jobs, kept = _resume(plan, info, model, settings, options)
    total = sum(len(item.job.wanted()) for item in jobs)
    on_start(total, sum(len(item.job.done) for item in jobs))
    failed = plan.failed | _run(jobs, options, on_progress, loaded)
    answers = [_of_bag(item, settings) for item in jobs]
    answers += [_of_failed_bag(name, questions, settings, progress) for name, progress in kept.items()]
    results = _results(answers, _bags(plan, failed, bags), info, settings, options, questions)
    if not results.records:
        reasons = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise EvaluationError(f"no question was answered; {reasons}")
    save_results(options.out, results)
    return results


def describe_model(model: ModelSpec, loaded: tuple[Runtime, Processor] | None = None) -> ModelInfo:
    """Which model that is, exactly.

    Raises:
        CheckpointError: it cannot be found.
    """
    found = checkpoint_hash(resolve_checkpoint(model.path))
    runtime = (loaded or load_model(model))[0].info
    return ModelInfo(spec=model, hash=found, runtime=runtime.name, dtype=runtime.dtype, device=runtime.device)


def _resume(
    plan: Plan, info: ModelInfo, model: ModelSpec, settings: RunSettings, options: RunOptions
) -> tuple[list[JournalledJob], dict[str, Progress]]:
    """The jobs with the answers that are there already, and what is there about each bag that cannot be read."""
    run = run_key(info, settings)
    jobs = [
        JournalledJob(BagJob(bag.recording, bag.questions, bag.truth, model, settings), options.out, run)
        for bag in plan.bags
    ]
    unreadable = {name: Journal(options.out, name, run, None) for name in plan.failed}
    if options.overwrite and jobs:
        for journal in (*(item.journal() for item in jobs), *unreadable.values()):
            journal.discard()
    kept = {} if options.overwrite else {name: journal.read() for name, journal in unreadable.items()}
    return [_resumed(item) for item in jobs], kept


def _resumed(item: JournalledJob) -> JournalledJob:
    wanted = item.job.wanted()
    done = {key: record for key, record in item.journal().read().answers.items() if key in wanted}
    return replace(item, job=replace(item.job, done=done))


def _run(
    jobs: Sequence[JournalledJob],
    options: RunOptions,
    on_progress: Callable[[int], None],
    loaded: tuple[Runtime, Processor] | None,
) -> dict[str, str]:
    if options.ray is not None:
        from penguin_ros.evaluation.bags.cluster import run_on_ray

        return run_on_ray(jobs, options.ray, options.ray_gpus, on_progress)
    if options.jobs > 1 and len(jobs) > 1:
        return run_in_processes(jobs, options.jobs, on_progress)
    # Sensors count what the whole machine takes: only here it is this work alone.
    return run_in_turn(jobs, lambda: on_progress(1), loaded, EnergyMeter())


_Answers: TypeAlias = tuple[list[ScoredRecord], list[BagTimeline]]
"""Of one bag."""


def _of_bag(item: JournalledJob, settings: RunSettings) -> _Answers:
    job = item.job
    return _scored(job.recording.name, job.questions, settings, item.journal().read(), partial(_with_truth, job))


def _of_failed_bag(name: str, questions: Sequence[Question], settings: RunSettings, progress: Progress) -> _Answers:
    """What was answered about a bag before it became unreadable, against the boxes that it held then."""
    asked = [question for question in questions if question.bag in (None, name)]
    return _scored(name, asked, settings, progress, lambda question, record: record)


def _scored(
    bag: str,
    questions: Sequence[Question],
    settings: RunSettings,
    progress: Progress,
    with_truth: Callable[[Question, AnswerRecord], AnswerRecord],
) -> _Answers:
    """Scored answers in the order of questions and methods, and the time lines of the methods."""
    records = []
    for question in questions:
        for method in settings.methods:
            record = progress.answers.get((question.id, method, question_key(question)))
            if record is not None:
                records.append(score_record(bag, question, with_truth(question, record)))
    found = [timeline for timeline in progress.timelines.values() if timeline.method in settings.methods]
    return records, [BagTimeline(**timeline.model_dump(), bag=bag) for timeline in found]


def _results(
    answers: Sequence[_Answers],
    bags: list[BagInfo],
    info: ModelInfo,
    settings: RunSettings,
    options: RunOptions,
    questions: Sequence[Question],
) -> Results:
    results = Results(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        package=metadata.version("penguin-vl"),
        title=options.title or info.spec.path,
        model=info,
        settings=settings,
        machine=machine(),
        recent_s=options.recent_s,
        seed=options.seed,
        bags=bags,
        questions=list(questions),
        records=[record for records, _ in answers for record in records],
        timelines=[timeline for _, timelines in answers for timeline in timelines],
    )
    return results.model_copy(update={"summary": summarise(results)})


def machine() -> dict[str, Any]:
    """What latencies and energy were measured on, and of what the energy is known."""
    return {**machine_facts(), "energy": EnergyMeter().sources}


def _with_truth(job: BagJob, question: Question, record: AnswerRecord) -> AnswerRecord:
    """A record with the boxes that the bag holds now: labels may be mended without asking again."""
    if record.frame is None or record.error is not None:
        return record
    try:
        return record.model_copy(update={"truth": truth_at(job, question, record.frame.stamp_ns)})
    except EvaluationError as err:
        return record.model_copy(update={"error": f"{type(err).__name__}: {err}"})


def _bags(plan: Plan, failed: dict[str, str], paths: Sequence[Path]) -> list[BagInfo]:
    cameras = {bag.recording.name: list(bag.recording.cameras) for bag in plan.bags}
    return [
        BagInfo(name=name, path=str(path), cameras=cameras.get(name, []), failed=failed.get(name))
        for path in paths
        if (name := bag_name(path)) not in plan.unasked
    ]
