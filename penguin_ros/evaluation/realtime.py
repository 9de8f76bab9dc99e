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

from penguin_engine.answer import Answer
from penguin_models.errors import MediaError
from penguin_models.types import Frame
from penguin_ros.evaluation.arms import Asked, Engine, MemoryLog
from penguin_ros.evaluation.recording import StampedImage
from penguin_ros.evaluation.replay import BagJob, Sink, answer_record, attempt

ARM = "realtime"


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
    """Replays a bag in arm "realtime".

    Raises:
        MediaError: the bag cannot be read to its end; what was answered before is in the sink.
    """
    if all(job.finished(asked, ARM) is not None for asked in job.asked()):
        return
    live = _Live(job, engine, sink, timer)
    try:
        live.run()
    finally:
        live.close()


class _Live:
    def __init__(self, job: BagJob, engine: Engine, sink: Sink, timer: Callable[[], float]):
        self._job, self._engine, self._sink = job, engine, sink
        self._watches = engine.watches(job.recording.cameras)
        self._log = MemoryLog(ARM, job.recording, self._watches)
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
            watch = self._watches[timeline.camera]
            counts = {
                "images": watch.mailbox.received,
                "dropped": watch.mailbox.dropped,
                "bad": watch.bad_frames,
                "last_error": watch.last_error,
            }
            self._sink.timeline(timeline.model_copy(update=counts))

    def close(self) -> None:
        for watch in self._watches.values():
            watch.session.close()

    def _deliver(self) -> None:
        """Hands over every image whose stamp has come."""
        while self._next is not None and self._next.ref.stamp_ns <= self._clock.now_ns():
            ref = self._next.ref
            self._watches[ref.camera].mailbox.offer(ref.stamp_ns, self._next.load)
            self._clock.exclude(self._read_next)

    def _read_next(self) -> None:
        self._next = next(self._images, None)

    def _step(self) -> bool:
        """One piece of work; False when there is nothing to do."""
        self._take_frames()
        if self._waiting[0].stamp_ns <= self._clock.now_ns():
            self._answer(self._waiting.pop(0))
            return True
        for watch in self._watches.values():
            if not watch.session.up_to_date:
                start_ns = self._clock.now_ns()
                watch.session.advance()
                self._log.timelines[watch.camera].seconds[-1] += (self._clock.now_ns() - start_ns) * 1e-9
                return True
        return False

    def _take_frames(self) -> None:
        for watch in self._watches.values():
            load = watch.mailbox.take()
            if load is None:
                continue
            start_ns = self._clock.now_ns()
            try:
                frame = load()
            except MediaError as err:
                watch.cannot_read(err)
                continue
            watch.observe(frame)
            self._newest[frame.camera] = frame
            self._log.add(frame, (self._clock.now_ns() - start_ns) * 1e-9)

    def _answer(self, asked: Asked) -> None:
        earlier = self._job.finished(asked, ARM)
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
            self._sink.answer(answer_record(self._job, asked, ARM, outcome, newest, self._sink, waited_s, joules))

        self._clock.exclude(record)

    def _ask(self, asked: Asked) -> Answer:
        return self._engine.ask_watches(self._watches, asked, on_token=self._on_token)

    def _on_token(self, count: int) -> None:
        self._deliver()
        self._take_frames()
