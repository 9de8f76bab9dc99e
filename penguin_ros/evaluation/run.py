"""`penguin-vl evaluate bags`, as a function: bags and questions in, results on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from penguin_engine.energy import EnergyMeter
from penguin_engine.runtime import Runtime
from penguin_models.checkpoint import resolve_checkpoint
from penguin_models.errors import EvaluationError
from penguin_models.processor import Processor
from penguin_ros.evaluation.jobs import JournalledJob, load_model, run_in_processes, run_in_turn
from penguin_ros.evaluation.journal import Progress, recording_key, run_key
from penguin_ros.evaluation.plan import Plan, PlannedBag, make_plan
from penguin_ros.evaluation.questions import Question
from penguin_ros.evaluation.recording import bag_name
from penguin_ros.evaluation.records import AnswerRecord, ModelSpec, RunSettings, digest, question_key
from penguin_ros.evaluation.replay import BagJob, truth_at
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
    settings = settings.model_copy(update={"arms": list(dict.fromkeys(settings.arms))})
    if "realtime" in settings.arms and (options.jobs > 1 or options.ray is not None):
        raise EvaluationError("arm realtime measures this machine and needs it alone: leave out --jobs and --ray")
    plan = make_plan(bags, questions)
    info = describe_model(model, loaded)
    jobs = _resume([_job(bag, info, model, settings, options) for bag in plan.bags], options.overwrite)
    total = sum(len(_wanted(item.job)) for item in jobs)
    on_start(total, sum(len(item.job.done) for item in jobs))
    failed = plan.failed | _run(jobs, options, on_progress, loaded)
    results = _collect(jobs, plan, failed, info, settings, options, [*bags], questions)
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
    return ModelInfo(spec=model, hash=found, runtime=runtime.name, dtype=runtime.dtype)


def _job(
    bag: PlannedBag, info: ModelInfo, model: ModelSpec, settings: RunSettings, options: RunOptions
) -> JournalledJob:
    key = digest([run_key(info.hash, model, settings), recording_key(bag.recording)])
    job = BagJob(bag.recording, bag.questions, bag.truth, model, settings)
    return JournalledJob(job, options.out, key)


def _resume(jobs: Sequence[JournalledJob], overwrite: bool) -> list[JournalledJob]:
    """The jobs with the answers that are there already."""
    found = []
    for item in jobs:
        journal = item.journal()
        if overwrite:
            journal.discard()
        done = {key: record for key, record in journal.read().answers.items() if key in _wanted(item.job)}
        job = BagJob(**{**vars(item.job), "done": done})
        found.append(JournalledJob(job, item.folder, item.key))
    return found


def _wanted(job: BagJob) -> set[tuple[str, str, str]]:
    """Question, arm and key of every answer that a bag is to give."""
    return {
        (question.id, arm, question_key(question))
        for question in job.questions
        for arm in job.settings.arms
        if len(question.cameras) < 2 or arm not in ("last-4", "offline")
    }


def _run(
    jobs: Sequence[JournalledJob],
    options: RunOptions,
    on_progress: Callable[[int], None],
    loaded: tuple[Runtime, Processor] | None,
) -> dict[str, str]:
    if options.ray is not None:
        from penguin_ros.evaluation.cluster import run_on_ray

        return run_on_ray(jobs, options.ray, options.ray_gpus, on_progress)
    if options.jobs > 1 and len(jobs) > 1:
        return run_in_processes(jobs, options.jobs, on_progress)
    # Sensors count what the whole machine takes: only here it is this work alone.
    return run_in_turn(jobs, lambda: on_progress(1), loaded, EnergyMeter())


def _collect(
    jobs: Sequence[JournalledJob],
    plan: Plan,
    failed: dict[str, str],
    info: ModelInfo,
    settings: RunSettings,
    options: RunOptions,
    paths: Sequence[Path],
    questions: Sequence[Question],
) -> Results:
    records: list[ScoredRecord] = []
    timelines: list[BagTimeline] = []
    for item in jobs:
        name, progress = item.job.recording.name, item.journal().read()
        records += _score(item.job, progress)
        timelines += [
            BagTimeline(**timeline.model_dump(), bag=name)
            for timeline in progress.timelines.values()
            if timeline.arm in settings.arms
        ]
    results = Results(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        package=metadata.version("penguin-vl"),
        title=options.title or info.spec.path,
        model=info,
        settings=settings,
        machine=machine(),
        recent_s=options.recent_s,
        seed=options.seed,
        bags=_bags(plan, failed, paths),
        questions=list(questions),
        records=records,
        timelines=timelines,
    )
    return results.model_copy(update={"summary": summarise(results)})


def machine() -> dict[str, Any]:
    """What latencies and energy were measured on, and of what the energy is known."""
    from penguin_engine import bench

    return {**bench.machine(), "energy": EnergyMeter().sources}


def _score(job: BagJob, progress: Progress) -> list[ScoredRecord]:
    """Scored answers in the order of questions and arms."""
    found = []
    for question in job.questions:
        for arm in job.settings.arms:
            record = progress.answers.get((question.id, arm, question_key(question)))
            if record is not None:
                found.append(score_record(job.recording.name, question, _with_truth(job, question, record)))
    return found


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
