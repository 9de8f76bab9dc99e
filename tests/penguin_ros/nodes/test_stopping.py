"""Signals end the node with exit code 0, whatever comes after the first and whatever the node is doing."""

import resource
import signal
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from live_nodes import shower
from node_calls import NO_CAPTIONS
from penguin_vl.action import AskStream
from penguin_vl.msg import Answer

EVERY = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("has_memory", [True, False])
def test_signals_of_every_kind_cancel_the_question_and_end_the_node(robot, start_node, image, has_memory):
    node = start_node({"token_s": 0.1}, **NO_CAPTIONS)
    robot.publish_and_wait(node, image(1.0))
    client, pieces = robot.action_client(AskStream, f"{node.name}/ask_stream"), []
    handle = robot.response(client.send_goal_async, AskStream.Goal(question="What?"), pieces.append)
    result = robot.request(handle.get_result_async)
    robot.wait(lambda: pieces)
    if not has_memory:  # no thread can be started: its stack has 8 MiB
        pages = int(Path(f"/proc/{node.process.pid}/statm").read_text().split()[0])
        resource.prlimit(node.process.pid, resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**22,) * 2)
    assert shower(node.process, *EVERY) == 0, node.log
    assert robot.result(result).result.answer.error_code == Answer.ERROR_CANCELLED
