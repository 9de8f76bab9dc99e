"""Replays one bag on its own clock: every frame is processed, every question is asked at its time, and the speed of the
machine has no influence. Two replays give the same answers.

The method "realtime" is the exception and has its own replay, in realtime.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Protocol, TypeVar

from penguin_engine.scene.answer import Answer
from penguin_engine.scene.mailbox import Mailbox
from penguin_engine.scene.multi_camera import newest_last
from penguin_models.errors import EvaluationError, MediaError, PenguinError
from penguin_models.types import Frame
from penguin_ros.evaluation.bags.baselines import LastFramesMethod, OfflineMethod
from penguin_ros.evaluation.bags.jobs import SINGLE_CAMERA_METHODS, BagJob, truth_at
from penguin_ros.evaluation.bags.methods import Asked, Engine, MemoryMethod, Meter, Method
from penguin_ros.evaluation.bags.recording import Recording, StampedImage
from penguin_ros.evaluation.records import AnswerRecord, Timeline, answer_fields, frame_record, question_key, thumbnail

T = TypeVar("T")
_METHODS: dict[str, Callable[[Engine, Recording], Method]] = {
    "memory": MemoryMethod,
    "last-4": LastFramesMethod,
    "offline": OfflineMethod,
}


class Sink(Protocol):
    """Receives the results of a replay as they come."""

    def answer(self, record: AnswerRecord) -> None:
        """Receives an answer."""
        ...

    def timeline(self, timeline: Timeline) -> None:
        """Receives the history of one camera's memory, once per replay."""
        ...

    def picture(self, name: str, jpeg: Callable[[], bytes]) -> None:
        """Receives a frame that an answer refers to; `jpeg` is called only if the picture is not stored yet."""
        ...


def replay(job: BagJob, engine: Engine, sink: Sink) -> None:
    """Replays a bag up to the last question, for all methods but "realtime" that have answers missing.

    Raises:
        MediaError: The bag cannot be read to its end; the sink has the answers made before.
    """
    unfinished = {method for _, method, _ in job.wanted() - set(job.done)} & set(_METHODS)
    methods = [_METHODS[name](engine, job.recording) for name in job.settings.methods if name in unfinished]
    if not methods:
        return
    try:
        _replay(job, methods, engine.meter, sink)
    finally:
        for method in methods:
            method.close()


def _replay(job: BagJob, methods: Sequence[Method], meter: Meter | None, sink: Sink) -> None:
    sampler = _FrameSampler(job)
    waiting = job.asked()

    def ask_next() -> None:
        asked = waiting.pop(0)
        for method in methods:
            unsupported = method.name in SINGLE_CAMERA_METHODS and len(asked.cameras) > 1
            if not unsupported and job.finished(asked, method.name) is None:
                outcome, joules = attempt(partial(method.ask, asked), meter)
                sink.answer(answer_record(job, asked, method.name, outcome, sampler.newest, sink, joules=joules))
            # Directly after the last answer: a resumed run replays the memory only if one of its answers is missing.
            if not waiting and isinstance(method, MemoryMethod):
                for timeline in method.log.timelines.values():
                    sink.timeline(sampler.add_counts(timeline))

    for image in job.recording.read():
        while waiting and waiting[0].stamp_ns < image.ref.stamp_ns:
            ask_next()
        if not waiting:
            break
        frame = sampler.take(image)
        if frame is not None:
            for method in methods:
                method.see(frame)
    while waiting:
        ask_next()


class _FrameSampler:
    """Selects the images that the node would take at its sampling rate, and decodes only those."""

    def __init__(self, job: BagJob):
        rate_hz = job.settings.node()["sample_rate_hz"]
        self._mailboxes = {camera: Mailbox(rate_hz) for camera in job.recording.cameras}
        self._errors: dict[str, list[str]] = {camera: [] for camera in job.recording.cameras}
        self.newest: dict[str, Frame] = {}

    def take(self, image: StampedImage) -> Frame | None:
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


def attempt(ask: Callable[[], T], meter: Meter | None = None) -> tuple[T | PenguinError, float | None]:
    """Calls `ask` and returns its result or its PenguinError, with the energy in joules if a meter measured it."""
    with nullcontext(None) if meter is None else meter.measure() as reading:
        try:
            outcome: T | PenguinError = ask()
        except PenguinError as err:
            outcome = err
    return outcome, None if reading is None else reading.total


def answer_record(
    job: BagJob,
    asked: Asked,
    method: str,
    outcome: Answer | PenguinError,
    newest: dict[str, Frame],
    sink: Sink,
    waited_s: float = 0.0,
    joules: float | None = None,
) -> AnswerRecord:
    """Returns the record of an answer, or of the error in its place.

    Args:
        job: The bag's job.
        asked: The question.
        method: Name of the method that answered.
        outcome: The answer or the error.
        newest: Newest frame of each camera that the method has seen.
        sink: Receives the picture of the newest frame, which boxes refer to.
        waited_s: Seconds from the question to the start of the work.
        joules: Energy of the answer.
    """
    record = AnswerRecord(
        question=asked.question.id,
        method=method,
        key=question_key(asked.question),
        time_s=(asked.stamp_ns - asked.start_ns) * 1e-9,
        waited_s=waited_s,
        joules=joules,
    )
    stamps_ns = {camera: newest[camera].stamp_ns for camera in asked.cameras if camera in newest}
    if stamps_ns:
        frame = newest[newest_last(stamps_ns)[-1]]
        record.frame = frame_record(job.recording.name, frame, asked.start_ns)
        sink.picture(record.frame.file, partial(thumbnail, frame.rgb))
        try:
            record.truth = truth_at(job, asked.question, frame.stamp_ns)
        except EvaluationError as err:
            outcome = err
    if isinstance(outcome, PenguinError):
        return record.model_copy(update={"error": f"{type(outcome).__name__}: {outcome}"})
    return record.model_copy(update=answer_fields(outcome, asked.start_ns))
