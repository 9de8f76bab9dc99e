"""Asks a running node over its action, and hands on the answer as it comes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import rclpy
from penguin_vl.action import AskStream
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.task import Future

from penguin_models.errors import PenguinError
from penguin_ros.convert import answer_dict
from penguin_ros.nodes.context import FEEDBACK_QOS, start_ros


class AskFailedError(PenguinError):
    """A node could not be asked, or answered with an error."""


def ask_node(
    node_name: str,
    question: str,
    cameras: Sequence[str] = (),
    horizon_s: float = 0.0,
    max_new_tokens: int = 0,
    on_text: Callable[[str], None] = lambda piece: None,
    timeout_s: float = 10.0,
    ros_args: Sequence[str] = (),
) -> dict[str, Any]:
    """Asks a question and waits for the end of its answer; Ctrl-C cancels it.

    Args:
        node_name: full name of the node, for example /penguin.
        question: in plain words.
        cameras: image topics to look at; empty for all.
        horizon_s: look back at most so far; 0 for everything in memory.
        max_new_tokens: longest answer; 0 for the node's parameter.
        on_text: called with each piece of text.
        timeout_s: to find the node; the answer may take any time.
        ros_args: for rclpy: remappings and the like.

    Returns:
        What the node answered, as `convert.answer_dict` has it.

    Raises:
        AskFailedError: there is no such node, or it answered with an error code; the message says why.
        RosArgumentsError: ros_args cannot be parsed.
    """
    goal = AskStream.Goal(question=question, cameras=list(cameras), horizon_s=horizon_s, max_new_tokens=max_new_tokens)
    with _client(node_name, ros_args) as (client, executor):
        result = _ask(client, executor, node_name, goal, on_text, timeout_s)
    if result.error_code != AskStream.Result.ERROR_NONE:
        raise AskFailedError(f"node {node_name}: {result.error_msg} (error code {result.error_code})")
    return answer_dict(result)


@contextmanager
def _client(node_name: str, ros_args: Sequence[str]) -> Iterator[tuple[ActionClient, SingleThreadedExecutor]]:
    """A client of the node's action, which another thread serves: this one takes Ctrl-C."""
    start_ros(ros_args)
    with ExitStack() as ending:
        ending.callback(rclpy.shutdown)
        node = rclpy.create_node("penguin_ask")
        ending.callback(node.destroy_node)
        try:
            client = ActionClient(
                node, AskStream, f"{node_name.rstrip('/')}/ask_stream", feedback_sub_qos_profile=FEEDBACK_QOS
            )
        except ValueError as err:
            raise AskFailedError(f"{node_name!r} cannot be the name of a node; an example: /penguin") from err
        ending.callback(client.destroy)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        spinning = threading.Thread(target=executor.spin, name="executor")
        spinning.start()
        ending.callback(spinning.join)
        ending.callback(executor.shutdown)
        yield client, executor


def _ask(
    client: ActionClient,
    executor: SingleThreadedExecutor,
    name: str,
    goal: AskStream.Goal,
    on_text: Callable[[str], None],
    timeout_s: float,
) -> AskStream.Result:
    if not client.wait_for_server(timeout_s):
        raise AskFailedError(
            f"there is no node {name} to ask (waited {timeout_s} s); is it running? see: ros2 node list"
        )

    def wait(future: Future) -> Any:
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        while not done.wait(0.5):
            if not client.server_is_ready():
                raise AskFailedError(f"node {name} went away before it had answered")
        return future.result()

    def call(request: Callable[..., Future], *args: Any) -> Future:
        # In the executor's thread: an action client notes a request after sending it, and a response that another
        # thread has read by then is lost.
        return wait(executor.create_task(request, *args))

    handle = wait(call(client.send_goal_async, goal, lambda message: on_text(message.feedback.text)))
    if not handle.accepted:
        raise AskFailedError(f"node {name} refused the question")
    finished = call(handle.get_result_async)
    try:
        return wait(finished).result
    except KeyboardInterrupt:
        wait(call(handle.cancel_goal_async))
        return wait(finished).result
