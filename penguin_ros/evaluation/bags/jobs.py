"""Bags in turn or in processes, with the same answers; on many machines in cluster.py.

A bag is the unit of work: its frames must be seen in order. Every process writes its answers to disk as they come.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from penguin_engine.runtimes.base import Runtime
from penguin_engine.runtimes.loading import open_runtime
from penguin_models.errors import PenguinError
from penguin_models.processor import Processor
from penguin_ros.evaluation.bags.methods import Engine, Meter
from penguin_ros.evaluation.bags.realtime import replay_realtime
from penguin_ros.evaluation.bags.replay import BagJob, Sink, replay
from penguin_ros.evaluation.journal import Journal, recording_key
from penguin_ros.evaluation.records import ModelSpec

_KILLED = "a process was killed, perhaps for want of memory; answers so far are kept: run again, with fewer --jobs"


@dataclass(frozen=True)
class JournalledJob:
    """A job, and where its answers go.

    Attributes:
        job: the bag.
        folder: of the results.
        run: key of the run.
    """

    job: BagJob
    folder: Path
    run: str

    def journal(self, on_answer: Callable[[], None] = lambda: None) -> Journal:
        """Its journal."""
        recording = self.job.recording
        return Journal(self.folder, recording.name, self.run, recording_key(recording), on_answer)


@lru_cache(maxsize=1)
def _load(path: str, runtime: str, dtype: str | None, device: str, threads: int) -> tuple[Runtime, Processor]:
    return open_runtime(runtime, path, device, dtype, threads or None)


def load_model(model: ModelSpec) -> tuple[Runtime, Processor]:
    """Loads what a spec names, once in each process.

    Raises:
        CheckpointError: it cannot be loaded.
    """
    return _load(model.path, model.runtime, model.dtype, model.device, model.threads)


def evaluate(
    job: BagJob, sink: Sink, loaded: tuple[Runtime, Processor] | None = None, meter: Meter | None = None
) -> None:
    """Replays a bag in all methods.

    Args:
        job: the bag.
        sink: takes the answers.
        loaded: the model; loaded as the job says if None.
        meter: of the energy of answers; only where nothing else runs on this machine.

    Raises:
        PenguinError: the model or the bag cannot be read; answers so far are in the sink.
    """
    engine = Engine(*(loaded or load_model(job.model)), job.settings, meter)
    replay(job, engine, sink)
    if "realtime" in job.settings.methods:
        replay_realtime(job, engine, sink)


def run_in_turn(
    jobs: Sequence[JournalledJob],
    on_answer: Callable[[], None],
    loaded: tuple[Runtime, Processor] | None = None,
    meter: Meter | None = None,
) -> dict[str, str]:
    """Evaluates bags one after the other in this process.

    Args:
        jobs: the bags.
        on_answer: called after each answer.
        loaded: the model; loaded as the jobs say if None.
        meter: of the energy of answers.

    Returns:
        Name of each bag that could not be evaluated -> why.
    """
    failed = {}
    for item in jobs:
        try:
            _evaluate_journalled(item, on_answer, loaded, meter)
        except PenguinError as err:
            failed[item.job.recording.name] = str(err)
    return failed


def run_in_processes(jobs: Sequence[JournalledJob], processes: int, on_bag: Callable[[int], None]) -> dict[str, str]:
    """Evaluates bags in processes of their own.

    Args:
        jobs: the bags.
        processes: at most so many at a time; each loads the model.
        on_bag: called with the number of answers of each bag that is done.

    Returns:
        Name of each bag that could not be evaluated -> why.
    """
    failed = {}
    _load.cache_clear()  # the model that was looked at here would only take room
    context = multiprocessing.get_context("spawn")  # a forked copy of torch's threads would hang
    with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context) as pool:
        futures = {pool.submit(_evaluate_counted, item): item.job.recording.name for item in jobs}
        for future in as_completed(futures):
            try:
                answers, reason = future.result()
            except BrokenProcessPool:
                answers, reason = 0, _KILLED
            if reason:
                failed[futures[future]] = reason
            on_bag(answers)
    return failed


def _evaluate_counted(item: JournalledJob) -> tuple[int, str]:
    """How many answers were made, and why there are no more; "" where the bag was evaluated to its end."""
    answers: list[None] = []
    failed = run_in_turn([item], lambda: answers.append(None))
    return len(answers), "".join(failed.values())


def _evaluate_journalled(
    item: JournalledJob,
    on_answer: Callable[[], None] = lambda: None,
    loaded: tuple[Runtime, Processor] | None = None,
    meter: Meter | None = None,
) -> None:
    journal = item.journal(on_answer)
    try:
        evaluate(item.job, journal, loaded, meter)
    finally:
        journal.close()
