"""The node parameters that change answers, so that a robot's own configuration can be evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from penguin_models.errors import EvaluationError, SettingError
from penguin_ros.settings import BY_NAME, SETTINGS, NodeSettings

_DEFAULTS = {setting.name: setting.default for setting in SETTINGS}
_GROUPS = ("memory.", "keyframe.", "caption.", "answer.")
_SINGLE = ("token_budget", "sample_rate_hz", "mono16_scaling", "max_image_pixels")
RELEVANT = tuple(name for name in _DEFAULTS if name in _SINGLE or name.startswith(_GROUPS))
"""Parameters that change answers (captions take time, which `--realtime` measures); the others do not."""


def node_settings(parameters: Mapping[str, Any], cameras: Sequence[str]) -> NodeSettings:
    """Returns the node's settings for these cameras, with defaults for parameters that are not listed.

    Raises PenguinError if a value is out of range, or the token budget is too small for the number of cameras.
    """
    return NodeSettings.from_values({**_DEFAULTS, **parameters, "image_topics": list(cameras)})


def parse_parameter(text: str) -> tuple[str, Any]:
    """Parses NAME=VALUE; raises EvaluationError if it does not change answers, or the value has another type."""
    name, equals, value = text.partition("=")
    if not equals:
        raise EvaluationError(f"{text!r} is not NAME=VALUE")
    if name not in RELEVANT:
        reason = "does not change answers" if name in _DEFAULTS else "is not a parameter of the node"
        raise EvaluationError(f"{name} {reason}; parameters that change answers: {', '.join(RELEVANT)}")
    return name, _convert(name, value if isinstance(_DEFAULTS[name], str) else _yaml(value))


def read_parameters(path: Path) -> dict[str, Any]:
    """Reads a ROS parameter file and returns the parameters that change answers.

    Raises EvaluationError if it cannot be read, is not a parameter file, or has a parameter that the node does not.
    """
    try:
        content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise EvaluationError(f"parameter file {path} cannot be read: {err.strerror}") from err
    except (YAMLError, UnicodeDecodeError) as err:
        raise EvaluationError(f"parameter file {path} is not YAML: {' '.join(str(err).split())}") from err
    nodes = content.values() if isinstance(content, dict) else []
    groups = [node["ros__parameters"] for node in nodes if isinstance(node, dict) and "ros__parameters" in node]
    if not groups:
        raise EvaluationError(f"parameter file {path} has no 'ros__parameters' below a node name")
    found: dict[str, Any] = {}
    for group in groups:
        found |= _flatten(group)
    for name in found:
        if name not in _DEFAULTS and name != "use_sim_time":
            raise EvaluationError(f"parameter file {path}: the node has no parameter {name!r}")
    return {name: _convert(name, value) for name, value in found.items() if name in RELEVANT}


def _flatten(group: Any, prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in (group or {}).items():
        values |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return values


def _convert(name: str, value: Any) -> Any:
    try:
        return BY_NAME[name].convert(value)
    except SettingError as err:
        raise EvaluationError(str(err)) from err


def _yaml(text: str) -> Any:
    try:
        return YAML(typ="safe").load(text)
    except YAMLError:
        return text
