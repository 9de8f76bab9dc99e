"""Shared by all processes of this package: how ROS is initialised, and the QoS of streamed answers."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence

import rclpy
from rclpy.logging import LoggingSeverity, get_logger_effective_level, set_logger_level
from rclpy.qos import QoSHistoryPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions

from penguin_models.errors import PenguinError
from penguin_ros.nodes.lasting_executor import LastingExecutor

REQUEST_QOS = QoSProfile(history=QoSHistoryPolicy.KEEP_ALL)
"""QoS of services and their clients. The node refuses a flood of questions with a reason; with the default depth of
ten, the middleware would drop questions and replies."""
FEEDBACK_QOS = QoSProfile(depth=1024)
"""QoS of streamed text. Pieces may arrive faster than a busy client takes them; with the default depth of ten, text
would be lost in the middle of an answer."""


class ExecutorThread(threading.Thread):
    """Spins an executor until `close`, and ends without a race.

    `Executor.shutdown` of rclpy destroys what a spinning thread waits on; here the thread ends before it.

    Attributes:
        failed: Whether the executor could not continue.
    """

    def __init__(self, executor: LastingExecutor, on_end: Callable[[], None] = lambda: None):
        super().__init__(name="executor")
        self.failed = False
        self._executor, self._on_end = executor, on_end
        self._closing = threading.Event()

    def run(self) -> None:
        """Spins; called by the thread."""
        try:
            while not self._closing.is_set():
                self._executor.spin_once()
        except BaseException:
            self.failed = True
            raise
        finally:
            self._on_end()

    def close(self) -> None:
        """Ends the thread, then the executor."""
        self._closing.set()
        if self.is_alive():
            self._executor.create_task(lambda: None)  # wakes it
            self.join()
        self._executor.shutdown()


class RosArgumentsError(PenguinError):
    """A ROS argument cannot be parsed: a remapping, a name, a parameter or its file, a log level."""


def start_ros(args: Sequence[str]) -> None:
    """Initialises rclpy; signals are left to the caller.

    Args:
        args: Command line, with the ROS arguments after --ros-args.

    Raises:
        RosArgumentsError: The ROS arguments cannot be parsed.
    """
    set_logger_level("rcl", LoggingSeverity.FATAL)  # the exception says the same
    warnings.filterwarnings("ignore", "Failed to fini rosout publisher")  # follows an exception of rclpy 7.1
    try:
        rclpy.init(args=list(args), signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as err:
        reason = " ".join(without_places(str(err)).split()).removeprefix("failed to initialize rcl: ")
        raise RosArgumentsError(reason) from err
    if get_logger_effective_level("rcl") == LoggingSeverity.FATAL:  # the arguments set no other
        set_logger_level("rcl", LoggingSeverity.UNSET)


def without_places(message: str) -> str:
    """Returns a message of ROS's C code without the source locations it lists."""
    return message.split(", at /")[0]
