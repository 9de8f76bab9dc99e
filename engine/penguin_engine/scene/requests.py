"""Questions in a queue with a limit: whoever asks gets a ticket at once, the worker takes one after the other."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic

from penguin_engine.scene.answer import Answer
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.memory import HeldFrame
from penguin_models.errors import BusyError, CancelledError, NotActiveError
from penguin_models.types import UInt8Array


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        text: in plain words.
        cameras: which ones to look at; empty for all.
        horizon_s: look back at most so far from the newest frame; 0 for everything held.
        sampling: how the answer is generated.
    """

    text: str
    cameras: tuple[str, ...] = ()
    horizon_s: float = 0.0
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True)
class Outcome:
    """An answer, and the frame that it speaks of: the newest one when the work began.

    Attributes:
        answer: what was said; `ended_by` is "cancelled" where it was cut short.
        camera: that saw the frame.
        frame: as it is held.
        pixels: of the frame as it was held then, uint8 [H, W, 3].
        queue_s: seconds that the question waited for the worker.
    """

    answer: Answer
    camera: str
    frame: HeldFrame
    pixels: UInt8Array
    queue_s: float = 0.0


class PendingRequest:
    """A question that waits or is being answered.

    Attributes:
        question: what is asked.
        outcome: of the answer, or its exception.
        on_text: called by the worker with each piece of text and the number of tokens so far.
        asked_s: when, on the monotonic clock.
    """

    def __init__(self, question: Question, on_text: Callable[[str, int], None]):
        self.question, self.on_text = question, on_text
        self.outcome: Future[Outcome] = Future()
        self.asked_s = monotonic()
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether the answer is to end before its next token."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Ends the answer before its next token."""
        self._cancelled.set()


class QuestionQueue:
    """Tickets in the order of their arrival; closed until `open` is called. Every method returns at once.

    Attributes:
        limit: most questions that wait.
        refused: questions that came when the queue was full.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.refused = 0
        self._lock = threading.Lock()
        self._waiting: deque[PendingRequest] = deque()
        self._running: PendingRequest | None = None
        self._closed = True

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def closed(self) -> bool:
        """Whether questions are refused."""
        return self._closed

    @property
    def running(self) -> bool:
        """Whether a question is being answered."""
        return self._running is not None

    def open(self) -> None:
        """Takes questions from now on."""
        with self._lock:
            self._closed = False

    def close(self) -> None:
        """Refuses questions from now on; those that wait and the running one end as cancelled."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, deque()
            if self._running is not None:
                self._running.cancel()
        for pending in waiting:
            pending.outcome.set_exception(CancelledError("the node was deactivated before the answer began"))

    def put(self, pending: PendingRequest) -> None:
        """Adds a ticket.

        Raises:
            NotActiveError: the queue is closed.
            BusyError: it is full.
        """
        with self._lock:
            if self._closed:
                raise NotActiveError("the node is not active; configure and activate it")
            if len(self._waiting) >= self.limit:
                self.refused += 1
                raise BusyError(f"{len(self._waiting)} questions wait already, the limit; ask again later")
            self._waiting.append(pending)

    def take(self) -> PendingRequest | None:
        """The next ticket, which runs until `done`."""
        with self._lock:
            self._running = self._waiting.popleft() if self._waiting else None
            return self._running

    def done(self, result: Outcome | Exception) -> None:
        """The running ticket gets its outcome, unless it was abandoned."""
        with self._lock:
            running, self._running = self._running, None
        if running is None:
            return
        if isinstance(result, Exception):
            running.outcome.set_exception(result)
        else:
            running.outcome.set_result(result)

    def abandon(self) -> None:
        """Ends the running ticket as cancelled now; what comes of it later goes nowhere."""
        with self._lock:
            if self._running is not None:
                self._running.cancel()
        self.done(CancelledError("cancelled while the answer was generated; what had been said is lost"))

    def cancel(self, pending: PendingRequest) -> None:
        """Cancels a ticket; one that still waits gets its outcome now."""
        pending.cancel()
        with self._lock:
            waiting = pending in self._waiting
            if waiting:
                self._waiting.remove(pending)
        if waiting:
            pending.outcome.set_exception(CancelledError("cancelled before the answer began"))
