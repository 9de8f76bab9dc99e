"""Requests wait for the one worker thread, which answers them in turn; text and results come back to the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event
from typing import Any

from penguin_engine.scene.generation import AnswerHooks
from penguin_engine.server.answering import Reply
from penguin_engine.server.logprobs import TokenLog
from penguin_models.errors import CancelledError, PenguinError

Work = Callable[[AnswerHooks], Reply]


class TimeLimitError(PenguinError):
    """A request took too long."""


@dataclass(frozen=True)
class Piece:
    """A piece of an answer."""

    text: str
    logprobs: Sequence[dict[str, Any]]  # entries of its tokens, if the job has a log


@dataclass(eq=False)
class Job:
    """A request that waits or is answered. Created and awaited in the event loop."""

    time_limit_s: float
    log: TokenLog | None = None  # filled by the work; None if no log probabilities are wanted
    _pieces: asyncio.Queue[Piece | Reply | Exception] = field(default_factory=asyncio.Queue)
    _cancelled: Event = field(default_factory=Event)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    _start_s: float = field(default_factory=time.monotonic)

    def cancel(self) -> None:
        """Ends the work between two tokens; the result is dropped."""
        self._cancelled.set()

    async def next(self) -> Piece | Reply:
        """Returns the next piece of the answer, or the reply, which is the last.

        Raises:
            PenguinError: The request cannot be answered; TimeLimitError if it took too long.
        """
        item = await self._pieces.get()
        if isinstance(item, Exception):
            raise item
        return item

    def run(self, work: Work, clean_up: Callable[[], None]) -> None:
        """Does the work unless it is cancelled, and cleans up; in the worker's thread."""
        hooks = AnswerHooks(on_text=lambda piece, tokens: self._send_piece(piece), cancelled=self._over)
        try:
            if self._over():
                raise CancelledError("cancelled before the answer began")
            reply = work(hooks)
            if reply.ended_by == "cancelled":
                raise CancelledError("cancelled during the answer")
            if self.log is not None and reply.ended_by != "stop" and (rest := self.log.take_rest()):
                self._send(Piece("", rest))  # tokens without text; those of a stop string are not part of the answer
            self._send(reply)
        except CancelledError as err:
            late = TimeLimitError(
                f"the answer was not complete after {self.time_limit_s:g} s, the server's limit; ask for fewer tokens, "
                "or try again when it has less to do"
            )
            self._send(err if self._cancelled.is_set() else late)
        except Exception as err:  # noqa: BLE001 - `next` raises it
            self._send(err)
        finally:
            clean_up()

    def _over(self) -> bool:
        return self._cancelled.is_set() or time.monotonic() - self._start_s > self.time_limit_s

    def _send_piece(self, text: str) -> None:
        self._send(Piece(text, () if self.log is None else self.log.take(text)))

    def _send(self, item: Piece | Reply | Exception) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, item)


class Worker:
    """The thread that answers."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "answers")
        self._jobs: set[Job] = set()

    def submit(self, work: Work, time_limit_s: float, clean_up: Callable[[], None], log: TokenLog | None = None) -> Job:
        """Puts work into the queue, to be cleaned up after in any case; to be called in the event loop."""
        job = Job(time_limit_s, log)
        self._jobs.add(job)
        future = self._executor.submit(job.run, work, clean_up)
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.is_closed() or loop.call_soon_threadsafe(self._jobs.discard, job))
        return job

    def close(self) -> None:
        """Cancels everything, and waits for the thread."""
        for job in self._jobs:
            job.cancel()
        self._executor.shutdown()
