"""Goals of a node's actions, without a thread that waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.action import ActionClient

from penguin_models.quoting import shortened


class Goal:
    """One goal, sent at once. Everything here happens in the executor's thread.

    An action client registers a request after sending it, and would lose a response that another thread has read by
    then.

    Attributes:
        ended: Whether the result is known, or the reason why there is none.
    """

    def __init__(
        self, client: ActionClient, goal: Any, on_feedback: Callable[[Any], None], on_end: Callable[[Any, str], None]
    ):
        """Sends a goal.

        Args:
            client: Client of the action.
            goal: The goal message.
            on_feedback: Called with each feedback message.
            on_end: Called once, with the result, or with None and the reason why there is none.
        """
        self._client, self._on_feedback, self._on_end = client, on_feedback, on_end
        self._handle: Any = None
        self._cancelled = self.ended = False
        self._send(goal)

    def cancel(self) -> None:
        """Asks the node to end the goal; may be called more than once."""
        self._cancelled = True
        if self._handle is not None and self._handle.accepted and not self.ended:
            self._handle.cancel_goal_async()

    def fail(self, reason: str) -> None:
        """Ends the goal without a result."""
        if not self.ended:
            self.ended = True
            self._on_end(None, reason)

    def _send(self, goal: Any) -> None:
        try:
            if not self._client.server_is_ready():
                self.fail("the node does not offer this: is it running, and of this version?")
                return
            sent = self._client.send_goal_async(goal, lambda message: self._on_feedback(message.feedback))
        except Exception as err:  # noqa: BLE001 - a value that does not fit into the message
            self.fail(f"it cannot be sent: {shortened(str(err.__cause__ or err))}")
            return
        sent.add_done_callback(self._on_response)

    def _on_response(self, sent: Any) -> None:
        self._handle = sent.result()
        if not self._handle.accepted:
            self.fail("the node refused it")
            return
        self._handle.get_result_async().add_done_callback(self._on_result)
        if self._cancelled:
            self._handle.cancel_goal_async()

    def _on_result(self, finished: Any) -> None:
        if not self.ended:
            self.ended = True
            self._on_end(finished.result().result, "")
