"""The node's parameters, as far as answers depend on them: a robot's own configuration can be scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from penguin_models.errors import EvaluationError
from penguin_ros.settings import SETTINGS, NodeSettings

_DEFAULTS = {setting.name: setting.default for setting in SETTINGS}
_GROUPS = ("memory.", "keyframe.", "answer.")
RELEVANT = tuple(name for name in _DEFAULTS if name in ("token_budget", "sample_rate_hz") or name.startswith(_GROUPS))
"""Parameters that change answers; the others say which model and cameras, and what is published when."""


def node_settings(parameters: Mapping[str, Any], cameras: Sequence[str]) -> NodeSettings:
    """The node's settings for these cameras.

    Raises:
        PenguinError: a value is out of range, or the budget is too small for so many cameras.
    """
    return NodeSettings.from_values({**_DEFAULTS, **parameters, "image_topics": list(cameras)})


def parse_parameter(words: str) -> tuple[str, Any]:
    """A parameter from the command line: NAME=VALUE.

    Raises:
        EvaluationError: there is no such parameter, it does not change answers, or its value has another type.
    """
    name, equals, value = words.partition("=")
    if not equals:
        raise EvaluationError(f"{words!r} is not NAME=VALUE")
    _check_name(name)
    return name, _typed(name, value)


def read_parameters(path: Path) -> dict[str, Any]:
    """Parameters of a ROS parameter file that change answers; those that do not are left out.

    Raises:
        EvaluationError: the file cannot be read, is no parameter file, or names what is no parameter of the node.
    """
    try:
        content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise EvaluationError(f"parameters {path} cannot be read: {err.strerror}") from err
    except (YAMLError, UnicodeDecodeError) as err:
        raise EvaluationError(f"parameters {path} are no YAML: {' '.join(str(err).split())}") from err
    nodes = content.values() if isinstance(content, dict) else []
    groups = [node["ros__parameters"] for node in nodes if isinstance(node, dict) and "ros__parameters" in node]
    if not groups:
        raise EvaluationError(f"{path} has no 'ros__parameters' below the name of a node")
    found: dict[str, Any] = {}
    for group in groups:
        found |= _flat(group)
    for name in found:
        if name not in _DEFAULTS and name != "use_sim_time":
            raise EvaluationError(f"{path}: the node has no parameter {name!r}")
    return {name: _typed(name, value) for name, value in found.items() if name in RELEVANT}


def _flat(group: Any, prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in (group or {}).items():
        values |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return values


def _check_name(name: str) -> None:
    if name not in _DEFAULTS:
        raise EvaluationError(f"the node has no parameter {name!r}; those that change answers: {', '.join(RELEVANT)}")
    if name not in RELEVANT:
        raise EvaluationError(f"{name} does not change answers; parameters that do: {', '.join(RELEVANT)}")


def _typed(name: str, value: Any) -> Any:
    kind = type(_DEFAULTS[name])
    try:
        return kind(value)
    except (TypeError, ValueError) as err:
        raise EvaluationError(f"{name} is {value!r}, it must be of type {kind.__name__}") from err
