"""Goals: an action server whose goals are work that another thread does, in every lifecycle state of its node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from penguin_ros.nodes.context import FEEDBACK_QOS, REQUEST_QOS

T = TypeVar("T")
_ORPHANS_PERIOD_S = 1.0
_RESULT_S = 60
"""How long the result of a finished goal is kept. Each costs 3 KiB, and every change of a goal publishes
the states of all that are kept: after 15 minutes, rclpy's default, thousands of goals would make each one slow."""


class Goals(Generic[T]):
    """The goals of an action with the work that each of them waits for."""

    def __init__(
        self,
        node: Node,
        kind: type,
        name: str,
        execute: Callable[[ServerGoalHandle], Any],
        cancel: Callable[[T], None],
        group: CallbackGroup,
    ):
        """Creates the action server.

        Args:
            node: The node.
            kind: Type of the action.
            name: Name of the action.
            execute: Coroutine that returns the result of a goal; it calls `begin` and `end`.
            cancel: Ends the work of a goal early.
            group: Lets other callbacks run while a coroutine waits.
        """
        self._node, self._cancel = node, cancel
        self._work: dict[bytes, T] = {}  # by goal
        self._heard: set[bytes] = set()  # goals that were running when a client was last present
        self._action = ActionServer(
            node,
            kind,
            name,
            execute_callback=execute,
            cancel_callback=self._on_cancel,
            callback_group=group,
            goal_service_qos_profile=REQUEST_QOS,
            result_service_qos_profile=REQUEST_QOS,
            cancel_service_qos_profile=REQUEST_QOS,
            feedback_pub_qos_profile=FEEDBACK_QOS,
            result_timeout=_RESULT_S,
        )
        self._feedback = f"{node.resolve_topic_name(name)}/_action/feedback"
        node.create_timer(_ORPHANS_PERIOD_S, self._end_orphans, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def destroy(self) -> None:
        """Destroys the action server."""
        self._action.destroy()

    def begin(self, goal: ServerGoalHandle, work: T) -> None:
        """Notes the work that a goal waits for."""
        self._work[bytes(goal.goal_id.uuid)] = work
        if goal.is_cancel_requested:  # it came before the work began
            self._cancel(work)

    def end(self, goal: ServerGoalHandle, succeeded: bool, cancelled: bool) -> None:
        """Ends a goal; `cancelled` says whether its work was cancelled, at the client's request or not."""
        self._work.pop(bytes(goal.goal_id.uuid), None)
        if succeeded:
            goal.succeed()
        elif cancelled and goal.is_cancel_requested:
            goal.canceled()
        else:
            goal.abort()

    def _on_cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        work = self._work.get(bytes(goal.goal_id.uuid))
        if work is not None:
            self._cancel(work)
        return CancelResponse.ACCEPT

    def _end_orphans(self) -> None:
        """Cancels goals when no client is left: every client of an action subscribes to its feedback.

        The middleware reports a killed client when its lease expires (20 s by default). It does not say whose goal is
        whose, so a goal continues as long as any client is present.
        """
        if self._node.count_subscribers(self._feedback):
            self._heard = set(self._work)
            return
        for key in self._heard & self._work.keys():
            self._node.get_logger().info("cancelling a goal: no client of the action is left")
            self._cancel(self._work[key])
        self._heard.clear()
