"""One bag, replayed on its own clock: every frame is seen, every question is asked at its time, and nothing depends on
how fast this machine is. Two replays give the same answers.

Method "realtime" is replayed apart, in realtime.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeVar

from penguin_engine.scene.answer import Answer
from penguin_engine.scene.mailbox import Mailbox
from penguin_engine.scene.multi_camera import newest_last
from penguin_models.errors import EvaluationError, MediaError, PenguinError
from penguin_models.types import Frame
from penguin_ros.evaluation.bags.baselines import LastFramesMethod, OfflineMethod
from penguin_ros.evaluation.bags.ground_truth import TruthTopic
from penguin_ros.evaluation.bags.methods import Asked, Engine, MemoryMethod, Meter, Method
from penguin_ros.evaluation.bags.recording import Recording, StampedImage
from penguin_ros.evaluation.question_file import ExpectedObject, Question
from penguin_ros.evaluation.records import (
    AnswerRecord,
    ModelSpec,
    RunSettings,
    Timeline,
    answer_fields,
    frame_record,
    question_key,
    thumbnail,
)

T = TypeVar("T")
ONE_CAMERA = ("last-4", "offline")
"""Ways of answering that have no prompt for several cameras."""


@dataclass(frozen=True)
class BagJob:
    """Everything that must be known to evaluate one bag, in any process.

    Attributes:
        recording: the bag.
        questions: about it.
        truth: its topics with boxes.
        model: what answers.
        settings: of the run.
        done: answers that are there already: question, method and key of each.
    """

    recording: Recording
    questions: tuple[Question, ...]
    truth: dict[str, TruthTopic]
    model: ModelSpec
    settings: RunSettings
    done: dict[tuple[str, str, str], AnswerRecord] = field(default_factory=dict)

    def asked(self) -> list[Asked]:
        """The questions in the order in which they are asked."""
        return sorted(map(self._asked, self.questions), key=lambda asked: asked.stamp_ns)

    def wanted(self) -> set[tuple[str, str, str]]:
        """Question, method and key of every answer that the bag is to give."""
        return {
            (question.id, method, question_key(question))
            for question in self.questions
            for method in self.settings.methods
            if len(question.cameras) < 2 or method not in ONE_CAMERA
        }

    def finished(self, asked: Asked, method: str) -> AnswerRecord | None:
        """The answer of an earlier run."""
        return self.done.get((asked.question.id, method, question_key(asked.question)))

    def _asked(self, question: Question) -> Asked:
        cameras = question.cameras or self.recording.cameras[:1]
        start_ns = self.recording.span_ns(cameras[0])[0]
        sampling = self.settings.node().sampling
        if question.max_new_tokens is not None:
            sampling = replace(sampling, max_new_tokens=question.max_new_tokens)
        return Asked(question, cameras, ask_stamp_ns(question, start_ns), start_ns, sampling)


class Sink(Protocol):
    """Takes what a replay finds, piece by piece."""

    def answer(self, record: AnswerRecord) -> None:
        """An answer is complete."""
        ...

    def timeline(self, timeline: Timeline) -> None:
        """A camera's replay is complete."""
        ...

    def picture(self, name: str, jpeg: Callable[[], bytes]) -> None:
        """A frame that an answer speaks of; made only where it is not there yet."""
        ...


def ask_stamp_ns(question: Question, start_ns: int) -> int:
    """When a question is asked; its clock begins at `start_ns`."""
    return start_ns + round(question.time_s * 1e9) if question.time_s is not None else question.stamp_ns or 0


def replay(job: BagJob, engine: Engine, sink: Sink) -> None:
    """Replays a bag for all methods but "realtime" that have something left to answer. It ends with the last question.

    Raises:
        MediaError: the bag cannot be read to its end; what was answered before is in the sink.
    """
    unfinished = {method for _, method, _ in job.wanted() - set(job.done)}
    methods = [
        _METHODS[name](engine, job.recording) for name in job.settings.methods if name in unfinished & set(_METHODS)
    ]
    if not methods:
        return
    try:
        _replay(job, methods, engine.meter, sink)
    finally:
        for method in methods:
            method.close()


_METHODS: dict[str, Callable[[Engine, Recording], Method]] = {
    "memory": MemoryMethod,
    "last-4": LastFramesMethod,
    "offline": OfflineMethod,
}


