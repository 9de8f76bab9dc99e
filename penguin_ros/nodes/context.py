"""Shared by all processes of this package: how ROS is initialised, and the QoS of streamed answers."""

from __future__ import annotations

from collections.abc import Sequence

import rclpy
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions

from penguin_models.errors import PenguinError

FEEDBACK_QOS = QoSProfile(depth=1024)
"""QoS of streamed text. Pieces may arrive faster than a busy client takes them; with the default depth of ten, text
would be lost in the middle of an answer."""


class RosArgumentsError(PenguinError):
    """A ROS argument cannot be parsed: a remapping, a name, a parameter or its file, a log level."""


def start_ros(args: Sequence[str]) -> None:
    """Initialises rclpy; signals are left to the caller.

    Args:
        args: Command line, with the ROS arguments after --ros-args.

    Raises:
        RosArgumentsError: The ROS arguments cannot be parsed.
    """
    try:
        rclpy.init(args=list(args), signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as err:
        raise RosArgumentsError(_without_places(str(err))) from err


def _without_places(message: str) -> str:
    """Returns a message of ROS's C code without the source locations it lists."""
    return " ".join(message.split(", at /")[0].split()).removeprefix("failed to initialize rcl: ")
