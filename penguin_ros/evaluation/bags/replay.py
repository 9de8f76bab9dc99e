"""Replays one bag on its own clock: every frame is processed, every question is asked at its time, and the speed of the
machine has no influence. Two replays give the same answers.

The method "realtime" is the exception and has its own replay, in realtime.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from typing import TypeVar

from penguin_engine.bench.energy import EnergyMeter
from penguin_engine.scene.answer import Answer
from penguin_engine.scene.mailbox import Mailbox
from penguin_engine.scene.multi_camera import newest_last
from penguin_models.errors import EvaluationError, MediaError, NonFiniteError, PenguinError
from penguin_models.types import Frame
from penguin_ros.evaluation.bags.jobs import Asked, BagJob
from penguin_ros.evaluation.bags.methods import Engine, LastFramesMethod, MemoryMethod, Method, OfflineMethod
from penguin_ros.evaluation.records import AnswerRecord, Timeline, answer_fields, answer_key, frame_record, question_key
from penguin_ros.recording import RecordedImage

T = TypeVar("T")
_METHODS: dict[str, type[Method]] = {"memory": MemoryMethod, "last-4": LastFramesMethod, "offline": OfflineMethod}


def replay(job: BagJob, engine: Engine) -> Iterator[AnswerRecord | Timeline]:
    """Replays a bag up to the last question, for all methods but "realtime" that have answers missing.

    Yields answers as they come, and the history of each memory. Raises MediaError if the bag cannot be read to its end.
    """
    unfinished = {method for _, method, _ in job.missing()} & set(_METHODS)
    methods: dict[str, Method] = {
        name: _METHODS[name](engine, job.recording) for name in job.settings.methods if name in unfinished
    }
    if not methods:
        return
    try:
        yield from _replay(job, methods, engine.meter)
    finally:
        for method in methods.values():
            method.close()


def _replay(job: BagJob, methods: Mapping[str, Method], meter: EnergyMeter | None) -> Iterator[AnswerRecord | Timeline]:
    sampler = _FrameSampler(job)
    waiting = job.asked()
    for image in job.recording.read():
        while waiting and waiting[0].stamp_ns < image.ref.stamp_ns:
            yield from _ask(job, waiting, methods, meter, sampler)
        if not waiting:
            return
        frame = sampler.take(image)
        if frame is not None:
            for method in methods.values():
                method.see(frame)
    while waiting:
        yield from _ask(job, waiting, methods, meter, sampler)


def _ask(
    job: BagJob, waiting: list[Asked], methods: Mapping[str, Method], meter: EnergyMeter | None, sampler: _FrameSampler
) -> Iterator[AnswerRecord | Timeline]:
    """Removes the next question from those that wait, and asks it."""
    asked = waiting.pop(0)
    missing = job.missing()
    for name, method in methods.items():
        if answer_key(asked.question, name) in missing:
            outcome, joules = attempt(partial(method.ask, asked), meter)
            yield answer_record(job, asked, name, outcome, sampler.newest, joules=joules)
        # Directly after the last answer: a resumed run replays the memory only if one of its answers is missing.
        if not waiting and isinstance(method, MemoryMethod):
            yield from map(sampler.add_counts, method.log.timelines.values())


class _FrameSampler:
    """Selects the images that the node would take at its sampling rate, and decodes only those."""

    def __init__(self, job: BagJob):
        rate_hz = job.settings.node()["sample_rate_hz"]
        self._mailboxes = {camera: Mailbox(rate_hz) for camera in job.recording.cameras}
        self._errors: dict[str, list[str]] = {camera: [] for camera in job.recording.cameras}
        self.newest: dict[str, Frame] = {}

    def take(self, image: RecordedImage) -> Frame | None:
        mailbox = self._mailboxes[image.ref.camera]
        if not mailbox.offer(image.ref.stamp_ns, image.load):
            return None
        mailbox.take()
        try:
            frame = image.load()
        except MediaError as err:
            self._errors[image.ref.camera].append(str(err))
            return None
        self.newest[frame.camera] = frame
        return frame

    def add_counts(self, timeline: Timeline) -> Timeline:
        errors = self._errors[timeline.camera]
        images = self._mailboxes[timeline.camera].received
        return timeline.model_copy(update={"images": images, "bad": len(errors), "last_error": "".join(errors[-1:])})


def attempt(ask: Callable[[], T], meter: EnergyMeter | None) -> tuple[T | PenguinError, float | None]:
    """Calls `ask` and returns its result or its PenguinError, with the energy in joules if a meter measured it.

    Raises:
        NonFiniteError: The model is damaged or overflows, so there is nothing to score.
    """
    with nullcontext(None) if meter is None else meter.measure() as reading:
        try:
            outcome: T | PenguinError = ask()
        except NonFiniteError:
            raise
        except PenguinError as err:
            outcome = err
    return outcome, None if reading is None else reading.total


def answer_record(
    job: BagJob,
    asked: Asked,
    method: str,
    outcome: Answer | PenguinError,
    newest: Mapping[str, Frame],
    waited_s: float = 0.0,
    joules: float | None = None,
) -> AnswerRecord:
    """Returns the record of a method's answer, or of the error in its place.

    `newest` has the newest frame of each camera that the method has seen; boxes refer to the newest of these.
    `waited_s` is the time from the question to the start of the work.
    """
    frame, truth = None, {}
    stamps_ns = {camera: newest[camera].stamp_ns for camera in asked.cameras if camera in newest}
    if stamps_ns:
        newest_frame = newest[newest_last(stamps_ns)[-1]]
        frame = frame_record(job.recording.name, newest_frame, asked.start_ns)
        try:
            truth = job.truth_at(asked.question, newest_frame.stamp_ns)
        except EvaluationError as err:
            outcome = err
    return AnswerRecord(
        question=asked.question.id,
        method=method,
        key=question_key(asked.question),
        time_s=(asked.stamp_ns - asked.start_ns) * 1e-9,
        waited_s=waited_s,
        joules=joules,
        frame=frame,
        truth=truth,
        **answer_fields(outcome, asked.start_ns),
    )
