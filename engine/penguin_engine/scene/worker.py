"""SceneWorker: the one thread that owns the sessions of all cameras.

It does one piece of work at a time, the most urgent first: take frames, answer the next question, judge a condition
that is watched for, make a caption that is due, prefill a few pending frames. A question that arrives ends a caption
before its next token; frames keep arriving while an answer is generated. A pace bounds what is done while nobody asks.
If there is a server that answers (remote/), nothing is prefilled here unless it fails and there is a local model.

All other threads only enqueue work and return at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from penguin_engine.scene.answering import answer_question
from penguin_engine.scene.camera_state import CameraState
from penguin_engine.scene.captioning import make_caption
from penguin_engine.scene.mailbox import LoadFrame
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.remote.brain import RemoteBrain
from penguin_engine.scene.requests import PendingRequest, Request
from penguin_engine.scene.scene import Scene
from penguin_engine.scene.watches import Judgement, PendingWatch, WatchRequest
from penguin_engine.scene.watching import watch_due, watches_due
from penguin_models.errors import UnknownCameraError
from penguin_models.quoting import quoted, shortened


def known_camera(name: str, known: Iterable[str]) -> str:
    """Returns the name of a camera; raises UnknownCameraError if it is not among those that are known."""
    if name not in known:
        names = shortened(", ".join(known))
        raise UnknownCameraError(f"camera {quoted(name)} is not configured; the cameras are: {names}")
    return name


class SceneWorker(Scene):
    """Observes cameras and answers questions, from `start` to `stop`."""

    def __post_init__(self, states: Iterable[CameraState]) -> None:
        """Prepares the thread."""
        super().__post_init__(states)
        self._wake = threading.Condition()
        self._news = False  # work was enqueued since the worker last looked
        self._stopping = False
        self._watched = False  # the last piece of work was a judgement
        self._changes: deque[Callable[[], None]] = deque()
        self._thread = threading.Thread(target=self._work, name="scene-worker")

    # Called by other threads.

    def start(self) -> None:
        """Starts the thread; frames are taken once the queue is open."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the runtime's current operation and frees the KV caches. The queue must be closed."""
        assert self.queue.closed
        self._stopping = True
        self.wake()
        if self._thread.is_alive():
            self._thread.join()
        for state in self.camera_states.values():
            state.session.close()

    def wake(self) -> None:
        """Makes the worker look for work."""
        with self._wake:
            self._news = True
            self._wake.notify()

    def offer(self, camera: str, stamp_ns: int, load: LoadFrame) -> bool:
        """Offers a camera's newest frame, unless the queue is closed; returns whether it was accepted."""
        accepted = not self.queue.closed and self.camera_states[camera].mailbox.offer(stamp_ns, load)
        if accepted:
            self.wake()
        return accepted

    def submit(
        self, request: Request, on_text: Callable[[str, int], None] = lambda piece, tokens: None
    ) -> PendingRequest:
        """Queues a question.

        Args:
            request: The question.
            on_text: Called from the worker with each piece of text and the number of tokens generated so far.

        Raises:
            UnknownCameraError: A camera is not configured.
            NotActiveError: The queue is closed.
            BusyError: The queue is full.
        """
        for name in request.cameras:
            known_camera(name, self.camera_states)
        pending = PendingRequest(request, on_text, self.clock)
        self.queue.put(pending)
        self.wake()
        return pending

    def watch(self, request: WatchRequest, on_judgement: Callable[[Judgement], None]) -> PendingWatch:
        """Watches for a condition.

        Args:
            request: The condition.
            on_judgement: Called from the worker with each judgement.

        Raises:
            UnknownCameraError: A camera is not configured.
            NotActiveError: No watch is accepted.
            BusyError: There are too many watches.
            NoLogprobsError: Only a server could judge, and it cannot.
        """
        for name in request.cameras:
            known_camera(name, self.camera_states)
        if self.remote is not None:
            self.remote.check_judge()
        watch = PendingWatch(request, on_judgement)
        self.watches.add(watch)
        self.wake()
        return watch

    def clear(self) -> None:
        """Clears all memories before anything else is observed or asked."""
        self._clear = True
        self.wake()

    def change(self, change: Callable[[], None]) -> None:
        """Runs a change of settings in the worker's thread, between two pieces of work."""
        self._changes.append(change)
        self.wake()

    def change_frames(self, change: Callable[[], None]) -> None:
        """Runs a change of how frames are taken in the worker thread, before the next frame, even during an answer."""
        self._frame_changes.append(change)
        self.wake()

    # The worker's thread.

    def _work(self) -> None:
        while not self._stopping:
            idle_s = self.idle_s()
            with self._wake:
                self._wake.wait_for(lambda: self._news, idle_s)
                self._news = False
            busy = True
            while busy and not self._stopping:
                try:
                    busy = self.step()
                except Exception as err:  # noqa: BLE001 - this thread must not end
                    busy = False
                    self.listener.on_failure("working", err)

    def step(self) -> bool:
        """Does one piece of work; returns False if there was none. Called by the thread, or by a simulation of it."""
        while self._changes:
            self.guarded("changing settings", self._changes.popleft())
        self.take_frames(all_waiting=len(self.queue) > 0)
        pending = self.queue.take()
        if pending is not None:
            self.answer(pending)
            return True
        if self.queue.closed:
            return False
        may_look = may_caption = may_watch = True
        if (server := self.server) is not None:
            may_look, may_caption = False, not server.rest_s
            may_watch = may_caption if server.judges else self.pace is None or not self.pace.watch_rest_s()
        elif self.pace is not None:
            may_look = not self.rest_s(self.pace)
            may_caption, may_watch = not self.pace.caption_rest_s(), not self.pace.watch_rest_s()
        caption_first, self._watched = self._watched, False  # watches that are always due must leave time for captions
        if caption_first and may_caption and make_caption(self):
            return True
        if may_watch and watch_due(self, may_look):
            self._watched = True
            return True
        if may_caption and not caption_first and make_caption(self):
            return True
        return may_look and self._prefill()

    def idle_s(self) -> float | None:
        """Returns the seconds after which `step` may find work that it leaves for now; None if it leaves none."""
        if self.queue.closed:
            return None
        rests: list[float] = []
        if self.pace is not None:
            states = self.camera_states.values()
            rests += [self.pace.frame_due_s(state.camera) for state in states if state.mailbox.is_waiting]
        if (server := self.server) is not None:
            rests += self._rests_with(server)
        elif self.pace is not None:
            rests += self._rests_at(self.pace)
        return min(rests, default=None)

    def _rests_with(self, server: RemoteBrain) -> Iterator[float]:
        for state in self.camera_states.values():
            if state.caption_due(self.caption):
                yield server.rest_s
            if watches_due(self, state):
                yield server.rest_s if server.judges or self.pace is None else self.pace.watch_rest_s()

    def _rests_at(self, pace: Pace) -> Iterator[float]:
        states = self.camera_states.values()
        if not all(state.session.up_to_date for state in states):
            yield self.rest_s(pace)
        if any(state.caption_due(self.caption) for state in states):
            yield pace.caption_rest_s()
        for state in states:
            if watches_due(self, state):
                look_s = 0.0 if state.session.up_to_date else self.rest_s(pace)
                yield max(pace.watch_rest_s(), look_s)

    def answer(self, pending: PendingRequest) -> None:
        """Answers a question and resolves its pending request."""
        try:
            outcome = answer_question(self, pending)
            self.listener.on_answer(outcome)
        except Exception as err:  # noqa: BLE001 - the caller gets it, and the worker continues
            self.queue.done(err)
        else:
            self.queue.done(outcome)

    def _prefill(self) -> bool:
        for state in self.camera_states.values():
            if not state.session.up_to_date:
                self.guarded("prefilling frames", partial(self.prefill, state), state)
                return True
        return False
