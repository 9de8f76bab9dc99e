"""Runs the node in a process of its own: `vlm_node` under ROS, `penguin-vl node` without `ros2`."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Sequence
from time import monotonic

import rclpy
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions

from penguin_engine.loading import open_runtime
from penguin_engine.runtime import Runtime
from penguin_models.errors import CheckpointError, PenguinError
from penguin_models.processor import Processor
from penguin_ros.nodes.vlm_node import OpenModel, VlmNode
from penguin_ros.settings import NodeSettings

_GOODBYE_S = 3.0
"""Running questions get so long to end as cancelled when the process is told to stop."""


def open_model(settings: NodeSettings) -> tuple[Runtime, Processor]:
    """Loads what the parameters name."""
    if not settings["model"]:
        raise CheckpointError("the parameter model is empty; set it to a checkpoint folder or owner/name on the hub")
    precision = None if settings["precision"] == "auto" else settings["precision"]
    return open_runtime(settings["runtime"], settings["model"], settings["device"], precision)


def main(args: Sequence[str] | None = None, load: OpenModel = open_model) -> int:
    """Spins the node until SIGINT or SIGTERM; then questions end as cancelled and the model is freed.

    Args:
        args: command line with --ros-args; the process's own if None.
        load: how the model is opened.

    Returns:
        Exit code: 1 where the parameters are wrong or an automatic start failed.
    """
    rclpy.init(args=list(sys.argv if args is None else args), signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = VlmNode(load)
    except (PenguinError, InvalidParameterTypeException, InvalidParameterValueException) as err:
        sys.stderr.write(f"error: {err}\n")
        rclpy.shutdown()
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    stop, failed = threading.Event(), threading.Event()

    def start() -> None:
        if node.get_parameter("autostart").value and (
            node.trigger_configure() != TransitionCallbackReturn.SUCCESS
            or node.trigger_activate() != TransitionCallbackReturn.SUCCESS
        ):
            failed.set()
            stop.set()

    def spin() -> None:
        try:
            executor.spin()
        finally:
            stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())  # launch sends SIGINT a second time
    executor.create_task(start)
    spinning = threading.Thread(target=spin, name="executor")
    spinning.start()
    stop.wait()  # this thread takes the signals, so that none of them interrupts a callback
    _say_goodbye(node, executor)
    executor.shutdown()
    spinning.join()
    node.destroy_node()
    rclpy.shutdown()
    return 1 if failed.is_set() else 0


def _say_goodbye(node: VlmNode, executor: SingleThreadedExecutor) -> None:
    """Lets running questions end, so that whoever asked hears of it."""
    deadline = monotonic() + _GOODBYE_S
    done = threading.Event()

    def look() -> None:
        if not node.pending or monotonic() > deadline:
            done.set()

    def leave() -> None:
        node.end_questions()
        look()
        node.create_timer(0.02, look)

    executor.create_task(leave)
    done.wait(_GOODBYE_S)
