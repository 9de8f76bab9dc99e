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

from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.answer import Answer
from penguin_engine.scene.camera_state import CameraState, CaptionConfig
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.mailbox import LoadFrame
from penguin_engine.scene.memory import HeldFrame
from penguin_engine.scene.multi_camera import ask_cameras, newest_last
from penguin_engine.scene.requests import Outcome, PendingRequest, Question, QuestionQueue
from penguin_models.errors import MediaError, NoFramesError, UnknownCameraError
from penguin_models.processor import Processor


class Listener(Protocol):
    """Who is told what happens; every method is called from the worker's thread."""

    def on_memory(self, camera_state: CameraState) -> None:
        """A camera's memory has taken a frame, or dropped one because it was late, or was emptied."""
        ...

    def on_bad_frame(self, camera_state: CameraState) -> None:
        """A camera's image could not be converted; `camera_state.last_error` says why."""
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
        camera_states: name of each camera -> what is known of it.
        queue: questions that wait.
        caption: when captions are made.
        captions_preempted: captions that a question cut short.
    """

    def __init__(
        self,
        runtime: Runtime,
        processor: Processor,
        camera_states: Iterable[CameraState],
        caption: CaptionConfig,
        queue: QuestionQueue,
        listener: Listener,
    ):
        self.camera_states = {camera_state.camera: camera_state for camera_state in camera_states}
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
        for camera_state in self.camera_states.values():
            camera_state.session.close()

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
        if not self.queue.closed and self.camera_states[camera].mailbox.offer(stamp_ns, load):
            self._tell()

    def submit(
        self, question: Question, on_text: Callable[[str, int], None] = lambda piece, tokens: None
    ) -> PendingRequest:
        """Leaves a question.

        Args:
            question: what is asked.
            on_text: called from the worker with each piece of text and the number of tokens so far.

        Raises:
            UnknownCameraError: a camera is not watched.
            NotActiveError: the worker is paused.
            BusyError: the queue is full.
        """
        unknown = [name for name in question.cameras if name not in self.camera_states]
        if unknown:
            raise UnknownCameraError(f"camera {unknown[0]!r} is not watched; cameras: {', '.join(self.camera_states)}")
        pending = PendingRequest(question, on_text)
        self.queue.put(pending)
        self._tell()
        return pending

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
        pending = self.queue.take()
        if pending is not None:
            self._answer(pending)
            return True
        if self.queue.closed:
            return False
        return self._make_caption() or self._prefill_pending()

    def _take_frames(self) -> None:
        while self._frame_changes:
            self._guarded("changing settings", self._frame_changes.popleft())
        if self._clear:
            self._clear = False
            for camera_state in self.camera_states.values():
                camera_state.session.memory.clear()
                self._listener.on_memory(camera_state)
        for camera_state in self.camera_states.values():
            load = camera_state.mailbox.take()
            if load is None:
                continue
            try:
                camera_state.observe(load())
                self._listener.on_memory(camera_state)
            except MediaError as err:
                camera_state.cannot_read(err)
                self._listener.on_bad_frame(camera_state)
            except Exception as err:  # noqa: BLE001 - not the fault of the question that may be running
                self._listener.on_failure(f"taking a frame of {camera_state.camera}", err)

    def _answer(self, pending: PendingRequest) -> None:
        queue_s = monotonic() - pending.asked_s
        try:
            outcome = self._ask(pending, queue_s)
            self._listener.on_answer(outcome)
        except Exception as err:  # noqa: BLE001 - whoever asked gets it, and the worker goes on
            self.queue.done(err)
        else:
            self.queue.done(outcome)

    def _ask(self, pending: PendingRequest, queue_s: float) -> Outcome:
        question = pending.question
        tokens = 0

        def on_token(count: int) -> None:
            nonlocal tokens
            tokens = count
            self._take_frames()

        def on_text(piece: str) -> None:
            pending.on_text(piece, tokens)

        wanted = question.cameras or tuple(self.camera_states)
        sessions = {name: self.camera_states[name].session for name in wanted}
        camera, frame = self._newest(wanted)
        pixels = frame.pixels  # the frame may shrink meanwhile
        generating = (
            question.text,
            question.sampling,
            question.horizon_s,
            on_text,
            lambda: pending.cancelled,
            on_token,
        )
        if len(sessions) == 1:
            answer = sessions[camera].ask(*generating)
        else:
            answer = ask_cameras(self._runtime, self._processor, sessions, *generating)
        return Outcome(answer, camera, frame, pixels, queue_s)

    def _newest(self, cameras: Iterable[str]) -> tuple[str, HeldFrame]:
        held = {name: frame for name in cameras if (frame := self.camera_states[name].newest) is not None}
        if not held:
            raise NoFramesError(f"no frame of {', '.join(cameras)} has been seen yet; is the camera publishing?")
        camera = newest_last({name: frame.stamp_ns for name, frame in held.items()})[-1]
        return camera, held[camera]

    def _make_caption(self) -> bool:
        for camera_state in sorted(self.camera_states.values(), key=lambda camera_state: camera_state.captioned_s):
            frame = camera_state.caption_due(self.caption)
            if frame is not None:
                self._guarded("making a caption", partial(self._describe, camera_state, frame), camera_state)
                return True
        return False

    def _describe(self, camera_state: CameraState, frame: HeldFrame) -> None:
        def cancelled() -> bool:
            return len(self.queue) > 0 or self.queue.closed

        pixels = frame.pixels  # the frame may shrink meanwhile
        answer: Answer = camera_state.session.ask(
            self.caption.prompt,
            Sampling(max_new_tokens=self.caption.max_new_tokens),
            cancelled=cancelled,
            on_token=lambda count: self._take_frames(),
        )
        if answer.ended_by == "cancelled":
            self.captions_preempted += 1
            return
        camera_state.captioned(frame)
        camera_state.captions += 1
        self._listener.on_caption(Outcome(answer, camera_state.camera, frame, pixels))

    def _prefill_pending(self) -> bool:
        for camera_state in self.camera_states.values():
            if not camera_state.session.up_to_date:
                self._guarded("prefilling frames", camera_state.session.prefill_pending, camera_state)
                return True
        return False

    def _guarded(self, doing: str, work: Callable[[], object], camera_state: CameraState | None = None) -> None:
        """Does something that nobody waits for; an error is reported, and the camera begins anew."""
        try:
            work()
        except Exception as err:  # noqa: BLE001 - the node outlives any one piece of work
            if camera_state is not None:
                camera_state.session.reset()
            self._listener.on_failure(doing, err)
