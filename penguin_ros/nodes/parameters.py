"""Declares the table of settings as ROS parameters, reads them back, and reports changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from penguin_ros.settings import BY_NAME, SETTINGS, NodeSettings, Setting


def declare(node: Node) -> None:
    """Declares every setting with its description and range."""
    for setting in SETTINGS:
        node.declare_parameter(setting.name, setting.default, descriptor_of(setting))


def read(node: Node, changes: Sequence[Parameter] = ()) -> NodeSettings:
    """Returns the current settings with some changes applied; other parameters among the changes are ignored.

    Raises:
        PenguinError: The values contradict each other.
    """
    values = {setting.name: node.get_parameter(setting.name).value for setting in SETTINGS}
    values |= {parameter.name: parameter.value for parameter in changes if parameter.name in BY_NAME}
    return NodeSettings.from_values(values)


def watch(
    node: Node, check: Callable[[list[Parameter]], SetParametersResult], apply: Callable[[list[Parameter]], None]
) -> None:
    """Registers what validates changes (without side effects), and what applies those that were accepted."""
    node.add_on_set_parameters_callback(check)
    node.add_post_set_parameters_callback(apply)


def descriptor_of(setting: Setting) -> ParameterDescriptor:
    """Returns the description and limits of a setting as ROS declares them."""
    descriptor = ParameterDescriptor(description=setting.description, read_only=setting.read_only)
    constraints = [f"one of {', '.join(setting.choices)}"] if setting.choices else []
    if not setting.live and not setting.read_only:
        constraints.append("changes only while the node is unconfigured")
    descriptor.additional_constraints = "; ".join(constraints)
    if isinstance(setting.default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=setting.low, to_value=setting.high)]
    elif setting.low is not None and setting.high is not None:
        descriptor.integer_range = [IntegerRange(from_value=int(setting.low), to_value=int(setting.high), step=1)]
    return descriptor