def _replay(job: BagJob, methods: Sequence[Method], meter: Meter | None, sink: Sink) -> None:
    gate = _Gate(job)
    waiting = job.asked()
    for image in job.recording.read():
        while waiting and waiting[0].stamp_ns < image.ref.stamp_ns:
            _ask(job, methods, waiting.pop(0), gate, meter, sink, last=not waiting)
        if not waiting:
            break
        frame = gate.take(image)
        if frame is not None:
            for method in methods:
                method.see(frame)
    while waiting:
        _ask(job, methods, waiting.pop(0), gate, meter, sink, last=not waiting)


class _Gate:
    """Takes the images that the node would take at its sampling rate, and decodes those alone."""

    def __init__(self, job: BagJob):
        rate_hz = job.settings.node()["sample_rate_hz"]
        self._mailboxes = {camera: Mailbox(rate_hz) for camera in job.recording.cameras}
        self._bad: dict[str, list[str]] = {camera: [] for camera in job.recording.cameras}
        self.newest: dict[str, Frame] = {}

    def take(self, image: StampedImage) -> Frame | None:
        mailbox = self._mailboxes[image.ref.camera]
        if not mailbox.offer(image.ref.stamp_ns, image.load):
            return None
        mailbox.take()
        try:
            frame = image.load()
        except MediaError as err:
            self._bad[image.ref.camera].append(str(err))
            return None
        self.newest[frame.camera] = frame
        return frame

    def count(self, timeline: Timeline) -> Timeline:
        bad = self._bad[timeline.camera]
        counts = {"images": self._mailboxes[timeline.camera].received, "bad": len(bad), "last_error": (bad or [""])[-1]}
        return timeline.model_copy(update=counts)


def _ask(
    job: BagJob, methods: Sequence[Method], asked: Asked, gate: _Gate, meter: Meter | None, sink: Sink, last: bool
) -> None:
    for method in methods:
        impossible = method.name in ONE_CAMERA and len(asked.cameras) > 1
        if not impossible and job.finished(asked, method.name) is None:
            outcome, joules = attempt(partial(method.ask, asked), meter)
            sink.answer(answer_record(job, asked, method.name, outcome, gate.newest, sink, joules=joules))
        # With the last answer at once: with all of them there, the memory is not replayed again.
        if last and isinstance(method, MemoryMethod):
            for timeline in method.log.timelines.values():
                sink.timeline(gate.count(timeline))


def attempt(ask: Callable[[], T], meter: Meter | None = None) -> tuple[T | PenguinError, float | None]:
    """Asks; an error that the question or the settings cause is an outcome like an answer.

    Returns:
        The outcome, and its energy in joules where a meter knows it.
    """
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
    """A record of an answer, or of why there is none.

    Args:
        job: that the question belongs to.
        asked: the question.
        method: that answered.
        outcome: the answer, or the error.
        newest: newest frame of each camera that the method had seen.
        sink: takes the picture of the newest frame.
        waited_s: until the work began.
        joules: energy of the answer.
    """
    record = AnswerRecord(
        question=asked.question.id,
        method=method,
        key=question_key(asked.question),
        time_s=(asked.stamp_ns - asked.start_ns) * 1e-9,
        waited_s=waited_s,
        joules=joules,
    )
    seen = {camera: newest[camera].stamp_ns for camera in asked.cameras if camera in newest}
    if seen:
        frame = newest[newest_last(seen)[-1]]  # boxes refer to it
        record.frame = frame_record(job.recording.name, frame, asked.start_ns)
        sink.picture(record.frame.file, partial(thumbnail, frame.rgb))
        try:
            record.truth = truth_at(job, asked.question, frame.stamp_ns)
        except EvaluationError as err:
            outcome = err
    if isinstance(outcome, PenguinError):
        return record.model_copy(update={"error": f"{type(outcome).__name__}: {outcome}"})
    return record.model_copy(update=answer_fields(outcome, asked.start_ns))


def truth_at(job: BagJob, question: Question, stamp_ns: int) -> dict[str, list[ExpectedObject]]:
    """Boxes that a question expects in the image of a stamp, by topic of the bag.

    Raises:
        EvaluationError: a topic has no message near it.
    """
    topics = truth_topics([question])
    return {topic: list(job.truth[topic].at(stamp_ns)) for topic in topics}


def truth_topics(questions: Sequence[Question]) -> list[str]:
    """Topics from which questions take their expected boxes."""
    items = [item for question in questions for item in question.expected]
    return list(dict.fromkeys(item.topic for item in items if item.type == "objects" and item.topic))
