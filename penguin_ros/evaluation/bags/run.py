"""`penguin-vl evaluate bags` as a function: plan, run the jobs, score the answers, write the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from penguin_engine.bench.energy import EnergyMeter
from penguin_engine.bench.machine import machine_facts
from penguin_models.checkpoint import resolve_checkpoint
from penguin_models.errors import EvaluationError
from penguin_ros.evaluation.bags.jobs import BagJob, truth_at
from penguin_ros.evaluation.bags.plan import Plan, make_plan
from penguin_ros.evaluation.bags.recording import bag_name
from penguin_ros.evaluation.bags.workers import JournalledJob, LoadedModel, load_model, run_in_processes, run_in_turn
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
    """Options that do not change answers."""

    out: Path  # results folder
    title: str = ""  # of the report; the model's path if empty
    jobs: int = 1  # worker processes
    ray: str | None = None  # address of a Ray cluster, "local" to start one on this machine; None to run without Ray
    ray_gpus: float = 0.0  # GPUs reserved for each bag on the cluster
    overwrite: bool = False  # discard the answers of an earlier run in the same folder


def run_bags(
    bags: Sequence[Path],
    questions: Sequence[Question],
    model: ModelSpec,
    settings: RunSettings,
    options: RunOptions,
    on_start: Callable[[int, int], None] = lambda total, done: None,
    on_progress: Callable[[int], None] = lambda count: None,
    loaded: LoadedModel | None = None,
) -> Results:
    """Evaluates a model on bags, and resumes an earlier run in the same folder.

    Args:
        bags: Bag folders or files.
        questions: Questions about them.
        model: The model.
        settings: Settings that change answers.
        options: Options that do not.
        on_start: Called with the number of answers in total and of those already known.
        on_progress: Called with the number of new answers since the last call.
        loaded: The loaded model, if it is already loaded; only without worker processes and Ray.

    Returns:
        The results, which are also written to the folder. They name bags that failed, and keep the answers made before.

    Raises:
        PenguinError: The questions do not fit the bags, the model cannot be loaded, the folder has results of other
            settings, or nothing was answered. Earlier results are unchanged.
    """
    settings = settings.model_copy(update={"methods": list(dict.fromkeys(settings.methods))})
    if "realtime" in settings.methods and (options.jobs > 1 or options.ray is not None):
        raise EvaluationError("method realtime measures this machine and needs all of it: remove --jobs and --ray")
    check_folder(options.out)
    plan = make_plan(bags, questions)
    info = _describe_model(model, loaded)
    jobs, unreadable = _resume(plan, info, model, settings, options)
    on_start(sum(len(item.job.wanted()) for item in jobs), sum(len(item.job.done) for item in jobs))
    failed = plan.failed | _run(jobs, options, on_progress, loaded)
    answers = [
        _score(item.job.recording.name, item.job.questions, settings, item.journal().read(), item.job) for item in jobs
    ]
    for name, progress in unreadable.items():
        asked = [question for question in questions if question.bag in (None, name)]
        answers.append(_score(name, asked, settings, progress, None))
    if not any(records for records, _ in answers):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise EvaluationError(f"no question was answered; {reasons}")
    results = Results(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        package=metadata.version("penguin-vl"),
        title=options.title or model.path,
        model=info,
        settings=settings,
        machine={**machine_facts(), "energy": EnergyMeter().sources},
        bags=_describe_bags(plan, failed, bags),
        questions=list(questions),
        records=[record for records, _ in answers for record in records],
        timelines=[timeline for _, timelines in answers for timeline in timelines],
    )
    results = results.model_copy(update={"summary": summarise(results)})
    save_results(options.out, results)
    return results


def _describe_model(model: ModelSpec, loaded: LoadedModel | None) -> ModelInfo:
    file_hash = checkpoint_hash(resolve_checkpoint(model.path))
    runtime = (loaded or load_model(model))[0].info
    return ModelInfo(spec=model, hash=file_hash, runtime=runtime.name, dtype=runtime.dtype, device=runtime.device)


def _resume(
    plan: Plan, info: ModelInfo, model: ModelSpec, settings: RunSettings, options: RunOptions
) -> tuple[list[JournalledJob], dict[str, Progress]]:
    """Returns the jobs with the answers already known, and the known answers about each bag that cannot be read."""
    run = run_key(info, settings)
    jobs = [
        JournalledJob(BagJob(bag.recording, bag.questions, bag.truth, model, settings), options.out, run)
        for bag in plan.bags
    ]
    unreadable = {name: Journal(options.out, name, run, None) for name in plan.failed}
    if options.overwrite and jobs:
        for journal in (*(item.journal() for item in jobs), *unreadable.values()):
            journal.discard()
    resumed = []
    for item in jobs:
        wanted = item.job.wanted()
        done = {key: record for key, record in item.journal().read().answers.items() if key in wanted}
        resumed.append(replace(item, job=replace(item.job, done=done)))
    return resumed, {} if options.overwrite else {name: journal.read() for name, journal in unreadable.items()}


def _run(
    jobs: Sequence[JournalledJob],
    options: RunOptions,
    on_progress: Callable[[int], None],
    loaded: LoadedModel | None,
) -> dict[str, str]:
    if options.ray is not None:
        from penguin_ros.evaluation.bags.cluster import run_on_ray

        return run_on_ray(jobs, options.ray, options.ray_gpus, on_progress)
    if options.jobs > 1 and len(jobs) > 1:
        return run_in_processes(jobs, options.jobs, on_progress)
    # Sensors measure the whole machine, so energy can be attributed to answers only if one process runs.
    return run_in_turn(jobs, lambda: on_progress(1), loaded, EnergyMeter())


def _score(
    bag: str, questions: Sequence[Question], settings: RunSettings, progress: Progress, job: BagJob | None
) -> tuple[list[ScoredRecord], list[BagTimeline]]:
    """Scores the answers about a bag; without a job, the bag is unreadable and its boxes are those recorded earlier."""
    records = []
    for question in questions:
        for method in settings.methods:
            record = progress.answers.get((question.id, method, question_key(question)))
            if record is not None:
                record = record if job is None else _with_truth(job, question, record)
                records.append(score_record(bag, question, record))
    timelines = [timeline for timeline in progress.timelines.values() if timeline.method in settings.methods]
    return records, [BagTimeline(**timeline.model_dump(), bag=bag) for timeline in timelines]


def _with_truth(job: BagJob, question: Question, record: AnswerRecord) -> AnswerRecord:
    """Returns the record with the boxes that the bag has now, so that labels can be fixed without asking again."""
    if record.frame is None or record.error is not None:
        return record
    try:
        return record.model_copy(update={"truth": truth_at(job, question, record.frame.stamp_ns)})
    except EvaluationError as err:
        return record.model_copy(update={"error": f"{type(err).__name__}: {err}"})


def _describe_bags(plan: Plan, failed: dict[str, str], paths: Sequence[Path]) -> list[BagInfo]:
    cameras = {bag.recording.name: list(bag.recording.cameras) for bag in plan.bags}
    return [
        BagInfo(name=name, path=str(path), cameras=cameras.get(name, []), failed=failed.get(name))
        for path in paths
        if (name := bag_name(path)) not in plan.unasked
    ]
