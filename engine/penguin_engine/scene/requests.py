"""Questions on their way to the worker: a `Request` is checked and tokenised once, then waits in a bounded queue."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic

from penguin_engine.runtimes.base import check_fits
from penguin_engine.scene.answer import Answer
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.memory import HeldFrame
from penguin_engine.scene.object_position import ObjectPosition
from penguin_models.errors import BusyError, CancelledError, NotActiveError, PromptError
from penguin_models.processor import Processor
from penguin_models.quoting import shortened
from penguin_models.types import UInt8Array

MAX_CAMERAS = 64
"""Maximum number of cameras in a question, and of a node."""
RESERVED_TOKENS = 2048
"""Tokens that every session keeps free in its KV cache for a question and its answer."""
MAX_QUESTION_CHARS = 8 * RESERVED_TOKENS
"""Checked before tokenising: tokenising a megabyte takes seconds."""
MAX_ID_CHARS = 256
"""Longest name of a conversation."""


@dataclass(frozen=True)
class Turn:
    """A question and its answer, earlier in a conversation."""

    question: str  # plain text
    answer: str  # text as the model wrote it
    token_ids: Sequence[int]  # its tokens after the last frame or the turn before, up to the question that follows


@dataclass(frozen=True)
class Request:
    """A question, checked and tokenised once; it travels unchanged from the server to the session."""

    question: str  # plain text
    # Token ids of the prompt after its last frame: earlier turns, the question and the start of the assistant turn
    token_ids: Sequence[int]
    sampling: Sampling = field(default_factory=Sampling)  # how the answer is generated
    cameras: tuple[str, ...] = ()  # cameras to look at; empty for all
    horizon_s: float = 0.0  # look back at most this many seconds from the newest frame; 0 for everything in memory
    deadline_s: float = 0.0  # seconds within which the first token is due, from when the question was put; 0 for none
    since_ns: int | None = None  # stamp of the first moment to look at; None for no limit
    until_ns: int | None = None  # stamp of the last moment to look at, included; None for no limit
    conversation_id: str = ""  # the conversation that the question continues; empty for a question by itself
    turns: tuple[Turn, ...] = ()  # earlier turns of the conversation in the prompt

    @property
    def has_window(self) -> bool:
        """Whether the question is about a window of time."""
        return self.since_ns is not None or self.until_ns is not None

    @classmethod
    def prepare(
        cls,
        processor: Processor,
        question: str,
        sampling: Sampling | None = None,
        cameras: Sequence[str] = (),
        horizon_s: float = 0.0,
        camera_name: Callable[[str], str] = str,
        deadline_s: float = 0.0,
        since_ns: int | None = None,
        until_ns: int | None = None,
        conversation_id: str = "",
    ) -> Request:
        """Checks a question, its limits before anything else, and tokenises it.

        Args:
            processor: Processor of the checkpoint that answers.
            question: Plain text.
            sampling: How the answer is generated.
            cameras: Cameras to look at, in any form that `camera_name` takes; empty for all.
            horizon_s: Look back at most this many seconds; 0 for everything in memory.
            camera_name: Returns the name of a camera, or raises UnknownCameraError.
            deadline_s: Seconds within which the first token is due; 0 for no deadline.
            since_ns: Stamp in nanoseconds of the first moment to look at; None for no limit.
            until_ns: Stamp in nanoseconds of the last moment to look at; None for no limit.
            conversation_id: The conversation that the question continues; empty for a question by itself.

        Raises:
            PromptError: The question is empty, too long, not Unicode, or contains reserved tokens; there are too many
                cameras; the name of the conversation is too long; the horizon or the deadline is negative or not
                finite; or the window ends before it begins, begins before time 0, or is combined with a horizon.
            UnknownCameraError: A camera has no valid name.
            ContextLengthError: Question and answer need more tokens than a session keeps free for them.
        """
        sampling = sampling or Sampling()
        if len(question) > MAX_QUESTION_CHARS:
            raise PromptError(
                f"the question has {len(question)} characters, the limit is {MAX_QUESTION_CHARS}; shorten it"
            )
        if not question.strip():
            raise PromptError("the question is empty")
        if len(cameras) > MAX_CAMERAS:
            raise PromptError(
                f"the question names {len(cameras)} cameras, the limit is {MAX_CAMERAS}; leave cameras empty for all"
            )
        if len(conversation_id) > MAX_ID_CHARS:
            raise PromptError(
                f"conversation_id has {len(conversation_id)} characters, the limit is {MAX_ID_CHARS}; shorten it"
            )
        if not 0 <= horizon_s < math.inf:
            raise PromptError(f"horizon_s is {horizon_s}, it must be 0 (everything in memory) or above, and finite")
        if not 0 <= deadline_s < math.inf:
            raise PromptError(f"deadline_s is {deadline_s}, it must be 0 (the node's own) or above, and finite")
        check_window(since_ns, until_ns)
        if horizon_s and not since_ns is until_ns is None:
            raise PromptError(f"the question has a horizon_s of {horizon_s} and a window; leave out one of them")
        names = tuple(dict.fromkeys(map(camera_name, cameras)))
        video = {"type": "video", "num_frames": 1, "timestamps": [0.0]}
        content = [video, {"type": "text", "text": question}]
        token_ids = processor.prompt_segments([{"role": "user", "content": content}])[-1]
        check_fits(len(token_ids) + sampling.max_new_tokens, RESERVED_TOKENS, "the question with its answer")
        return cls(question, token_ids, sampling, names, horizon_s, deadline_s, since_ns, until_ns, conversation_id)


def check_window(since_ns: int | None, until_ns: int | None) -> None:
    """Raises PromptError if a window of stamps, None for no limit, ends before it begins, or begins before time 0."""
    for name, stamp_ns in (("since", since_ns), ("until", until_ns)):
        if stamp_ns is not None and not 0 <= stamp_ns < 2**63:
            raise PromptError(f"{name} is {shortened(str(stamp_ns))} ns, it must be the stamp of an image, 0 or above")
    if since_ns is not None and until_ns is not None and until_ns < since_ns:
        raise PromptError(
            f"until is {until_ns * 1e-9:.3f} s, before since, which is {since_ns * 1e-9:.3f} s; exchange them"
        )


@dataclass(frozen=True)
class Outcome:
    """An answer and the frame it refers to: the newest one when the work began."""

    answer: Answer  # the answer; `ended_by` is "cancelled" if it was cut short
    camera: str  # the camera that captured the frame
    frame: HeldFrame  # the frame as the memory holds it
    pixels: UInt8Array  # pixels of the frame when the work began, uint8 [H, W, 3]
    queue_s: float = 0.0  # seconds the question waited for the worker
    positions: Sequence[ObjectPosition | None] = ()  # where each object is, None if unknown; empty if none is known


class PendingRequest:
    """A request that waits or is being answered.

    Attributes:
        request: The question.
        outcome: Resolves to the outcome or to the exception that ended the work.
        on_text: Called by the worker with each piece of text and the number of tokens generated so far.
        submitted_s: When the request was queued, on the worker's clock.
    """

    def __init__(self, request: Request, on_text: Callable[[str, int], None], clock: Callable[[], float] = monotonic):
        self.request, self.on_text = request, on_text
        self.outcome: Future[Outcome] = Future()
        self.submitted_s = clock()
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether the answer has to end before its next token."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Ends the answer before its next token."""
        self._cancelled.set()


