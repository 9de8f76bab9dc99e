"""SceneWorker: the one thread that owns the sessions of all cameras.

It does one piece of work at a time, the most urgent first: take frames, answer the next question, judge a condition
that is watched for, make a caption that is due, prefill a few pending frames. A question that arrives ends a caption
before its next token; frames keep arriving while an answer is generated. A pace bounds what is done while nobody asks.
If there is a server that answers (remote/), nothing is prefilled here unless it fails and there is a local model.

All other threads only enqueue work and return at once. Knows nothing of ROS; a listener is called from the worker.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from time import monotonic

from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.answer import Answer
from penguin_engine.scene.camera_state import CameraState, CaptionConfig
from penguin_engine.scene.caption_request import caption_request
from penguin_engine.scene.conversations import Conversations, fits_scene
from penguin_engine.scene.episode_backend import EpisodeReader
from penguin_engine.scene.generation import AnswerHooks
from penguin_engine.scene.listener import Listener
from penguin_engine.scene.mailbox import LoadFrame
from penguin_engine.scene.memory import HeldFrame
from penguin_engine.scene.multi_camera import ask_cameras, newest_last
from penguin_engine.scene.object_position import ObjectPosition
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.recall import ask_recall
from penguin_engine.scene.remote.brain import RemoteBrain, RemoteQuestion
from penguin_engine.scene.requests import Outcome, PendingRequest, Request, RequestQueue
from penguin_engine.scene.session import SceneSession
from penguin_engine.scene.watches import Judgement, PendingWatch, Watches, WatchRequest
from penguin_models.errors import (
    CancelledError,
    EpisodeError,
    MediaError,
    NoFramesError,
    NoLogprobsError,
    PromptError,
    RemoteServerError,
    UnknownCameraError,
)
from penguin_models.processor import Processor
from penguin_models.quoting import quoted, shortened
from penguin_models.types import Frame, FrameKind
from penguin_models.watch import holds_probability, watch_question

_CAPTION_LOOK_S = 1.0
"""With a pace, a caption looks at frames that are not prefilled yet while its first token is due within this time."""
_FRESH_S = 10.0
"""A frame that was taken longer ago is not judged: what it shows is not true now."""


def known_camera(name: str, known: Iterable[str]) -> str:
    """Returns the name of a camera; raises UnknownCameraError if it is not among those that are known."""
    if name not in known:
        names = shortened(", ".join(known))
        raise UnknownCameraError(f"camera {quoted(name)} is not configured; the cameras are: {names}")
    return name


class SceneWorker:
    """Observes cameras and answers questions, from `start` to `stop`.

    Attributes:
        camera_states: State of each camera, by name.
        queue: Requests that wait. Its owner opens and closes it; the worker takes frames only while it is open.
        caption: When captions are made.
        captions_preempted: Number of captions that a question cut short.
        pace: The pace of the sessions; None if nothing is bounded.
        episodes: What answers to questions beyond the memory are based on; None if there are none.
        watches: Conditions that are watched for. Its owner opens and closes it.
        conversations: The earlier turns of questions.
        remote: The server that answers; None if only the runtime does.
    """

    def __init__(
        self,
        runtime: Runtime,
        processor: Processor,
        camera_states: Iterable[CameraState],
        caption: CaptionConfig,
        queue: RequestQueue,
        listener: Listener,
        clock: Callable[[], float] = monotonic,
        pace: Pace | None = None,
        episodes: EpisodeReader | None = None,
        watches: Watches | None = None,
        locate: Callable[[Outcome], Sequence[ObjectPosition | None]] = lambda outcome: (),
        remote: RemoteBrain | None = None,
    ):
        self.camera_states = {state.camera: state for state in camera_states}
        self.queue, self.caption = queue, caption
        self.captions_preempted = 0
        self.pace, self.episodes = pace, episodes
        self.watches = Watches() if watches is None else watches  # an empty one is false
        self._runtime, self._processor, self._listener, self._clock = runtime, processor, listener, clock
        self._locate, self.remote = locate, remote
        self.conversations = Conversations(processor)
        self._wake = threading.Condition()
        self._news = False  # work was enqueued since the worker last looked
        self._stopping = False
        self._clear = False
        self._watched = False  # the last piece of work was a judgement
        self._changes: deque[Callable[[], None]] = deque()
        self._frame_changes: deque[Callable[[], None]] = deque()
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
        pending = PendingRequest(request, on_text, self._clock)
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
                    self._listener.on_failure("working", err)

    def step(self) -> bool:
        """Does one piece of work; returns False if there was none. Called by the thread, or by a simulation of it."""
        while self._changes:
            self._guarded("changing settings", self._changes.popleft())
        self.take_frames(all_waiting=len(self.queue) > 0)
        pending = self.queue.take()
        if pending is not None:
            self.answer(pending)
            return True
        if self.queue.closed:
            return False
        may_look = may_caption = may_watch = True
        if (server := self._server) is not None:
            may_look, may_caption = False, not server.rest_s
            may_watch = may_caption if server.judges else self.pace is None or not self.pace.watch_rest_s()
        elif self.pace is not None:
            may_look = not self._rest_s(self.pace)
            may_caption, may_watch = not self.pace.caption_rest_s(), not self.pace.watch_rest_s()
        caption_first, self._watched = self._watched, False  # watches that are always due must leave time for captions
        return (
            (may_watch and not caption_first and self._watch(may_look))
            or (may_caption and self._make_caption())
            or (may_watch and caption_first and self._watch(may_look))
            or (may_look and self._prefill())
        )

    @property
    def _server(self) -> RemoteBrain | None:
        """The server, while it is the one that answers."""
        return self.remote if self.remote is not None and self.remote.in_charge else None

    def _rest_s(self, pace: Pace) -> float:
        """Returns the seconds until work on frames may go on, 0 for now."""
        return pace.rest_s(self.caption.wanted, len(self.watches) > 0)

    def idle_s(self) -> float | None:
        """Returns the seconds after which `step` may find work that it leaves for now; None if it leaves none."""
        if self.queue.closed:
            return None
        rests: list[float] = []
        if self.pace is not None:
            states = self.camera_states.values()
            rests += [self.pace.frame_due_s(state.camera) for state in states if state.mailbox.is_waiting]
        if (server := self._server) is not None:
            rests += self._rests_with(server)
        elif self.pace is not None:
            rests += self._rests_at(self.pace)
        return min(rests, default=None)

    def _rests_with(self, server: RemoteBrain) -> Iterator[float]:
        for state in self.camera_states.values():
            if state.caption_due(self.caption):
                yield server.rest_s
            if self._watches_due(state):
                yield server.rest_s if server.judges or self.pace is None else self.pace.watch_rest_s()

    def _rests_at(self, pace: Pace) -> Iterator[float]:
        states = self.camera_states.values()
        if not all(state.session.up_to_date for state in states):
            yield self._rest_s(pace)
        if any(state.caption_due(self.caption) for state in states):
            yield pace.caption_rest_s()
        for state in states:
            if self._watches_due(state):
                look_s = 0.0 if state.session.up_to_date else self._rest_s(pace)
                yield max(pace.watch_rest_s(), look_s)

    def take_frames(self, all_waiting: bool = False) -> None:
        """Moves waiting frames into the memories: those that are due at the pace, or all."""
        while self._frame_changes:
            self._guarded("changing settings", self._frame_changes.popleft())
        if self._clear:
            self._clear = False
            self.conversations.clear()
            for state in self.camera_states.values():
                state.session.memory.clear()
                state.failure = None
                self._listener.on_memory(state)
        for state in self.camera_states.values():
            if not all_waiting and self.pace is not None and self.pace.frame_due_s(state.camera):
                continue
            load = state.mailbox.take()
            if load is None:
                continue
            try:
                self._take(state, load)
                self._listener.on_memory(state)
            except MediaError as err:
                state.cannot_read(err)
                self._listener.on_bad_frame(state)
            except Exception as err:  # noqa: BLE001 - not the fault of the question that may be running
                self._listener.on_failure(f"taking a frame of {state.camera}", err)

    def _take(self, state: CameraState, load: LoadFrame) -> None:
        if self.pace is None:
            self._observe(state, load())
            return
        start_s = self._clock()
        try:
            self._take_paced(state, load, self.pace)
        finally:  # an image that cannot be read takes time, too
            self.pace.took(state.camera, self._clock() - start_s)

    def _take_paced(self, state: CameraState, load: LoadFrame, pace: Pace) -> None:
        frame = load()
        state.source_size = frame.size
        seen = [state.source for state in self.camera_states.values() if state.source_size is not None]
        memory = state.session.memory
        shared = self.caption.wanted, len(self.watches) > 0
        if self._server is not None:
            changed = pace.release()
        else:
            changed = pace.adapt(seen, state.mailbox.period_s, memory.config.floor_tokens, *shared)
        if changed:
            for other in self.camera_states.values():
                other.session.memory.arrival_tokens = pace.arrival_tokens
            self._listener.on_pace(pace)
        self._observe(state, frame)

    def _observe(self, state: CameraState, frame: Frame) -> None:
        if state.observe(frame) == FrameKind.KEY:
            self._listener.on_keyframe(frame)

    def answer(self, pending: PendingRequest) -> None:
        """Answers a question and resolves its pending request."""
        queue_s = self._clock() - pending.submitted_s
        try:
            with self.pace.answering() if self.pace is not None else nullcontext():
                outcome = self._located(self._ask(pending, queue_s))
            self._listener.on_answer(outcome)
        except Exception as err:  # noqa: BLE001 - the caller gets it, and the worker continues
            self.queue.done(err)
        else:
            self.queue.done(outcome)

    def _ask(self, pending: PendingRequest, queue_s: float) -> Outcome:
        request = pending.request
        cameras = request.cameras or tuple(self.camera_states)
        sessions = {name: self.camera_states[name].session for name in cameras}
        newest = None if request.has_window else self._newest(cameras)  # episodes may answer without a frame
        pixels = newest and newest[1].pixels  # the frame may shrink meanwhile
        hooks = AnswerHooks(pending.on_text, lambda: pending.cancelled, self.take_frames)
        due_s = pending.submitted_s + request.deadline_s if request.deadline_s else math.inf
        left_s = due_s - self._clock()
        fits = fits_scene(sessions, self.pace if self._server is None else None, due_s)
        answer = self.conversations.answer(request, fits, lambda asked: self._look(sessions, asked, hooks, due_s))
        if self.pace is not None and answer.predicted_s > left_s:
            self.pace.missed, self.pace.needed_s = self.pace.missed + 1, answer.predicted_s
        if answer.newest is not None:
            newest, pixels = answer.newest, answer.newest[1].pixels
        assert newest is not None and pixels is not None
        return Outcome(answer, *newest, pixels, queue_s)

    def _look(self, sessions: Mapping[str, SceneSession], request: Request, hooks: AnswerHooks, due_s: float) -> Answer:
        """Answers through the server, or by the runtime if there is no server, or it fails and may be replaced."""
        if (server := self._server) is not None:
            try:
                return self._look_with(server.question(due_s), None, sessions, request, hooks, due_s)
            except RemoteServerError as err:
                if not server.falls_back(err):
                    raise
        elif self.remote is not None:
            self.remote.counts["fallbacks"] += 1
        return self._look_with(self._runtime, self.pace, sessions, request, hooks, due_s)

    def _look_with(
        self,
        runtime: Runtime | RemoteQuestion,
        pace: Pace | None,
        sessions: Mapping[str, SceneSession],
        request: Request,
        hooks: AnswerHooks,
        due_s: float,
    ) -> Answer:
        """Answers from memory and episodes; episodes that cannot be read are reported, and an error for a window."""
        asked = runtime, self._processor, sessions
        try:
            return ask_recall(*asked, self.episodes, request, hooks, pace, due_s)
        except EpisodeError as err:
            if request.has_window:
                raise
            self._listener.on_failure("looking for episodes", err)
        return ask_cameras(*asked, request, hooks, pace, due_s)

    def _newest(self, cameras: Iterable[str]) -> tuple[str, HeldFrame]:
        held = {name: frame for name in cameras if (frame := self.camera_states[name].newest) is not None}
        if not held:
            failure = next(filter(None, (self.camera_states[name].failure for name in cameras)), None)
            if failure is not None:
                raise failure
            reasons = [self.camera_states[name].why_empty for name in cameras]
            reason = "; ".join(filter(None, reasons)) or "is the camera publishing?"
            raise NoFramesError(f"no frame of {shortened(', '.join(cameras))} has been seen yet: {reason}")
        camera = newest_last({name: frame.stamp_ns for name, frame in held.items()})[-1]
        return camera, held[camera]

    def _watches_due(self, state: CameraState) -> Sequence[PendingWatch]:
        fresh = state.observed_s is not None and self._clock() - state.observed_s <= _FRESH_S
        return self.watches.due(state.camera, state.newest, state.clears) if fresh else ()

    def _watch(self, may_look: bool) -> bool:
        """Judges the conditions that are due on one camera; `may_look` allows it to prefill frames for it."""
        server = self._server
        judge = server if server is not None and server.judges else None
        for state in sorted(self.camera_states.values(), key=lambda state: state.watched_s):
            due = self._watches_due(state)
            if due and (may_look or server is not None or state.session.up_to_date):
                self._watched, state.watched_s = True, self._clock()
                work = partial(self._judge, state, due, judge)
                self._guarded("judging a condition", work, state if judge is None else None)
                return True
        return False

    def _judge(self, state: CameraState, due: Sequence[PendingWatch], server: RemoteBrain | None) -> None:
        while server is None and not state.session.up_to_date:
            if self._is_wanted():
                return
            self.prefill(state)
        frame, clears = state.newest, state.clears
        assert frame is not None
        pace = self.pace if server is None else None
        for watch in due:
            start_s = self._clock()
            try:
                probability = self._probability(state, watch, server)
                self.watches.judged(watch, state.camera, frame, clears, probability)
            except CancelledError:
                return  # the rest is judged after the question
            except NoLogprobsError as err:
                if self.remote is not None and self.remote.has_local:
                    return  # which judges from now on
                self.watches.end(watch, err)
            finally:
                if pace is not None:
                    pace.watched(self._clock() - start_s)
            if pace is not None and pace.watch_rest_s():
                return

    def _probability(self, state: CameraState, watch: PendingWatch, server: RemoteBrain | None) -> float:
        """Returns the probability that a condition holds now, which is not calibrated if the server judges it."""
        if server is not None:
            hooks = AnswerHooks(cancelled=self._is_wanted, on_token=self.take_frames)
            memory, question = state.session.memory, watch_question(watch.request.condition)
            return server.judge(memory, question, hooks, self._clock() + _FRESH_S)
        logits = state.session.judge(watch.request.token_ids, self._is_wanted)
        return holds_probability(self._processor, logits, self.watches.calibration)

    def _is_wanted(self) -> bool:
        """Returns whether work that nobody waits for has to end."""
        return len(self.queue) > 0 or self.queue.closed

    def _make_caption(self) -> bool:
        for state in sorted(self.camera_states.values(), key=lambda state: state.captioned_s):
            frame = state.caption_due(self.caption)
            if frame is not None:
                server = self._server
                work = partial(self._describe, state, frame, server)
                self._guarded("making a caption", work, state if server is None else None)
                return True
        return False

    def _describe(self, state: CameraState, frame: HeldFrame, server: RemoteBrain | None) -> None:
        pixels = frame.pixels  # the frame may shrink meanwhile
        pace = self.pace if server is None else None
        try:
            request = caption_request(self._runtime, self._processor, self.caption, pace)
        except PromptError as err:  # the session is as it was
            state.captioned(frame)
            self._listener.on_failure("making a caption", err)
            return
        start_s, due_s = self._clock(), math.inf
        if pace is not None:
            due_s = start_s + _CAPTION_LOOK_S
        hooks = AnswerHooks(cancelled=self._is_wanted, on_token=self.take_frames)
        if server is None:
            answer = state.session.ask(request, hooks, due_s)
        else:
            question = server.question(start_s + self.caption.max_age_s)
            answer = ask_cameras(question, self._processor, {state.camera: state.session}, request, hooks)
        if pace is not None:
            pace.captioned(self._clock() - start_s)
        if answer.ended_by == "cancelled":
            self.captions_preempted += 1
            return
        state.captioned(frame)
        state.captions += 1
        self._listener.on_caption(self._located(Outcome(answer, state.camera, frame, pixels)))

    def _located(self, outcome: Outcome) -> Outcome:
        """Returns an outcome with the positions of its objects."""
        try:
            return replace(outcome, positions=self._locate(outcome))
        except Exception as err:  # noqa: BLE001 - an answer without positions is better than none
            self._listener.on_failure("locating objects", err)
            return outcome

    def _prefill(self) -> bool:
        for state in self.camera_states.values():
            if not state.session.up_to_date:
                self._guarded("prefilling frames", partial(self.prefill, state), state)
                return True
        return False

    def prefill(self, state: CameraState) -> None:
        """Encodes and prefills the next few frames of a camera."""
        start_s = self._clock()
        state.session.prefill_pending(lambda: len(self.queue) > 0)
        if self.pace is not None:
            self.pace.looked(self._clock() - start_s)

    def _guarded(self, doing: str, work: Callable[[], object], state: CameraState | None = None) -> None:
        """Does work that nobody waits for; an error is reported, and the camera's session starts over."""
        try:
            work()
        except Exception as err:  # noqa: BLE001 - the node outlives any one piece of work
            if state is not None:
                state.session.reset()
                state.failure = err
            self._listener.on_failure(doing, err)
