"""Declares the table of settings as ROS parameters, and reads them back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from penguin_ros.settings import SETTINGS, NodeSettings, Setting


def declare(node: Node) -> None:
    """Declares every setting with its description and range."""
    for setting in SETTINGS:
        node.declare_parameter(setting.name, setting.default, _descriptor(setting))


def read(node: Node, changes: Mapping[str, Any] | None = None) -> NodeSettings:
    """The current settings, with some values changed.

    Raises:
        PenguinError: the values do not fit each other.
    """
    values = {setting.name: node.get_parameter(setting.name).value for setting in SETTINGS}
    return NodeSettings.from_values({**values, **(changes or {})})


def _descriptor(setting: Setting) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=setting.description)
    if setting.choices:
        descriptor.additional_constraints = f"one of {', '.join(setting.choices)}"
    if not setting.live:
        descriptor.additional_constraints += "; changes only while the node is unconfigured"
    descriptor.additional_constraints = descriptor.additional_constraints.removeprefix("; ")
    if isinstance(setting.default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=setting.low, to_value=setting.high)]
    elif setting.low is not None and setting.high is not None:
        descriptor.integer_range = [IntegerRange(from_value=int(setting.low), to_value=int(setting.high), step=1)]
    return descriptor
