"""RemoteBrain: whole answers from a server, within a deadline; retries, a circuit breaker, and counts of all of it.

A request is tried again only before its first token. Everything runs in the thread that asks: while it waits for the
server, the hooks are polled, so that frames are taken and a cancelled question closes its request.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from penguin_engine.scene.answer import Answer, LapTimer
from penguin_engine.scene.evidence import Candidate, Shown, choose
from penguin_engine.scene.generation import AnswerHooks
from penguin_engine.scene.memory import FrameMemory
from penguin_engine.scene.remote.breaker import FAILURES, CircuitBreaker
from penguin_engine.scene.remote.completion import Completion
from penguin_engine.scene.remote.failure import RequestFailure
from penguin_engine.scene.remote.messages import (
    conversation,
    frames_content,
    sampling_options,
    system_turn,
    text_part,
    user_turn,
)
from penguin_engine.scene.requests import Request
from penguin_models.errors import BrokenAnswerError, CancelledError, NoLogprobsError, PromptError, RemoteServerError
from penguin_models.judge import yes_share
from penguin_models.quoting import shortened

if TYPE_CHECKING:  # needs the client of the OpenAI API, which not every robot has
    from penguin_engine.scene.remote.server import OpenAIServer

T = TypeVar("T")
_POLL_S = 0.02
_LONGEST_S = 60.0
"""A first token is due within this time, whatever the deadline."""
_STALL_S = 20.0
"""A server that sends nothing for this time in the middle of an answer has failed."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 4.0
"""Pause before the second try, and the longest that it doubles to; a random part of it, at least half, is taken."""
_SERVER_SHARE = 0.5
"""Share of the time to a deadline that the server gets if a local model could still answer."""
_MOST_CHARS = 256
"""Most characters of an answer per token that was asked for: the longest tokens of Qwen are runs of spaces."""
_TOP_LOGPROBS = 20


@dataclass(frozen=True)
class _Asked:
    """A request on its way."""

    options: dict[str, Any]
    hooks: AnswerHooks
    start_s: float
    limit_s: float  # when its first token is due
    completion: Completion


