"""`~/ask` and `~/ask_stream`: requests become questions for the worker, outcomes become responses.

The callbacks are coroutines: they wait for the worker without holding the executor.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from concurrent.futures import Future as Outcomes
from typing import Any

from penguin_vl.action import AskStream
from penguin_vl.srv import Ask
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.task import Future

from penguin_engine.scene.requests import Outcome, PendingRequest, Question
from penguin_models.errors import (
    BudgetError,
    BusyError,
    CancelledError,
    ContextLengthError,
    NoFramesError,
    NotActiveError,
    PromptError,
    UnknownCameraError,
)
from penguin_ros.convert import fill_answer
from penguin_ros.nodes.context import FEEDBACK_QOS

_CODES = (
    (UnknownCameraError, Ask.Response.ERROR_UNKNOWN_CAMERA),
    (NoFramesError, Ask.Response.ERROR_NO_FRAMES),
    (NotActiveError, Ask.Response.ERROR_NOT_LOADED),
    (BusyError, Ask.Response.ERROR_BUSY),
    (CancelledError, Ask.Response.ERROR_CANCELLED),
    ((PromptError, ContextLengthError, BudgetError), Ask.Response.ERROR_BAD_REQUEST),
    (Exception, Ask.Response.ERROR_INTERNAL),
)

_QOS = QoSProfile(depth=100)
"""Deep enough that a flood of requests is refused by us, with a reason, and not lost by the middleware."""

_ORPHANS_PERIOD_S = 1.0

MakeQuestion = Callable[[str, list[str], float, int], Question]
Submit = Callable[[Question, Callable[[str, int], None]], PendingRequest]


class AskServer:
    """The service and the action of a node, in every state of its life.

    Attributes:
        waiting: requests without a response.
    """

    def __init__(
        self, node: Node, make_question: MakeQuestion, submit: Submit, cancel: Callable[[PendingRequest], None]
    ):
        """Offers both.

        Args:
            node: that they belong to.
            make_question: text, cameras, horizon in seconds and max_new_tokens -> question; may raise.
            submit: leaves a question; may raise.
            cancel: ends a question.
        """
        self.waiting = 0
        self._node = node
        self._make_question, self._submit, self._cancel = make_question, submit, cancel
        self._tickets: dict[bytes, PendingRequest] = {}  # of goals
        self._heard: set[bytes] = set()  # goals that ran when somebody was last seen to listen
        group = ReentrantCallbackGroup()  # others must run while a coroutine waits
        node.create_service(Ask, "~/ask", self._on_ask, callback_group=group, qos_profile=_QOS)
        self._action = ActionServer(
            node,
            AskStream,
            "~/ask_stream",
            execute_callback=self._on_goal,
            cancel_callback=self._on_cancel,
            callback_group=group,
            goal_service_qos_profile=_QOS,
            feedback_pub_qos_profile=FEEDBACK_QOS,
        )
        self._feedback = f"{node.resolve_topic_name('~/ask_stream')}/_action/feedback"
        node.create_timer(_ORPHANS_PERIOD_S, self._end_orphans, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def destroy(self) -> None:
        """Withdraws the action; the service goes with the node."""
        self._action.destroy()

    async def _on_ask(self, request: Ask.Request, response: Ask.Response) -> Ask.Response:
        await self._answer(request, response, lambda piece, tokens: None, lambda pending: None)
        return response

    async def _on_goal(self, goal: ServerGoalHandle) -> AskStream.Result:
        result, key = AskStream.Result(), bytes(goal.goal_id.uuid)

        def on_text(piece: str, tokens: int) -> None:
            goal.publish_feedback(AskStream.Feedback(text=piece, generated_tokens=tokens))

        def on_pending(pending: PendingRequest) -> None:
            self._tickets[key] = pending
            if goal.is_cancel_requested:  # it came before the ticket
                self._cancel(pending)

        await self._answer(goal.request, result, on_text, on_pending)
        self._tickets.pop(key, None)
        if result.error_code == AskStream.Result.ERROR_NONE:
            goal.succeed()
        elif result.error_code == AskStream.Result.ERROR_CANCELLED and goal.is_cancel_requested:
            goal.canceled()
        else:
            goal.abort()
        return result

    def _on_cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        pending = self._tickets.get(bytes(goal.goal_id.uuid))
        if pending is not None:
            self._cancel(pending)
        return CancelResponse.ACCEPT

    def _end_orphans(self) -> None:
        """Cancels goals when nobody is left who may have asked for them: every client of an action hears its feedback.

        A client that was killed is gone when the middleware says so (its lease: 20 s by default). Nothing tells whose
        goal is whose, so a goal goes on as long as any client is there.
        """
        if self._node.count_subscribers(self._feedback):
            self._heard = set(self._tickets)
            return
        for key in self._heard & self._tickets.keys():
            self._node.get_logger().info("a goal ends as cancelled: there is no client of the action any more")
            self._cancel(self._tickets[key])
        self._heard.clear()

    async def _answer(
        self,
        request: Any,
        response: Any,
        on_text: Callable[[str, int], None],
        on_pending: Callable[[PendingRequest], None],
    ) -> None:
        """Fills a response or result, whatever happens."""
        self.waiting += 1
        try:
            question = self._make_question(
                request.question, list(request.cameras), request.horizon_s, request.max_new_tokens
            )
            pending = self._submit(question, on_text)
            on_pending(pending)
            await self._finished(pending.outcome)
            outcome = pending.outcome.result()
            fill_answer(response, outcome)
            if outcome.answer.ended_by == "cancelled":
                raise CancelledError("cancelled while the answer was generated; it holds what had been said")
        except Exception as err:  # noqa: BLE001 - whoever asks gets the reason, and the node lives on
            response.error_code, response.error_msg = _explain(err)
            if response.error_code == Ask.Response.ERROR_INTERNAL:
                trace = "".join(traceback.format_exception(err))
                self._node.get_logger().error(f"a question failed: {response.error_msg}\n{trace}")
        finally:
            self.waiting -= 1

    async def _finished(self, outcome: Outcomes[Outcome]) -> None:
        """Waits until the worker has set an outcome; the executor goes on meanwhile."""
        executor = self._node.executor
        waiting = Future(executor=executor)
        # The worker's thread may not touch what the executor waits for: it leaves a task, which also wakes it.
        outcome.add_done_callback(lambda _: executor.create_task(waiting.set_result, None))
        await waiting


def _explain(err: Exception) -> tuple[int, str]:
    code = next(code for kinds, code in _CODES if isinstance(err, kinds))
    return code, f"{type(err).__name__}: {err}" if code == Ask.Response.ERROR_INTERNAL else str(err)
