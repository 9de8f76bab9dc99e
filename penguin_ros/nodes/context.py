"""What all processes of this package share: how ROS is started, and how answers are streamed."""

from __future__ import annotations

from collections.abc import Sequence

import rclpy
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions

from penguin_models.errors import PenguinError

FEEDBACK_QOS = QoSProfile(depth=1024)
"""Of streamed text. A piece for every token comes faster than a busy client takes them; by default the oldest of more
than ten would be lost, in the middle of the text."""


class RosArgumentsError(PenguinError):
    """ROS does not understand its arguments: a remapping, a name, a parameter or its file, a log level."""


def start_ros(args: Sequence[str]) -> None:
    """Initialises rclpy; signals are left to the caller.

    Args:
        args: command line, with the ROS arguments after --ros-args.

    Raises:
        RosArgumentsError: they cannot be parsed.
    """
    try:
        rclpy.init(args=list(args), signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as err:
        raise RosArgumentsError(_without_places(str(err))) from err


def _without_places(message: str) -> str:
    """A message of ROS's C code without the lines of source that it lists."""
    return " ".join(message.split(", at /")[0].split()).removeprefix("failed to initialize rcl: ")
