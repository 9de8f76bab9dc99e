"""Runs the node in a process of its own: `vlm_node` under ROS, `penguin-vl node` without `ros2`."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Sequence
from time import monotonic
from typing import NoReturn

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException

from penguin_engine.runtimes.base import Runtime
from penguin_engine.runtimes.loading import open_runtime
from penguin_models.errors import CheckpointError, PenguinError
from penguin_models.processor import Processor
from penguin_ros.nodes.context import ExecutorThread, start_ros
from penguin_ros.nodes.lasting_executor import LastingExecutor
from penguin_ros.nodes.loaded import OpenModel
from penguin_ros.nodes.parameters import files_without_effect
from penguin_ros.nodes.vlm_node import VlmNode
from penguin_ros.settings import NodeSettings
from penguin_ros.stopping import end_process, stop_on_signals

_GOODBYE_S = 2.0
"""How long running questions have to end between two tokens when the process is told to stop."""
_CLOSING_S = 2.0
"""How long the node then has to close. Both together are less than launch waits before it kills the process."""


def open_model(settings: NodeSettings) -> tuple[Runtime, Processor]:
    """Loads the local model that the parameters name."""
    assert settings.local_model is not None
    runtime, model = settings.local_model
    if not model:
        name = "fallback_model" if settings["runtime"] == "openai" else "model"
        raise CheckpointError(f"the parameter {name} is empty; set it to a checkpoint folder or owner/name on the hub")
    precision = None if settings["precision"] == "auto" else settings["precision"]
    threads = settings["threads"] or None
    return open_runtime(runtime, model, settings["device"], precision, threads)


def main(args: Sequence[str] | None = None, load: OpenModel = open_model) -> int:
    """Spins the node until SIGINT, SIGTERM or SIGHUP; then questions end as cancelled and the model is freed.

    Args:
        args: Command line with --ros-args; the process's own if None.
        load: Opens the model.

    Returns:
        Exit code: 1 if the parameters are wrong, an automatic start failed, or the executor could not continue.
    """
    args = sys.argv if args is None else args
    try:
        start_ros(args)
        node = VlmNode(load)
    except (PenguinError, ParameterException) as err:
        sys.stderr.write(f"error: {err}\n")
        rclpy.try_shutdown()
        return 1
    for message in files_without_effect(args, node.get_fully_qualified_name()):
        node.get_logger().warning(message)
    return _Host(node).run()


def run(args: Sequence[str] | None = None, load: OpenModel = open_model) -> NoReturn:
    """Runs `main` and ends the process at once: everything is closed, and interpreter teardown takes a second."""
    exit_code = 1
    try:
        exit_code = main(args, load)
    except Exception:  # noqa: BLE001 - the end of the process would wait for the executor's thread
        traceback.print_exc()
    end_process(exit_code)


class _Host:
    """Runs one node until the process is told to stop."""

    def __init__(self, node: VlmNode):
        self._node = node
        self._executor = LastingExecutor(node)
        self._stop = stop_on_signals()
        self._failed, self._may_close = threading.Event(), threading.Event()
        self._spinning = ExecutorThread(self._executor, on_end=self._stop.set)
        self._closing = threading.Thread(target=self._close, name="closing", daemon=True)

    def run(self) -> int:
        """Runs until told to stop; returns the exit code."""
        self._executor.create_task(self._start)
        self._closing.start()  # now: there may be no memory for a thread later
        self._spinning.start()
        self._stop.wait()  # this thread handles the signals, so that none of them interrupts a callback
        if self._node.pending and self._spinning.is_alive():
            self._say_goodbye()
        self._may_close.set()
        self._closing.join(_CLOSING_S)
        exit_code = 1 if self._failed.is_set() or self._spinning.failed else 0
        if self._closing.is_alive():  # the runtime is working, and nothing can interrupt that
            end_process(exit_code)
        return exit_code

    async def _start(self) -> None:
        try:
            if not self._node.get_parameter("autostart").value or await self._node.start_automatically():
                return
        except Exception:  # noqa: BLE001 - ends the process, as a failed start does
            traceback.print_exc()
        self._failed.set()
        self._stop.set()

    def _say_goodbye(self) -> None:
        """Ends all questions, so that their clients are told before the process is gone."""
        deadline = monotonic() + _GOODBYE_S
        done = threading.Event()

        def look() -> None:
            if not self._node.pending:
                done.set()
            elif monotonic() > deadline:
                self._node.abandon_questions()

        def leave() -> None:
            self._node.end_questions()
            self._node.create_timer(0.02, look, clock=Clock(clock_type=ClockType.STEADY_TIME))

        self._executor.create_task(leave)
        done.wait(_GOODBYE_S + 1.0)

    def _close(self) -> None:
        self._may_close.wait()
        self._spinning.close()
        self._node.destroy_node()
        rclpy.shutdown()
