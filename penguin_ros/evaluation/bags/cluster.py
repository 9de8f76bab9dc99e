"""Evaluates bags on the machines of a Ray cluster. Answers of a bag are sent back when it is done, and written here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from penguin_models.errors import EvaluationError, PenguinError
from penguin_ros.evaluation.bags.jobs import BagJob
from penguin_ros.evaluation.bags.replay import Sink
from penguin_ros.evaluation.bags.workers import JournalledJob, evaluate
from penguin_ros.evaluation.records import AnswerRecord, Timeline


@dataclass
class Collected:
    """A `Sink` that stores everything in memory, so that it can be sent between machines."""

    answers: list[AnswerRecord] = field(default_factory=list)
    timelines: list[Timeline] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    failed: str = ""

    def answer(self, record: AnswerRecord) -> None:
        """Stores an answer."""
        self.answers.append(record)

    def timeline(self, timeline: Timeline) -> None:
        """Stores a timeline."""
        self.timelines.append(timeline)

    def picture(self, name: str, jpeg: Callable[[], bytes]) -> None:
        """Stores a picture."""
        if name not in self.pictures:
            self.pictures[name] = jpeg()

    def send(self, sink: Sink) -> None:
        """Passes everything on to another sink."""
        for name, jpeg in self.pictures.items():
            sink.picture(name, partial(bytes, jpeg))
        for record in self.answers:
            sink.answer(record)
        for timeline in self.timelines:
            sink.timeline(timeline)


def run_on_ray(
    jobs: Sequence[JournalledJob], address: str, gpus: float, on_bag: Callable[[int], None]
) -> dict[str, str]:
    """Evaluates bags on a Ray cluster; bags and model must have the same paths on all machines.

    Args:
        jobs: Jobs of the bags.
        address: Address of the cluster; "local" starts one on this machine.
        gpus: GPUs reserved for each bag.
        on_bag: Called after each bag with the number of new answers.

    Returns:
        Name of each bag that failed -> reason.

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
        pending = {task.remote(item.job): item for item in jobs}
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            item = pending.pop(done)
            try:
                collected: Collected = ray.get(done)
            except ray.exceptions.RayError as err:
                collected = Collected(failed=f"its worker on the cluster failed: {' '.join(str(err).split())}")
            with closing(item.journal()) as journal:
                collected.send(journal)
            if collected.failed:
                failed[item.job.recording.name] = collected.failed
            on_bag(len(collected.answers))
    finally:
        ray.shutdown()
    return failed


def _collect(job: BagJob) -> Collected:
    """Evaluates a bag; if it fails, the answers made before are returned with the reason."""
    collected = Collected()
    try:
        evaluate(job, collected)
    except PenguinError as err:
        collected.failed = str(err)
    return collected
