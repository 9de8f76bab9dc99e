"""Replays one bag as it would reach the live node on this machine: newer frames replace those that wait.

The node's own worker does the work, captions included, on a simulated clock: work is done for real and its duration
measured; idle time is skipped, and reading the bag takes no time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from time import perf_counter

from penguin_engine.scene.answer import Answer
from penguin_engine.scene.camera_state import CameraState
from penguin_engine.scene.first_costs import measure
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.requests import Outcome, PendingRequest, RequestQueue
from penguin_engine.scene.worker import SceneWorker
from penguin_models.errors import NonFiniteError, PenguinError
from penguin_models.types import Frame
from penguin_ros.evaluation.bags.jobs import Asked, BagJob
from penguin_ros.evaluation.bags.methods import Engine, MemoryLog
from penguin_ros.evaluation.bags.replay import answer_record, attempt
from penguin_ros.evaluation.records import AnswerRecord, Timeline
from penguin_ros.recording import RecordedImage

METHOD = "realtime"
_LOADING_NS = 60_000_000_000
"""The clock starts this long before the recording, so that the pace is measured before it."""


class SimulatedClock:
    """The time of a recording: it passes with work that is measured and skips idle time."""

    def __init__(self, start_ns: int, factor: float, timer: Callable[[], float]):
        """Starts at a stamp; the factor multiplies the seconds that the timer counts."""
        self._timer, self._factor = timer, factor
        self._base_ns = start_ns
        self._mark = timer()

    def now_ns(self) -> int:
        """Returns the current stamp."""
        return self._base_ns + round((self._timer() - self._mark) * self._factor * 1e9)

    def now_s(self) -> float:
        """Returns the current stamp in seconds."""
        return self.now_ns() * 1e-9

    def jump_to(self, stamp_ns: int) -> None:
        """Skips idle time; never goes back."""
        self._base_ns, self._mark = max(self.now_ns(), stamp_ns), self._timer()

    @contextmanager
    def excluded(self) -> Iterator[None]:
        """Stops the clock inside the `with` block."""
        now_ns = self.now_ns()
        try:
            yield
        finally:
            self._base_ns, self._mark = now_ns, self._timer()


def replay_realtime(
    job: BagJob, engine: Engine, timer: Callable[[], float] = perf_counter
) -> Iterator[AnswerRecord | Timeline]:
    """Replays a bag with the method "realtime", and yields answers as they come, then the history of each memory.

    Raises MediaError if the bag cannot be read to its end.
    """
    if all(job.finished(asked, METHOD) is not None for asked in job.asked()):
        return
    worker = _SimulatedWorker(job, engine, timer)
    try:
        yield from worker.run()
    finally:
        worker.queue.close("the replay is over")
        worker.stop()


class _SimulatedWorker(SceneWorker):
    """The node's worker, driven step by step on a simulated clock, and the listener that records what it does."""

    def __init__(self, job: BagJob, engine: Engine, timer: Callable[[], float]):
        start_ns = job.recording.images[0].stamp_ns
        clock = SimulatedClock(start_ns - _LOADING_NS, job.settings.realtime_factor, timer)
        node = job.settings.node(job.recording.cameras)
        pace = Pace(node.pace, clock.now_s) if node["pace"] else None
        states = engine.camera_states(job.recording.cameras, clock.now_s, pace)
        queue = RequestQueue(node["queue_size"])
        super().__init__(
            engine.runtime, engine.processor, states.values(), node.caption, queue, self, clock.now_s, pace
        )
        if pace is not None:
            measure(engine.runtime, engine.processor, pace, node.memory(engine.processor.images))
        clock.jump_to(start_ns)
        self._job, self._engine, self._time = job, engine, clock
        self._log = MemoryLog(METHOD, job.recording, states)
        self._waiting = job.asked()
        self._records: list[AnswerRecord] = []  # made since the last step
        self._submitted: dict[PendingRequest, Asked] = {}
        self._newest_frames: dict[str, Frame] = {}
        self._loaded_ns = clock.now_ns()
        self._images = job.recording.read()
        self._next: RecordedImage | None
        self._read_next()

    def run(self) -> Iterator[AnswerRecord | Timeline]:
        """Replays until every question has been answered, and yields the results."""
        self.queue.open()
        while self._waiting or self._submitted:
            if not self.step():
                coming = [asked.stamp_ns for asked in self._waiting[:1]]
                if self._next is not None:
                    coming.append(self._next.ref.stamp_ns)
                if (idle_s := self.idle_s()) is not None:
                    coming.append(self._time.now_ns() + max(1, round(idle_s * 1e9)))
                self._time.jump_to(min(coming, default=self._time.now_ns()))
            with self._time.excluded():
                yield from self._records
                self._records.clear()
        for timeline in self._log.timelines.values():
            state = self.camera_states[timeline.camera]
            counts = {
                "images": state.mailbox.received,
                "dropped": state.mailbox.dropped,
                "bad": state.bad_frames,
                "last_error": state.last_error,
            }
            yield timeline.model_copy(update=counts)

    def step(self) -> bool:
        """Delivers what is due, then works as the live worker does."""
        self._deliver()
        return super().step()

    def take_frames(self, all_waiting: bool = False) -> None:
        """Delivers what is due, then takes frames as the live worker does."""
        self._deliver()
        super().take_frames(all_waiting)

    def _deliver(self) -> None:
        """Offers every image and submits every question that is due."""
        while self._next is not None and self._next.ref.stamp_ns <= self._time.now_ns():
            image = self._next
            self.offer(image.ref.camera, image.ref.stamp_ns, partial(self._load, image))
            self._read_next()
        self._submit_due()

    def answer(self, pending: PendingRequest) -> None:
        """Answers a question and records the answer."""
        asked = self._submitted.pop(pending)
        newest = dict(self._newest_frames)  # the answer does not refer to frames that arrive meanwhile
        waited_s = max(0.0, (self._time.now_ns() - asked.stamp_ns) * 1e-9)
        _, joules = attempt(partial(super().answer, pending), self._engine.meter)
        with self._time.excluded():
            self._record(asked, pending, newest, waited_s, joules)

    def prefill(self, state: CameraState) -> None:
        """Prefills frames and adds the duration to the last frame of the camera's timeline."""
        start_ns = self._time.now_ns()
        super().prefill(state)
        self._log.timelines[state.camera].seconds[-1] += (self._time.now_ns() - start_ns) * 1e-9

    def on_memory(self, camera_state: CameraState) -> None:
        """Records the state of a memory after a frame."""
        self._log.add(self._newest_frames[camera_state.camera], (self._time.now_ns() - self._loaded_ns) * 1e-9)

    def on_keyframe(self, frame: Frame) -> None:
        """Does nothing: no episodes are kept."""

    def on_bad_frame(self, camera_state: CameraState) -> None:
        """Does nothing: the camera's state counts bad frames."""

    def on_pace(self, pace: Pace) -> None:
        """Does nothing: the timeline shows when frames are taken, and at which size."""

    def on_caption(self, outcome: Outcome) -> None:
        """Does nothing: captions take their time, and are not scored."""

    def on_answer(self, outcome: Outcome) -> None:
        """Does nothing: `answer` records it."""

    def on_failure(self, doing: str, error: Exception) -> None:
        """Raises what the live node would log: an evaluation must not hide it."""
        raise error

    def _load(self, image: RecordedImage) -> Frame:
        self._loaded_ns = self._time.now_ns()
        frame = image.load()
        self._newest_frames[frame.camera] = frame
        return frame

    def _read_next(self) -> None:
        with self._time.excluded():
            self._next = next(self._images, None)

    def _submit_due(self) -> None:
        """Queues the next question if it is due; an answer of an earlier run takes the time that it took."""
        while not len(self.queue) and self._waiting and self._waiting[0].stamp_ns <= self._time.now_ns():
            asked = self._waiting.pop(0)
            earlier = self._job.finished(asked, METHOD)
            if earlier is not None:
                self._time.jump_to(self._time.now_ns() + round(sum(earlier.seconds.values()) * 1e9))
                continue
            try:
                deadline_s = self._job.settings.node(self._job.recording.cameras)["latency_target_s"]
                pending = self.submit(replace(self._engine.request(asked), deadline_s=deadline_s))
                pending.submitted_s = asked.stamp_ns * 1e-9
            except PenguinError as err:
                self._records.append(answer_record(self._job, asked, METHOD, err, self._newest_frames))
            else:
                self._submitted[pending] = asked

    def _record(
        self, asked: Asked, pending: PendingRequest, newest: dict[str, Frame], waited_s: float, joules: float | None
    ) -> None:
        error = pending.outcome.exception()
        if error is not None and (isinstance(error, NonFiniteError) or not isinstance(error, PenguinError)):
            raise error
        result: Answer | PenguinError = error if error is not None else pending.outcome.result().answer
        if isinstance(result, Answer):
            factor = self._job.settings.realtime_factor
            result.seconds = {name: seconds * factor for name, seconds in result.seconds.items()}
        self._records.append(answer_record(self._job, asked, METHOD, result, newest, waited_s, joules))
