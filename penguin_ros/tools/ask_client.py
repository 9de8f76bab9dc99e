"""Asks a running node over its action, and passes on the answers as they are generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from penguin_vl.action import AskStream
from penguin_vl.msg import Answer

from penguin_models.errors import CancelledError, PenguinError
from penguin_ros.convert import ns_to_stamp
from penguin_ros.nodes.rcl_errors import middleware_errors
from penguin_ros.tools.node_client import NoAnswerError, NodeClient, answer_dict, error_of

_CANCELLING_S = 5.0
"""How long the node has to end a cancelled answer; further Ctrl-C's are ignored meanwhile."""


class AskFailedError(PenguinError):
    """A node could not be asked, or answered with an error."""


class AskClient:
    """Asks one node, question by question."""

    @middleware_errors()
    def __init__(self, node_name: str, timeout_s: float = 10.0, ros_args: Sequence[str] = ()):
        """Initialises ROS and creates the client.

        Args:
            node_name: Full name of the node, for example /penguin.
            timeout_s: Maximum wait for the node to appear, at each question; the answer may take any time.
            ros_args: Arguments for rclpy: remappings and the like.

        Raises:
            NoAnswerError: `node_name` is not a valid name of a node.
            MiddlewareError: The middleware refuses the client.
            RosArgumentsError: `ros_args` cannot be parsed.
        """
        self._name, self._timeout_s = node_name, timeout_s
        self._client = NodeClient("penguin_ask", node_name, ros_args)
        self._client.start()

    @middleware_errors()
    def ask(
        self,
        question: str,
        cameras: Sequence[str] = (),
        horizon_s: float = 0.0,
        max_new_tokens: int = 0,
        on_text: Callable[[str], None] = lambda piece: None,
        since_ns: int | None = None,
        until_ns: int | None = None,
        conversation_id: str = "",
        response_schema: str = "",
    ) -> dict[str, Any]:
        """Asks a question and waits for the end of its answer; Ctrl-C cancels it.

        Args:
            question: Plain text.
            cameras: Image topics to look at; empty for all.
            horizon_s: Look back at most this many seconds; 0 for everything in memory.
            max_new_tokens: Maximum length of the answer; 0 for the node's parameter.
            on_text: Called with each piece of text.
            since_ns: Stamp in nanoseconds of the first moment to look at; None for no limit.
            until_ns: Stamp in nanoseconds of the last moment to look at; None for no limit.
            conversation_id: The conversation that the question continues; empty for a question by itself.
            response_schema: JSON schema of the answer, or "objects"; empty for plain text.

        Returns:
            The answer as `node_client.answer_dict` returns it.

        Raises:
            CancelledError: Ctrl-C or the node cancelled the answer.
            PenguinError: There is no such node, or it answered with an error code; the message says why.
        """
        tokens = min(max_new_tokens, 2**32 - 1)  # refused by the node; rclpy would send the remainder of a larger one
        goal = AskStream.Goal(question=question, cameras=list(cameras), horizon_s=horizon_s, max_new_tokens=tokens)
        goal.since, goal.until = ns_to_stamp(since_ns or 0), ns_to_stamp(until_ns or 0)
        goal.conversation_id, goal.response_schema = conversation_id, response_schema
        answer = _ask(self._client, self._name, goal, on_text, self._timeout_s).answer
        if error := error_of(answer):
            kind = CancelledError if answer.error_code == Answer.ERROR_CANCELLED else AskFailedError
            raise kind(f"node {self._name}: {error}")
        return answer_dict(answer)

    def close(self) -> None:
        """Shuts ROS down."""
        self._client.close()


def _ask(
    client: NodeClient, name: str, goal: AskStream.Goal, on_text: Callable[[str], None], timeout_s: float
) -> AskStream.Result:
    if not client.stream.wait_for_server(timeout_s):
        raise AskFailedError(
            f"there is no node {name} to ask (waited {timeout_s} s); is it running? see: ros2 node list"
        )

    def check() -> None:
        if not client.stream.server_is_ready():
            raise AskFailedError(f"node {name} went away before it had answered")

    try:
        handle = client.send_goal(goal, on_text, check)
    except NoAnswerError as err:
        raise AskFailedError(f"node {name}: {err}") from err
    finished = client.begin(handle.get_result_async)
    try:
        return client.wait(finished, check).result
    except KeyboardInterrupt:
        client.wait(client.begin(handle.cancel_goal_async), check, _CANCELLING_S)
        return client.wait(finished, check, _CANCELLING_S).result
