"""SceneWorker: the one thread that owns the sessions of all cameras.

It does one piece of work after the other, the most urgent first: take frames, answer the next question, make a caption
that is due, prefill a few of the frames that wait. A question that arrives ends a caption before its next token; frames
keep arriving while an answer is generated.

All other threads only leave things here and return at once. Knows no ROS; a listener is called from the worker.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import Protocol

from penguin_engine.answer import Answer
from penguin_engine.generation import Sampling
from penguin_engine.mailbox import LoadFrame
from penguin_engine.memory import HeldFrame
from penguin_engine.questions import Outcome, Question, QuestionQueue, Ticket
from penguin_engine.runtime import Runtime
from penguin_engine.several_cameras import ask_cameras, newest_last
from penguin_engine.watch import CaptionConfig, Watch
from penguin_models.errors import MediaError, NoFramesError, UnknownCameraError
from penguin_models.processor import Processor


class Listener(Protocol):
    """Who is told what happens; every method is called from the worker's thread."""

    def on_memory(self, watch: Watch) -> None:
        """A camera's memory has taken a frame, or dropped one because it was late, or was emptied."""
        ...

    def on_bad_frame(self, watch: Watch) -> None:
        """A camera's image could not be converted; `watch.last_error` says why."""
        ...

    def on_caption(self, outcome: Outcome) -> None:
        """A caption is complete."""
        ...

    def on_answer(self, outcome: Outcome) -> None:
        """A question has been answered; whoever asked is told through the ticket."""
        ...

    def on_failure(self, doing: str, error: Exception) -> None:
        """Something failed unexpectedly; the work goes on."""
        ...


