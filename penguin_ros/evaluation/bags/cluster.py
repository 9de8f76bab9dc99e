"""Bags on many machines, with Ray. Answers travel back when their bag is done, and are written down here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from penguin_models.errors import EvaluationError, PenguinError
from penguin_ros.evaluation.bags.jobs import JournalledJob, evaluate
from penguin_ros.evaluation.bags.replay import BagJob, Sink
from penguin_ros.evaluation.records import AnswerRecord, Timeline


@dataclass
class Collected:
    """A `Sink` that keeps everything, to be sent elsewhere."""

    answers: list[AnswerRecord] = field(default_factory=list)
    timelines: list[Timeline] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    failed: str = ""

    def answer(self, record: AnswerRecord) -> None:
        """Keeps an answer."""
        self.answers.append(record)

    def timeline(self, timeline: Timeline) -> None:
        """Keeps a time line."""
        self.timelines.append(timeline)

    def picture(self, name: str, jpeg: Callable[[], bytes]) -> None:
        """Keeps a picture."""
        if name not in self.pictures:
            self.pictures[name] = jpeg()

    def send(self, sink: Sink) -> None:
        """Gives everything to another sink."""
        for name, jpeg in self.pictures.items():
            sink.picture(name, partial(bytes, jpeg))
        for record in self.answers:
            sink.answer(record)
        for timeline in self.timelines:
            sink.timeline(timeline)


def collect(job: BagJob) -> Collected:
    """Evaluates a bag and keeps everything, also what was found before an error."""
    collected = Collected()
    try:
        evaluate(job, collected)
    except PenguinError as err:
        collected.failed = str(err)
    return collected


def run_on_ray(
    jobs: Sequence[JournalledJob], address: str | None, gpus: float, on_bag: Callable[[int], None]
) -> dict[str, str]:
    """Evaluates bags on a Ray cluster; bags and model must have the same paths on all its machines.

    Args:
        jobs: the bags.
        address: of the cluster; one on this machine is started if None.
        gpus: that each bag gets.
        on_bag: called with the number of answers of each bag that is done.

    Returns:
        Name of each bag that could not be evaluated -> why.

    Raises:
        EvaluationError: ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as err:
        raise EvaluationError("--ray needs the package ray: pip install ray, on every machine") from err
    try:
        ray.init(address=address, log_to_driver=False)
    except ConnectionError as err:
        raise EvaluationError(f"no Ray cluster answers at {address}: {err}") from err
    failed = {}
    try:
        task = ray.remote(num_gpus=gpus)(collect)
        waiting = {task.remote(item.job): item for item in jobs}
        for done in _as_completed(ray, list(waiting)):
            item = waiting[done]
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


def _as_completed(ray: Any, waiting: list[Any]) -> Iterator[Any]:
    while waiting:
        (done,), waiting = ray.wait(waiting, num_returns=1)
        yield done
