"""Runs jobs one after the other, in worker processes or on a Ray cluster, with the same answers.

A bag is the unit of work, because its frames must be seen in order. Local processes write answers to disk as they come;
a cluster sends the answers of a bag back when it is done.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import lru_cache
from typing import TypeAlias

from penguin_engine.bench.energy import EnergyMeter
from penguin_engine.runtimes.base import Runtime
from penguin_engine.runtimes.loading import open_runtime
from penguin_models.errors import EvaluationError, PenguinError
from penguin_models.processor import Processor
from penguin_ros.evaluation.bags.jobs import BagJob
from penguin_ros.evaluation.bags.methods import Engine
from penguin_ros.evaluation.bags.realtime import replay_realtime
from penguin_ros.evaluation.bags.replay import replay
from penguin_ros.evaluation.journal import Journal
from penguin_ros.evaluation.records import AnswerRecord, ModelSpec, Timeline

Work: TypeAlias = Sequence[tuple[BagJob, Journal]]
_KILLED = "a worker process was killed, possibly out of memory; run again with fewer --jobs, finished answers are kept"


@lru_cache(maxsize=1)
def load_model(model: ModelSpec) -> tuple[Runtime, Processor]:
    """Loads a model, once per process; raises CheckpointError if that fails."""
    return open_runtime(model.runtime, model.path, model.device, model.dtype, model.threads or None)


def evaluate(job: BagJob, meter: EnergyMeter | None = None) -> Iterator[AnswerRecord | Timeline]:
    """Answers the questions about a bag with all methods, and yields the results as they come.

    If nothing else runs on this machine, a meter measures the energy of answers. Raises PenguinError if the model or
    the bag cannot be read.
    """
    engine = Engine(*load_model(job.model), job.settings, meter)
    yield from replay(job, engine)
    if "realtime" in job.settings.methods:
        yield from replay_realtime(job, engine)


def run_in_turn(work: Work, on_answers: Callable[[int], None], meter: EnergyMeter | None = None) -> dict[str, str]:
    """Evaluates bags one after the other in this process, and returns the name of each bag that failed -> reason.

    `on_answers` gets the number of new answers since its last call; for the meter, see `evaluate`.
    """
    failed = {}
    for job, journal in work:
        with closing(journal):
            try:
                for item in evaluate(job, meter):
                    journal.write(item)
                    if isinstance(item, AnswerRecord):
                        on_answers(1)
            except PenguinError as err:
                failed[job.recording.name] = str(err)
    return failed


def run_in_processes(work: Work, on_answers: Callable[[int], None], processes: int) -> dict[str, str]:
    """Evaluates bags in at most this many worker processes, each with its own model; see `run_in_turn`."""
    failed = {}
    load_model.cache_clear()  # frees the model that was loaded in this process to describe it
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(min(processes, len(work)), mp_context=context) as pool:
        futures = {pool.submit(_run_and_count, job, journal): job.recording.name for job, journal in work}
        for future in as_completed(futures):
            try:
                answers, reason = future.result()
            except BrokenProcessPool:
                answers, reason = 0, _KILLED
            if reason:
                failed[futures[future]] = reason
            on_answers(answers)
    return failed


def _run_and_count(job: BagJob, journal: Journal) -> tuple[int, str]:
    """Returns the number of new answers, and why the bag failed ("" if it did not)."""
    counts: list[int] = []
    failed = run_in_turn([(job, journal)], counts.append)
    return sum(counts), "".join(failed.values())


def run_on_ray(work: Work, on_answers: Callable[[int], None], address: str, gpus: float) -> dict[str, str]:
    """Evaluates bags on a Ray cluster, or on one started on this machine if the address is "local"; see `run_in_turn`.

    Bags and model must have the same paths on all machines. Each bag reserves this number of GPUs.

    Raises:
        EvaluationError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as err:
        raise EvaluationError("--ray needs the Python package ray on every machine: pip install ray") from err
    try:
        ray.init(address=address, log_to_driver=False)
    except ConnectionError as err:
        raise EvaluationError(f"no Ray cluster answers at {address}: {err}") from err
    failed = {}
    try:
        task = ray.remote(num_gpus=gpus)(_collect)
        pending = {task.remote(job): (job, journal) for job, journal in work}
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            job, journal = pending.pop(done)
            try:
                results, reason = ray.get(done)
            except ray.exceptions.RayError as err:
                results, reason = [], f"its worker on the cluster failed: {' '.join(str(err).split())}"
            with closing(journal):
                for item in results:
                    journal.write(item)
            if reason:
                failed[job.recording.name] = reason
            on_answers(sum(isinstance(item, AnswerRecord) for item in results))
    finally:
        ray.shutdown()
    return failed


def _collect(job: BagJob) -> tuple[list[AnswerRecord | Timeline], str]:
    """Returns the results of a bag, and why it failed ("" if it did not)."""
    results = []
    try:
        for item in evaluate(job):
            results.append(item)
    except PenguinError as err:
        return results, str(err)
    return results, ""
