"""One bag, replayed as it would reach the live node on this machine: while it works, newer frames replace those that
wait.

Work is done for real and its time measured; idle time is skipped, and reading the bag takes none. What happens when
follows the node's worker: take the newest frame of each camera, answer the question that waits, else prefill a few
frames; while an answer is generated, frames are taken after each token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from time import perf_counter

from penguin_engine.scene.answer import Answer
from penguin_models.errors import MediaError
from penguin_models.types import Frame
from penguin_ros.evaluation.bags.jobs import BagJob
from penguin_ros.evaluation.bags.methods import Asked, Engine, MemoryLog
from penguin_ros.evaluation.bags.recording import StampedImage
from penguin_ros.evaluation.bags.replay import Sink, answer_record, attempt

METHOD = "realtime"


class WorkClock:
    """The time of a recording, which passes with work that is measured and jumps over idle time."""

    def __init__(self, start_ns: int, factor: float = 1.0, timer: Callable[[], float] = perf_counter):
        """Starts at a stamp.

        Args:
            start_ns: stamp.
            factor: work takes so many times as long as measured.
            timer: seconds from anywhere.
        """
        self._timer, self._factor = timer, factor
        self._base_ns = start_ns
        self._mark = timer()

    def now_ns(self) -> int:
        """The stamp now."""
        return self._base_ns + round((self._timer() - self._mark) * self._factor * 1e9)

    def jump_to(self, stamp_ns: int) -> None:
        """Skips idle time; never goes back."""
        self._base_ns, self._mark = max(self.now_ns(), stamp_ns), self._timer()

    def exclude(self, work: Callable[[], object]) -> object:
        """Does something that takes no time on this clock."""
        now_ns = self.now_ns()
        try:
            return work()
        finally:
            self._base_ns, self._mark = now_ns, self._timer()


def replay_realtime(job: BagJob, engine: Engine, sink: Sink, timer: Callable[[], float] = perf_counter) -> None:
    """Replays a bag in method "realtime".

    Raises:
        MediaError: the bag cannot be read to its end; what was answered before is in the sink.
    """
    if all(job.finished(asked, METHOD) is not None for asked in job.asked()):
        return
    live = _Live(job, engine, sink, timer)
    try:
        live.run()
    finally:
        live.close()


class _Live:
    def __init__(self, job: BagJob, engine: Engine, sink: Sink, timer: Callable[[], float]):
        self._job, self._engine, self._sink = job, engine, sink
        self._camera_states = engine.camera_states(job.recording.cameras)
        self._log = MemoryLog(METHOD, job.recording, self._camera_states)
        self._waiting = job.asked()
        self._newest: dict[str, Frame] = {}
        self._images: Iterator[StampedImage] = job.recording.read()
        self._next: StampedImage | None = next(self._images)
        assert self._next is not None, "a recording has images"
        self._clock = WorkClock(self._next.ref.stamp_ns, job.settings.realtime_factor, timer)

    def run(self) -> None:
        while self._waiting:
            self._deliver()
            if not self._step():
                coming = [asked.stamp_ns for asked in self._waiting[:1]]
                if self._next is not None:
                    coming.append(self._next.ref.stamp_ns)
                self._clock.jump_to(min(coming))
        for timeline in self._log.timelines.values():
            camera_state = self._camera_states[timeline.camera]
            counts = {
                "images": camera_state.mailbox.received,
                "dropped": camera_state.mailbox.dropped,
                "bad": camera_state.bad_frames,
                "last_error": camera_state.last_error,
            }
            self._sink.timeline(timeline.model_copy(update=counts))

    def close(self) -> None:
        for camera_state in self._camera_states.values():
            camera_state.session.close()

    def _deliver(self) -> None:
        """Hands over every image whose stamp has come."""
        while self._next is not None and self._next.ref.stamp_ns <= self._clock.now_ns():
            ref = self._next.ref
            self._camera_states[ref.camera].mailbox.offer(ref.stamp_ns, self._next.load)
            self._clock.exclude(self._read_next)

    def _read_next(self) -> None:
        self._next = next(self._images, None)

    def _step(self) -> bool:
        """One piece of work; False when there is nothing to do."""
        self._take_frames()
        if self._waiting[0].stamp_ns <= self._clock.now_ns():
            self._answer(self._waiting.pop(0))
            return True
        for camera_state in self._camera_states.values():
            if not camera_state.session.up_to_date:
                start_ns = self._clock.now_ns()
                camera_state.session.prefill_pending()
                self._log.timelines[camera_state.camera].seconds[-1] += (self._clock.now_ns() - start_ns) * 1e-9
                return True
        return False

    def _take_frames(self) -> None:
        for camera_state in self._camera_states.values():
            load = camera_state.mailbox.take()
            if load is None:
                continue
            start_ns = self._clock.now_ns()
            try:
                frame = load()
            except MediaError as err:
                camera_state.cannot_read(err)
                continue
            camera_state.observe(frame)
            self._newest[frame.camera] = frame
            self._log.add(frame, (self._clock.now_ns() - start_ns) * 1e-9)

    def _answer(self, asked: Asked) -> None:
        earlier = self._job.finished(asked, METHOD)
        if earlier is not None:  # answered before the run was interrupted; it takes the time that it took
            self._clock.jump_to(self._clock.now_ns() + round(sum(earlier.seconds.values()) * 1e9))
            return
        waited_s = max(0.0, (self._clock.now_ns() - asked.stamp_ns) * 1e-9)
        newest = dict(self._newest)  # frames that come meanwhile are not what the answer speaks of
        outcome, joules = attempt(partial(self._ask, asked), self._engine.meter)
        if isinstance(outcome, Answer):
            factor = self._job.settings.realtime_factor
            outcome.seconds = {name: seconds * factor for name, seconds in outcome.seconds.items()}

        def record() -> None:
            self._sink.answer(answer_record(self._job, asked, METHOD, outcome, newest, self._sink, waited_s, joules))

        self._clock.exclude(record)

    def _ask(self, asked: Asked) -> Answer:
        return self._engine.ask_camera_states(self._camera_states, asked, on_token=self._on_token)

    def _on_token(self, count: int) -> None:
        self._deliver()
        self._take_frames()