class SceneWorker:
    """Watches cameras and answers questions, from `start` to `stop`.

    Attributes:
        watches: name of each camera -> what is known of it.
        queue: questions that wait.
        caption: when captions are made.
        captions_preempted: captions that a question cut short.
    """

    def __init__(
        self,
        runtime: Runtime,
        processor: Processor,
        watches: Iterable[Watch],
        caption: CaptionConfig,
        queue: QuestionQueue,
        listener: Listener,
    ):
        self.watches = {watch.camera: watch for watch in watches}
        self.queue, self.caption = queue, caption
        self.captions_preempted = 0
        self._runtime, self._processor, self._listener = runtime, processor, listener
        self._wake = threading.Condition()
        self._news = False  # something was left since the worker last looked
        self._stopping = False
        self._clear = False
        self._changes: deque[Callable[[], None]] = deque()
        self._frame_changes: deque[Callable[[], None]] = deque()
        self._thread = threading.Thread(target=self._work, name="scene-worker")

    # What other threads call.

    def start(self) -> None:
        """Starts the thread; frames and questions are refused until `resume`."""
        self._thread.start()

    def stop(self) -> None:
        """Ends everything, waits for the runtime's current operation and frees the caches."""
        self.queue.close()
        self._stopping = True
        self._tell()
        self._thread.join()
        for watch in self.watches.values():
            watch.session.close()

    def resume(self) -> None:
        """Takes frames and questions from now on."""
        self.queue.open()
        self._tell()

    def pause(self) -> None:
        """Ends all questions as cancelled and takes nothing more; what has been seen is kept."""
        self.queue.close()
        self._tell()

    def abandon(self) -> None:
        """The question that is being answered ends as cancelled now, whatever the runtime is doing."""
        self.queue.abandon()

    def offer(self, camera: str, stamp_ns: int, load: LoadFrame) -> None:
        """Leaves a camera's newest frame, unless the worker is paused."""
        if not self.queue.closed and self.watches[camera].mailbox.offer(stamp_ns, load):
            self._tell()

    def submit(self, question: Question, on_text: Callable[[str, int], None] = lambda piece, tokens: None) -> Ticket:
        """Leaves a question.

        Args:
            question: what is asked.
            on_text: called from the worker with each piece of text and the number of tokens so far.

        Raises:
            UnknownCameraError: a camera is not watched.
            NotActiveError: the worker is paused.
            BusyError: the queue is full.
        """
        unknown = [name for name in question.cameras if name not in self.watches]
        if unknown:
            raise UnknownCameraError(f"camera {unknown[0]!r} is not watched; cameras: {', '.join(self.watches)}")
        ticket = Ticket(question, on_text)
        self.queue.put(ticket)
        self._tell()
        return ticket

    def clear(self) -> None:
        """All memories are emptied before anything else is seen or asked."""
        self._clear = True
        self._tell()

    def change(self, change: Callable[[], None]) -> None:
        """Runs a change of settings in the worker, between two pieces of work."""
        self._changes.append(change)
        self._tell()

    def change_frames(self, change: Callable[[], None]) -> None:
        """Runs a change of how frames are taken, in the worker, before it takes another; even amid an answer."""
        self._frame_changes.append(change)
        self._tell()

    def _tell(self) -> None:
        with self._wake:
            self._news = True
            self._wake.notify()

    # The worker's thread.

    def _work(self) -> None:
        while not self._stopping:
            with self._wake:
                self._wake.wait_for(lambda: self._news)
                self._news = False
            busy = True
            while busy and not self._stopping:
                try:
                    busy = self._step()
                except Exception as err:  # noqa: BLE001 - this thread must not end
                    busy = False
                    self._listener.on_failure("working", err)

    def _step(self) -> bool:
        """One piece of work; False when there is nothing to do."""
        while self._changes:
            self._guarded("changing settings", self._changes.popleft())
        self._take_frames()
        ticket = self.queue.take()
        if ticket is not None:
            self._answer(ticket)
            return True
        if self.queue.closed:
            return False
        return self._make_caption() or self._advance()

    def _take_frames(self) -> None:
        while self._frame_changes:
            self._guarded("changing settings", self._frame_changes.popleft())
        if self._clear:
            self._clear = False
            for watch in self.watches.values():
                watch.session.memory.clear()
                self._listener.on_memory(watch)
        for watch in self.watches.values():
            load = watch.mailbox.take()
            if load is None:
                continue
            try:
                watch.observe(load())
                self._listener.on_memory(watch)
            except MediaError as err:
                watch.cannot_read(err)
                self._listener.on_bad_frame(watch)
            except Exception as err:  # noqa: BLE001 - not the fault of the question that may be running
                self._listener.on_failure(f"taking a frame of {watch.camera}", err)

    def _answer(self, ticket: Ticket) -> None:
        queue_s = monotonic() - ticket.asked_s
        try:
            outcome = self._ask(ticket, queue_s)
            self._listener.on_answer(outcome)
        except Exception as err:  # noqa: BLE001 - whoever asked gets it, and the worker goes on
            self.queue.done(err)
        else:
            self.queue.done(outcome)

    def _ask(self, ticket: Ticket, queue_s: float) -> Outcome:
        question = ticket.question
        tokens = 0

        def on_token(count: int) -> None:
            nonlocal tokens
            tokens = count
            self._take_frames()

        def on_text(piece: str) -> None:
            ticket.on_text(piece, tokens)

        wanted = question.cameras or tuple(self.watches)
        sessions = {name: self.watches[name].session for name in wanted}
        camera, frame = self._newest(wanted)
        pixels = frame.pixels  # the frame may shrink meanwhile
        generating = (question.text, question.sampling, question.horizon_s, on_text, lambda: ticket.cancelled, on_token)
        if len(sessions) == 1:
            answer = sessions[camera].ask(*generating)
        else:
            answer = ask_cameras(self._runtime, self._processor, sessions, *generating)
        return Outcome(answer, camera, frame, pixels, queue_s)

    def _newest(self, cameras: Iterable[str]) -> tuple[str, HeldFrame]:
        held = {name: frame for name in cameras if (frame := self.watches[name].newest) is not None}
        if not held:
            raise NoFramesError(f"no frame of {', '.join(cameras)} has been seen yet; is the camera publishing?")
        camera = newest_last({name: frame.stamp_ns for name, frame in held.items()})[-1]
        return camera, held[camera]

    def _make_caption(self) -> bool:
        for watch in sorted(self.watches.values(), key=lambda watch: watch.captioned_s):
            frame = watch.caption_due(self.caption)
            if frame is not None:
                self._guarded("making a caption", partial(self._describe, watch, frame), watch)
                return True
        return False

    def _describe(self, watch: Watch, frame: HeldFrame) -> None:
        def cancelled() -> bool:
            return len(self.queue) > 0 or self.queue.closed

        pixels = frame.pixels  # the frame may shrink meanwhile
        answer: Answer = watch.session.ask(
            self.caption.prompt,
            Sampling(max_new_tokens=self.caption.max_new_tokens),
            cancelled=cancelled,
            on_token=lambda count: self._take_frames(),
        )
        if answer.ended_by == "cancelled":
            self.captions_preempted += 1
            return
        watch.captioned(frame)
        watch.captions += 1
        self._listener.on_caption(Outcome(answer, watch.camera, frame, pixels))

    def _advance(self) -> bool:
        for watch in self.watches.values():
            if not watch.session.up_to_date:
                self._guarded("prefilling frames", watch.session.advance, watch)
                return True
        return False

    def _guarded(self, doing: str, work: Callable[[], object], watch: Watch | None = None) -> None:
        """Does something that nobody waits for; an error is reported, and the camera begins anew."""
        try:
            work()
        except Exception as err:  # noqa: BLE001 - the node outlives any one piece of work
            if watch is not None:
                watch.session.reset()
            self._listener.on_failure(doing, err)
