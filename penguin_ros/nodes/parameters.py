"""Declares a table of settings as ROS parameters, reads them back, and reports changes and names that do not exist."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from penguin_models.errors import SettingError
from penguin_ros.nodes.context import REQUEST_QOS
from penguin_ros.nodes.parameter_services import LISTS, ParameterServices, within_limit
from penguin_ros.settings import BY_NAME, SETTINGS, NodeSettings, Setting, unknown_parameter

_BUILT_IN = ("use_sim_time", "start_type_description_service")
_BUILT_IN_PREFIX = "qos_overrides."


class SettingsNode(Node):  # type: ignore[misc, unused-ignore]
    """Base of nodes whose parameters are a table of settings; numbers are converted where that is exact."""

    def __init__(self, name: str, **options: Any):
        """Creates the node; `declare_settings` declares the parameters."""
        self._overrides: dict[str, Any] | None = None
        options = {"automatically_declare_parameters_from_overrides": True, "start_parameter_services": False} | options
        super().__init__(name, **options)
        self._parameter_service = ParameterServices(self)

    def create_service(self, srv_type: Any, srv_name: str, callback: Any, **options: Any) -> Any:
        """Creates a service; those for parameters, which rclpy creates here as well, refuse messages that are too long.

        rclpy sets the parameters of a message one by one, in its executor: 50,000 would delay a question for seconds.
        """
        if srv_type in LISTS:
            callback, options["qos_profile"] = within_limit(srv_type, callback), REQUEST_QOS
        return super().create_service(srv_type, srv_name, callback, **options)

    def declare_parameters(
        self, namespace: str, parameters: Sequence[Any], ignore_override: bool = False
    ) -> list[Parameter]:
        """Declares parameters, except in rclpy's constructor, which passes all overrides from command line and files.

        rclpy would declare these with the types that they have in YAML, and fails on an empty list (None here).
        """
        if self._overrides is not None:
            return list(super().declare_parameters(namespace, parameters, ignore_override))
        self._overrides = {name: [] if value is None else value for name, value, _ in parameters}
        return []

    def declare_settings(
        self, settings: Sequence[Setting], check: Callable[[Mapping[str, Any]], object] = lambda values: None
    ) -> None:
        """Declares every setting with its description and range, and warns about overrides that are not among them.

        Args:
            settings: The parameters.
            check: Gets the value of each parameter before any is declared; may raise SettingError.

        Raises:
            SettingError: A value has the wrong type.
        """
        overrides = self._overrides or {}
        values = {s.name: s.convert(overrides.get(s.name, s.default)) for s in settings}
        check(values)
        self._settings_by_name = {setting.name: setting for setting in settings}
        for setting in settings:
            self.declare_parameter(setting.name, values[setting.name], descriptor_of(setting), ignore_override=True)
        for name in overrides:
            if name not in values and not _is_built_in(name):
                self.get_logger().warning(f"{name} has no effect: {unknown_parameter(name, [*values, *_BUILT_IN])}")

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """Sets parameters, as the parameter services do; a wrong name or type is refused with the reason."""
        try:
            parameter_list = [self._typed(parameter) for parameter in parameter_list]
        except SettingError as err:
            return SetParametersResult(successful=False, reason=str(err))
        return super().set_parameters_atomically(parameter_list)

    def _typed(self, parameter: Parameter) -> Parameter:
        setting = self._settings_by_name.get(parameter.name)
        if setting is None:
            if not self.has_parameter(parameter.name):
                raise SettingError(unknown_parameter(parameter.name, self._settings_by_name))
            return parameter
        declared = self.get_parameter(setting.name)
        return Parameter(setting.name, declared.type_, setting.convert(parameter.value))


def read(node: Node, changes: Sequence[Parameter] = ()) -> NodeSettings:
    """Returns the current settings with some changes applied; other parameters among the changes are ignored.

    Raises:
        PenguinError: The values contradict each other.
    """
    values = {setting.name: node.get_parameter(setting.name).value for setting in SETTINGS}
    values |= {parameter.name: parameter.value for parameter in changes if parameter.name in BY_NAME}
    return NodeSettings.from_values(values)


def watch(node: Node, check: Callable[[list[Parameter]], SetParametersResult], apply: Callable[[], None]) -> None:
    """Registers what validates changes (without side effects), and what applies those that were accepted.

    `apply` runs in the executor, before it takes the next request: Humble has no callback after a change.
    """

    def on_set(changed: list[Parameter]) -> SetParametersResult:
        result = check(changed)
        if result.successful and node.executor is not None:
            node.executor.create_task(apply)
        return result

    node.add_on_set_parameters_callback(on_set)


def files_without_effect(args: Sequence[str], node_name: str) -> Iterator[str]:
    """Yields a message for each parameter file of a command line that has parameters, but for other nodes only.

    Args:
        args: Command line; the files follow `--params-file`.
        node_name: Full name of the node.
    """
    yaml = YAML(typ="safe")
    for option, path in pairwise(args):
        if option != "--params-file":
            continue
        try:
            content = yaml.load(Path(path))
        except YAMLError:  # ROS, which has read it, is less strict
            continue
        sections = list(_sections(content)) if isinstance(content, Mapping) else []
        if sections and not any(re.fullmatch(_pattern(section), node_name) for section in sections):
            names = ", ".join(dict.fromkeys(sections))
            yield f"{path} has parameters for {names} only, not for {node_name}: it has no effect"


def _sections(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        name = f"{prefix}/{key.strip('/')}"
        if key == "ros__parameters":
            yield prefix
        elif isinstance(value, Mapping):
            yield from _sections(value, name)


def _pattern(section: str) -> str:
    """Returns the regular expression of a node name with the wildcards of ROS: * is one name, ** any number."""
    return section.replace("/**", "(/[^/]+)#").replace("/*", "/[^/]+").replace("#", "*")


def _is_built_in(name: str) -> bool:
    return name in _BUILT_IN or name.startswith(_BUILT_IN_PREFIX)


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
