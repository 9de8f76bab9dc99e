"""Runs jobs one after the other or in worker processes, with the same answers; cluster.py runs them on a Ray cluster.

A bag is the unit of work, because its frames must be seen in order. Every process writes answers to disk as they come.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from penguin_engine.runtimes.base import Runtime
from penguin_engine.runtimes.loading import open_runtime
from penguin_models.errors import PenguinError
from penguin_models.processor import Processor
from penguin_ros.evaluation.bags.jobs import BagJob
from penguin_ros.evaluation.bags.methods import Engine, Meter
from penguin_ros.evaluation.bags.realtime import replay_realtime
from penguin_ros.evaluation.bags.replay import Sink, replay
from penguin_ros.evaluation.journal import Journal, recording_key
from penguin_ros.evaluation.records import ModelSpec

LoadedModel: TypeAlias = tuple[Runtime, Processor]
_KILLED = "a worker process was killed, possibly out of memory; run again with fewer --jobs, finished answers are kept"


@dataclass(frozen=True)
class JournalledJob:
    """A job whose answers are written to the results folder."""

    job: BagJob
    folder: Path  # results folder
    run: str  # key from `run_key`

    def journal(self, on_answer: Callable[[], None] = lambda: None) -> Journal:
        """Returns the journal of the bag; on_answer is called after each answer."""
        recording = self.job.recording
        return Journal(self.folder, recording.name, self.run, recording_key(recording), on_answer)


@lru_cache(maxsize=1)
def _load(path: str, runtime: str, dtype: str | None, device: str, threads: int) -> LoadedModel:
    return open_runtime(runtime, path, device, dtype, threads or None)


def load_model(model: ModelSpec) -> LoadedModel:
    """Loads a model, once per process.

    Raises:
        CheckpointError: It cannot be loaded.
    """
    return _load(model.path, model.runtime, model.dtype, model.device, model.threads)


def evaluate(job: BagJob, sink: Sink, loaded: LoadedModel | None = None, meter: Meter | None = None) -> None:
    """Answers the questions about a bag with all methods.

    Args:
        job: The bag's job.
        sink: Receives the answers.
        loaded: The model; None loads the one that the job names.
        meter: Measures the energy of answers, if nothing else runs on this machine.

    Raises:
        PenguinError: The model or the bag cannot be read; the sink has the answers made before.
    """
    engine = Engine(*(loaded or load_model(job.model)), job.settings, meter)
    replay(job, engine, sink)
    if "realtime" in job.settings.methods:
        replay_realtime(job, engine, sink)


def run_in_turn(
    jobs: Sequence[JournalledJob],
    on_answer: Callable[[], None],
    loaded: LoadedModel | None = None,
    meter: Meter | None = None,
) -> dict[str, str]:
    """Evaluates bags one after the other in this process; arguments as for `evaluate`.

    Returns:
        Name of each bag that failed -> reason.
    """
    failed = {}
    for item in jobs:
        with closing(item.journal(on_answer)) as journal:
            try:
                evaluate(item.job, journal, loaded, meter)
            except PenguinError as err:
                failed[item.job.recording.name] = str(err)
    return failed


def run_in_processes(jobs: Sequence[JournalledJob], processes: int, on_bag: Callable[[int], None]) -> dict[str, str]:
    """Evaluates bags in worker processes.

    Args:
        jobs: Jobs of the bags.
        processes: Maximum number of processes; each loads the model.
        on_bag: Called after each bag with the number of new answers.

    Returns:
        Name of each bag that failed -> reason.
    """
    failed = {}
    _load.cache_clear()  # frees the model that was loaded in this process to describe it
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context) as pool:
        futures = {pool.submit(_run_and_count, item): item.job.recording.name for item in jobs}
        for future in as_completed(futures):
            try:
                answers, reason = future.result()
            except BrokenProcessPool:
                answers, reason = 0, _KILLED
            if reason:
                failed[futures[future]] = reason
            on_bag(answers)
    return failed


def _run_and_count(item: JournalledJob) -> tuple[int, str]:
    """Returns the number of new answers, and why the bag failed ("" if it did not)."""
    answers: list[None] = []
    failed = run_in_turn([item], lambda: answers.append(None))
    return len(answers), "".join(failed.values())
