"""`penguin-vl evaluate bags` as a function: plan, run the jobs, score the answers, write the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from penguin_engine.bench.energy import EnergyMeter
from penguin_engine.bench.machine import machine_facts
from penguin_models.errors import EvaluationError
from penguin_models.hub import resolve_checkpoint
from penguin_ros.evaluation.bags.jobs import BagJob
from penguin_ros.evaluation.bags.plan import make_plan
from penguin_ros.evaluation.bags.workers import Work, load_model, run_in_processes, run_in_turn, run_on_ray
from penguin_ros.evaluation.journal import Journal, Progress, recording_key, run_key
from penguin_ros.evaluation.question_file import Question
from penguin_ros.evaluation.records import AnswerRecord, ModelSpec, RunSettings, Timeline, answer_key, describe_error
from penguin_ros.evaluation.results import (
    BagInfo,
    ModelInfo,
    Results,
    ScoredRecord,
    checkpoint_hash,
    save_results,
    score_record,
)
from penguin_ros.evaluation.summary import summarise
from penguin_ros.recording import bag_name


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
    on_answers: Callable[[int], None] = lambda count: None,
    bad_lines: Sequence[str] = (),
) -> Results:
    """Evaluates a model on bags, resumes an earlier run in the same folder, and returns the results.

    At the start, `on_start` gets the number of answers in total and of those already known; `on_answers` gets the
    number of new answers since its last call. `bad_lines` are sentences about questions that could not be read.

    The results are also written to the folder. They name bags that failed, and keep the answers made before, and they
    name questions that could not be asked.

    Raises:
        PenguinError: No question fits the bags, the model cannot be loaded, the folder has results of other settings,
            or nothing was answered. Earlier results are unchanged.
    """
    settings = settings.model_copy(update={"methods": list(dict.fromkeys(settings.methods))})
    if "realtime" in settings.methods and (options.jobs > 1 or options.ray is not None):
        raise EvaluationError("method realtime measures this machine and needs all of it: remove --jobs and --ray")
    if options.out.exists() and not options.out.is_dir():
        raise EvaluationError(f"results need a folder, but {options.out} is a file; choose another --out")
    jobs, unreadable, problems = make_plan(bags, questions, model, settings)
    info, settings = _describe_model(model, settings)
    jobs = [replace(job, settings=settings) for job in jobs]
    work, earlier = _resume(jobs, unreadable, run_key(info, settings), options)
    on_start(sum(len(job.wanted()) for job, _ in work), sum(len(job.done) for job, _ in work))
    failed = unreadable | _run(work, options, on_answers)
    bag_records = [_score(job.recording.name, job.questions, settings, journal.read(), job) for job, journal in work]
    for name, progress in earlier.items():
        bag_records.append(_score(name, [q for q in questions if q.bag in (None, name)], settings, progress, None))
    if not any(records for records, _ in bag_records):
        reasons = "; ".join([*(f"{name}: {reason}" for name, reason in failed.items()), *problems])
        raise EvaluationError(f"no question was answered; {reasons}")
    timelines = [timeline for _, timelines in bag_records for timeline in timelines]
    results = Results(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        package=metadata.version("penguin-vl"),
        title=options.title or model.path,
        model=info,
        settings=settings,
        machine={**machine_facts(), "energy": EnergyMeter().sources},
        bags=_describe_bags(jobs, failed, bags, timelines),
        problems=[*bad_lines, *problems],
        questions=list(questions),
        records=[record for records, _ in bag_records for record in records],
        timelines=timelines,
    )
    results = results.model_copy(update={"summary": summarise(results)})
    save_results(options.out, results)
    return results


def _describe_model(model: ModelSpec, settings: RunSettings) -> tuple[ModelInfo, RunSettings]:
    """Loads the model and returns what it is, and the settings with the token budget that it gets."""
    file_hash = checkpoint_hash(resolve_checkpoint(model.path))
    runtime, processor = load_model(model)
    info = runtime.info
    described = ModelInfo(spec=model, hash=file_hash, runtime=info.name, dtype=info.dtype, device=info.device)
    parameters = {**settings.parameters, "token_budget": settings.node().token_budget(processor.images)}
    return described, settings.model_copy(update={"parameters": parameters})


def _resume(
    jobs: Sequence[BagJob], unreadable: Iterable[str], run: str, options: RunOptions
) -> tuple[Work, dict[str, Progress]]:
    """Returns the jobs with the answers already known, and the known answers about each bag that cannot be read."""
    work = [(job, Journal(options.out, job.recording.name, run, recording_key(job.recording))) for job in jobs]
    earlier = {name: Journal(options.out, name, run, None) for name in unreadable}
    if options.overwrite:
        # If no bag can be read, nothing replaces the earlier answers.
        for journal in (*(journal for _, journal in work), *earlier.values()) if jobs else ():
            journal.discard()
        return work, {}
    resumed = []
    for job, journal in work:
        wanted = job.wanted()
        done = {key: record for key, record in journal.read().answers.items() if key in wanted}
        resumed.append((replace(job, done=done), journal))
    return resumed, {name: journal.read() for name, journal in earlier.items()}


def _run(work: Work, options: RunOptions, on_answers: Callable[[int], None]) -> dict[str, str]:
    if options.ray is not None:
        return run_on_ray(work, on_answers, options.ray, options.ray_gpus)
    if options.jobs > 1 and len(work) > 1:
        return run_in_processes(work, on_answers, options.jobs)
    # Sensors measure the whole machine, so energy can be attributed to answers only if one process runs.
    return run_in_turn(work, on_answers, EnergyMeter())


def _score(
    bag: str, questions: Sequence[Question], settings: RunSettings, progress: Progress, job: BagJob | None
) -> tuple[list[ScoredRecord], list[Timeline]]:
    """Scores the answers about a bag; without a job, the bag is unreadable and its boxes are those recorded earlier."""
    records = []
    for question in questions:
        for method in settings.methods:
            record = progress.answers.get(answer_key(question, method))
            if record is not None:
                record = record if job is None else _with_truth(job, question, record)
                records.append(score_record(bag, question, record))
    timelines = [timeline for timeline in progress.timelines.values() if timeline.method in settings.methods]
    return records, [timeline.model_copy(update={"bag": bag}) for timeline in timelines]


def _with_truth(job: BagJob, question: Question, record: AnswerRecord) -> AnswerRecord:
    """Returns the record with the boxes that the bag has now, so that labels can be fixed without asking again."""
    if record.frame is None or record.error is not None:
        return record
    try:
        return record.model_copy(update={"truth": job.truth_at(question, record.frame.stamp_ns)})
    except EvaluationError as err:
        return record.model_copy(update={"error": describe_error(err)})


def _describe_bags(
    jobs: Sequence[BagJob], failed: dict[str, str], paths: Sequence[Path], timelines: Sequence[Timeline]
) -> list[BagInfo]:
    recordings = {job.recording.name: job.recording for job in jobs}
    bags = []
    for path in paths:
        name = bag_name(path)
        if name in recordings:
            skipped = [
                f"{line.camera}, method {line.method}: {line.bad} images cannot be decoded; the last: {line.last_error}"
                for line in timelines
                if line.bag == name and line.bad
            ]
            cameras, notes = list(recordings[name].cameras), [*recordings[name].notes, *skipped]
            bags.append(BagInfo(name=name, path=str(path), cameras=cameras, failed=failed.get(name), notes=notes))
        elif name in failed:  # bags without questions are left out
            bags.append(BagInfo(name=name, path=str(path), failed=failed[name]))
    return bags