class RemoteBrain:
    """Answers through one server.

    Attributes:
        server: The server.
        has_local: Whether there is a local model to fall back to.
        breaker: Keeps requests away while the server fails.
        counts: Requests by how they ended ("answered", "cancelled", or the kind of a `RequestFailure`), "not sent"
            because the circuit was open, "retries", and "fallbacks": questions left to the local model.
        system_prompt: What the model is told before each conversation; empty for nothing.
        has_logprobs: Whether the server sends probabilities of tokens; None if that is not known yet.
    """

    def __init__(self, server: OpenAIServer, has_local: bool, clock: Callable[[], float] = monotonic):
        self.server, self.has_local, self.clock = server, has_local, clock
        self.breaker = CircuitBreaker(clock)
        self.counts: Counter[str] = Counter()
        self.system_prompt = ""
        self.has_logprobs: bool | None = None
        self._loop = asyncio.new_event_loop()

    @property
    def in_charge(self) -> bool:
        """Whether the next request is the server's, not the local model's."""
        return not self.has_local or self.breaker.state != "open"

    @property
    def judges(self) -> bool:
        """Whether the server judges conditions, as far as that is known."""
        return self.in_charge and self.has_logprobs is not False

    @property
    def rest_s(self) -> float:
        """Seconds until work that nobody waits for may be sent; 0 for now."""
        return self.breaker.rest_s

    def check_judge(self) -> None:
        """Raises NoLogprobsError if nobody can judge a condition, as far as that is known."""
        if self.has_logprobs is False and not self.has_local:
            raise NoLogprobsError(self._no_logprobs("as it said before"))

    def close(self) -> None:
        """Closes all connections; calling it again does nothing."""
        if not self._loop.is_closed():
            self.run(self._loop.shutdown_asyncgens())  # of answers that ended early
            self.run(self.server.close())
            self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine to its end, in the calling thread."""
        return self._loop.run_until_complete(work)

    def question(self, due_s: float = math.inf) -> RemoteQuestion:
        """Returns what answers one question, whose first token is due at a time on the clock."""
        if self.has_local:
            now_s = self.clock()
            due_s = now_s + _SERVER_SHARE * (due_s - now_s)
        return RemoteQuestion(self, due_s)

    def falls_back(self, error: RemoteServerError) -> bool:
        """Returns whether the local model answers a question that failed, and counts it.

        It does not if a part of the server's answer has been streamed.
        """
        if not self.has_local or isinstance(error, BrokenAnswerError):
            return False
        self.counts["fallbacks"] += 1
        return True

    def complete(self, options: dict[str, Any], hooks: AnswerHooks, due_s: float, completion: Completion) -> None:
        """Fills in a completion; its `ended_by` becomes "cancelled" if the hooks say so.

        Args:
            options: Parameters of the request, besides the model.
            hooks: Called while the answer arrives.
            due_s: When the first token is due.
            completion: An empty one.

        Raises:
            RemoteServerError: The server failed, or its circuit is open; BrokenAnswerError if it had begun to answer.
            PromptError, ContextLengthError: The server refuses the request.
        """
        if self.breaker.state == "open":
            self.counts["not sent"] += 1
            raise RemoteServerError(
                f"{self.server.name} is not asked for the next {self.breaker.rest_s:.0f} s, because it failed "
                f"{FAILURES} times or more in a row: it {self.breaker.reason}"
            )
        start_s = self.clock()
        options = options | {"messages": [*system_turn(self.system_prompt), *options["messages"]]}
        asked = _Asked(options, hooks, start_s, min(due_s, start_s + _LONGEST_S), completion)
        try:
            whole = self.run(_polled(self._persist(asked), hooks))
        except RequestFailure as failure:
            self.counts[failure.kind] += 1
            # A slow server is better than none.
            replied = failure.replied or (failure.kind == "late" and not self.has_local)
            self.breaker.failed(failure.text, replied)
            if completion.began:
                raise BrokenAnswerError(f"{self.server.name} {failure.text}; ask again") from failure
            raise failure.error(self.server.name) from failure
        if whole or completion.began:
            self.breaker.succeeded()
        self.counts["answered" if whole else "cancelled"] += 1
        completion.ended_by = completion.ended_by if whole else "cancelled"

    async def _persist(self, asked: _Asked) -> None:
        """Sends a request until it is answered, or cannot be in time."""
        for attempt in count():
            try:
                await self._attempt(asked)
                return
            except RequestFailure as failure:
                pause_s = min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
                pause_s = max(pause_s, failure.retry_after_s)
                if asked.completion.began or not failure.may_retry:
                    raise
                if self.clock() + pause_s >= asked.limit_s:
                    failure.text += f"; tried {attempt + 1} times, and the next try would be too late"
                    raise
            self.counts["retries"] += 1
            await asyncio.sleep(pause_s)

    async def _attempt(self, asked: _Asked) -> None:
        options, with_logprobs = asked.options, self.has_logprobs is not False
        pieces = self.server.stream(options | {"logprobs": True} if with_logprobs else options)
        try:
            while (piece := await self._next(pieces, asked)) is not None:
                _take(piece, asked)
            if asked.completion.probabilities:
                self.has_logprobs = True
        except RequestFailure as failure:
            if not (with_logprobs and failure.refuses_logprobs):
                raise
            self.has_logprobs = False
            if "top_logprobs" in options:
                raise NoLogprobsError(self._no_logprobs(failure.text)) from failure
            await self._attempt(asked)
        finally:
            await pieces.aclose()

    async def _next(self, pieces: AsyncGenerator[Any, None], asked: _Asked) -> Any:
        """Returns the next piece; None after the last. An answer that is complete needs no more of them."""
        completion = asked.completion
        left_s = _STALL_S if completion.began else asked.limit_s - self.clock()
        try:
            return await asyncio.wait_for(anext(pieces), max(0.0, left_s))
        except asyncio.TimeoutError:
            failure = RequestFailure(
                "late",
                f"sent no token within {self.clock() - asked.start_s:.1f} s, when it was due (deadline_s, "
                "latency_target_s or caption.max_age_s)",
            )
            if completion.began:
                failure.text = f"sent nothing for {_STALL_S:.0f} s in the middle of an answer"
        except StopAsyncIteration:
            failure = RequestFailure("broken", "ended an answer before it was complete")
        except Exception as err:  # noqa: BLE001 - the client's own library of HTTP has errors of its own
            failure = self.server.failure(err, completion.began)
        if completion.ended_by:
            return None
        raise failure

    def judge(self, memory: FrameMemory, question: str, hooks: AnswerHooks, due_s: float) -> float:
        """Returns the model's probability of "yes" to a question about the frames of a camera, at least one.

        Raises:
            NoLogprobsError: The server does not send probabilities.
            CancelledError: The hooks say so.
            RemoteServerError: As for `complete`; or the model says neither yes nor no.
            PromptError, ContextLengthError: As for `complete`.
        """
        shown, _ = choose(None, [Candidate(frame, memory) for frame in memory.frames], 0, 0, math.inf)
        content = [*frames_content(shown, shown[0].frame.stamp_ns, named=False), text_part(question)]
        options = {"messages": user_turn(content), "max_tokens": 1, "temperature": 0, "top_logprobs": _TOP_LOGPROBS}
        completion = Completion()
        self.complete(options, hooks, due_s, completion)
        if completion.ended_by == "cancelled":
            raise CancelledError("cancelled while the server judged")
        if not completion.top and not completion.text:
            raise RemoteServerError(
                f"{self.server.name} ended its judgement before the first word: serve a model that was trained to "
                "judge conditions"
            )
        if not completion.top:
            self.has_logprobs = False
            raise NoLogprobsError(self._no_logprobs("its answers have none"))
        return yes_share(completion.top)

    def _no_logprobs(self, said: str) -> str:
        return (
            f"{self.server.name} gives no probabilities of tokens, which watching needs ({said}): serve the model with "
            "penguin-vl serve or vLLM, or set fallback to a local runtime"
        )


@dataclass(frozen=True)
class RemoteQuestion:
    """Answers one question through a server; takes the place of the runtime in `ask_cameras` and `ask_recall`."""

    brain: RemoteBrain
    due_s: float  # when the first token is due

    def answer_shown(
        self, shown: Sequence[Shown], named: bool, request: Request, hooks: AnswerHooks, timer: LapTimer, answer: Answer
    ) -> None:
        """Fills in an answer about frames; see `multi_camera.answer_shown`.

        Raises:
            PromptError: The answer should follow a schema, and is not whole JSON.
            RemoteServerError, PromptError, ContextLengthError: As for `RemoteBrain.complete`.
        """
        messages = conversation(frames_content(shown, answer.start_ns, named), request)
        answer.seconds["encode"] = timer.lap()

        def on_first() -> None:
            answer.seconds["prefill"] = timer.lap()

        completion = Completion(on_first)
        options = {"messages": messages} | sampling_options(request.sampling)
        self.brain.complete(options, hooks, self.due_s, completion)
        answer.seconds["decode" if completion.began else "prefill"] = timer.lap()
        completion.write_to(answer, request.sampling.grammar is not None)
        if request.sampling.grammar is not None and answer.ended_by != "cancelled":
            self._check_document(answer)

    def _check_document(self, answer: Answer) -> None:
        """Raises PromptError if an answer is not JSON, because it always has to parse."""
        try:
            json.loads(answer.raw)
        except ValueError as err:
            remedy = "raise max_new_tokens" if answer.ended_by == "length" else "it does not follow JSON schemas"
            raise PromptError(f"{self.brain.server.name} sent an answer that is not whole JSON: {remedy}") from err


def _take(piece: Any, asked: _Asked) -> None:
    """Takes in a piece of an answer; what no server of the OpenAI API sends ends it."""
    completion = asked.completion
    try:
        text = completion.add(piece)
    except (AttributeError, TypeError, ValueError) as err:
        raise RequestFailure("broken", f"sent what is not of the OpenAI API ({shortened(str(err))})") from err
    if text:
        asked.hooks.on_text(text, completion.tokens)
    if len(completion.text) > _MOST_CHARS * asked.options["max_tokens"]:
        raise RequestFailure(
            "broken", f"wrote much more than the {asked.options['max_tokens']} tokens it was asked for"
        )


async def _polled(work: Coroutine[Any, Any, None], hooks: AnswerHooks) -> bool:
    """Runs work while the hooks are called; returns False if they cancelled it."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait((task,), timeout=_POLL_S)
            hooks.on_token()
            if not task.done() and hooks.cancelled():
                return False
        task.result()
        return True
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