class RequestQueue:
    """Pending requests in order of arrival, at most `limit` of them. Every method returns at once.

    A queue is closed until `open` is called. Whether a question is accepted is decided here alone: `check` and `put`
    raise with the reason for which it is not.

    Attributes:
        limit: Maximum number of requests that wait.
        refused: Number of requests refused because the queue was full.
    """

    def __init__(self, limit: int, closed_because: str = "the node is not active"):
        self.limit = limit
        self.refused = 0
        self._lock = threading.Lock()
        self._waiting: deque[PendingRequest] = deque()
        self._running: PendingRequest | None = None
        self._closed_because: str | None = closed_because

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def closed(self) -> bool:
        """Whether requests are refused."""
        return self._closed_because is not None

    @property
    def running(self) -> bool:
        """Whether a request is being answered."""
        return self._running is not None

    def open(self) -> None:
        """Accepts requests from now on."""
        with self._lock:
            self._closed_because = None

    def close(self, because: str) -> None:
        """Refuses requests from now on, for a stated reason; the waiting and the running ones end as cancelled."""
        with self._lock:
            self._closed_because = because
            waiting, self._waiting = self._waiting, deque()
            if self._running is not None:
                self._running.cancel()
        for pending in waiting:
            pending.outcome.set_exception(CancelledError(f"cancelled before the answer began: {because}"))

    def check(self) -> None:
        """Raises if `put` would: a question that is refused anyway must not cost the work of preparing it.

        Raises:
            NotActiveError: The queue is closed.
            BusyError: The queue is full.
        """
        because, waiting = self._closed_because, len(self._waiting)
        if because is not None:
            raise NotActiveError(because)
        if waiting >= self.limit:
            self.refused += 1
            raise BusyError(f"{waiting} questions are waiting, the limit is {self.limit}; try again later")

    def put(self, pending: PendingRequest) -> None:
        """Adds a request.

        Raises:
            NotActiveError: The queue is closed.
            BusyError: The queue is full.
        """
        with self._lock:
            self.check()
            self._waiting.append(pending)

    def take(self) -> PendingRequest | None:
        """Returns the next request, which counts as running until `done` is called."""
        with self._lock:
            self._running = self._waiting.popleft() if self._waiting else None
            return self._running

    def done(self, result: Outcome | Exception) -> None:
        """Resolves the running request, unless it was abandoned."""
        with self._lock:
            running, self._running = self._running, None
        if running is None:
            return
        if isinstance(result, Exception):
            running.outcome.set_exception(result)
        else:
            running.outcome.set_result(result)

    def abandon(self) -> None:
        """Ends the running request as cancelled at once; its later result is dropped."""
        with self._lock:
            if self._running is not None:
                self._running.cancel()
        self.done(CancelledError("cancelled while the answer was being generated; its text so far is lost"))

    def cancel(self, pending: PendingRequest) -> None:
        """Cancels a request; one that still waits is resolved at once."""
        pending.cancel()
        with self._lock:
            waiting = pending in self._waiting
            if waiting:
                self._waiting.remove(pending)
        if waiting:
            pending.outcome.set_exception(CancelledError("cancelled before the answer began"))
