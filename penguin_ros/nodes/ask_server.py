"""`~/ask` and `~/ask_stream`: goals become requests for the worker, outcomes become answers.

The callbacks are coroutines: they wait for the worker without blocking the executor.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future as WorkerFuture
from functools import partial
from typing import Any, Protocol

from builtin_interfaces.msg import Time
from penguin_vl.action import AskStream
from penguin_vl.msg import Answer
from penguin_vl.srv import Ask
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future

from penguin_engine.scene.requests import PendingRequest
from penguin_models.errors import (
    BudgetError,
    BusyError,
    CancelledError,
    ContextLengthError,
    EpisodeError,
    NoFramesError,
    NotActiveError,
    PromptError,
    RemoteServerError,
    SettingError,
    UnknownCameraError,
)
from penguin_ros.convert import answer_message
from penguin_ros.nodes.context import REQUEST_QOS
from penguin_ros.nodes.goals import Goals
from penguin_ros.nodes.outputs import describe, trace_of

_CODES = (
    (UnknownCameraError, Answer.ERROR_UNKNOWN_CAMERA),
    (NoFramesError, Answer.ERROR_NO_FRAMES),
    (NotActiveError, Answer.ERROR_NOT_LOADED),
    (BusyError, Answer.ERROR_BUSY),
    (CancelledError, Answer.ERROR_CANCELLED),
    (EpisodeError, Answer.ERROR_EPISODES),
    (RemoteServerError, Answer.ERROR_SERVER),
    ((PromptError, SettingError, ContextLengthError, BudgetError), Answer.ERROR_BAD_REQUEST),
    (Exception, Answer.ERROR_INTERNAL),
)


class AskGoal(Protocol):
    """The fields that the request of `Ask` and the goal of `AskStream` share."""

    question: str
    cameras: list[str]
    horizon_s: float
    max_new_tokens: int
    deadline_s: float
    since: Time
    until: Time
    conversation_id: str
    response_schema: str


Submit = Callable[[AskGoal, Callable[[str, int], None]], PendingRequest]
"""Queues a question; the callback gets each piece of text and the number of tokens so far. May raise."""


class AskServer:
    """The service and the action of a node, in every lifecycle state.

    Attributes:
        waiting: Number of requests without an answer.
    """

    def __init__(
        self, node: Node, submit: Submit, cancel: Callable[[PendingRequest], None], age_s: Callable[[str, int], float]
    ):
        """Creates the service and the action server.

        Args:
            node: The node.
            submit: Queues a question.
            cancel: Ends one.
            age_s: Returns the age in seconds of a camera's frame with a stamp in nanoseconds.
        """
        self.waiting = 0
        self._age_s = age_s
        self._node, self._submit = node, submit
        group = ReentrantCallbackGroup()  # other callbacks must run while a coroutine waits
        node.create_service(Ask, "~/ask", self._on_ask, callback_group=group, qos_profile=REQUEST_QOS)
        self._goals = Goals(node, AskStream, "~/ask_stream", self._on_goal, cancel, group)

    def destroy(self) -> None:
        """Destroys the action server; the service is destroyed with the node."""
        self._goals.destroy()

    async def _on_ask(self, request: Ask.Request, response: Ask.Response) -> Ask.Response:
        response.answer = await self._answer(request, lambda piece, tokens: None, lambda pending: None)
        return response

    async def _on_goal(self, goal: ServerGoalHandle) -> AskStream.Result:
        def on_text(piece: str, tokens: int) -> None:
            goal.publish_feedback(AskStream.Feedback(text=piece, generated_tokens=tokens))

        answer = await self._answer(goal.request, on_text, partial(self._goals.begin, goal))
        code = answer.error_code
        self._goals.end(goal, code == Answer.ERROR_NONE, code == Answer.ERROR_CANCELLED)
        return AskStream.Result(answer=answer)

    async def _answer(
        self, goal: AskGoal, on_text: Callable[[str, int], None], on_pending: Callable[[PendingRequest], None]
    ) -> Answer:
        """Returns an answer or the reason why there is none, whatever happens."""
        self.waiting += 1
        answer = Answer()
        try:
            pending = self._submit(goal, on_text)
            on_pending(pending)
            await finished(self._node, pending.outcome)
            outcome = pending.outcome.result()
            answer = answer_message(outcome, self._age_s(outcome.camera, outcome.frame.stamp_ns))
            if outcome.answer.ended_by == "cancelled":
                raise CancelledError("cancelled while the answer was being generated; text holds what was generated")
        except Exception as err:  # noqa: BLE001 - the client gets the reason, and the node continues
            answer.error_code, answer.error_msg = explain(err)
            if answer.error_code == Answer.ERROR_INTERNAL:
                self._node.get_logger().error(f"a question failed: {answer.error_msg}{trace_of(err)}")
        finally:
            self.waiting -= 1
        return answer


async def finished(node: Node, work: WorkerFuture[Any]) -> None:
    """Waits until another thread has done some work, while the executor of the node continues."""
    executor = node.executor
    waiting = Future(executor=executor)
    # The other thread must not touch what the executor waits for: it schedules a task on the executor.
    work.add_done_callback(lambda _: executor.create_task(waiting.set_result, None))
    await waiting


def explain(err: Exception) -> tuple[int, str]:
    """Returns the code and the message of an error in an answer."""
    code = next(code for kinds, code in _CODES if isinstance(err, kinds))
    return code, describe(err) if code == Answer.ERROR_INTERNAL else str(err)
