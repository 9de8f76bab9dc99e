"""Stage files: YAML, with single settings overridden, -> `StageSettings`.

An unknown key or a bad value is an error that names the key, the value and what is allowed.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from penguin_models.errors import SettingError
from penguin_training.settings.stage import StageSettings

_SETTINGS = TypeAdapter(StageSettings)


def load_settings(path: str | Path, overrides: Sequence[str] = ()) -> StageSettings:
    """Reads a stage file; raises SettingError if that fails, or if a setting is unknown or out of range.

    `overrides` are `key=value`, the key with dots (`engine.seed=1`, `data.files.0.repeat=2.0`), the value in YAML.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as err:
        raise SettingError(f"stage file {path} cannot be read: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise SettingError(f"stage file {path} is not UTF-8 ({err.reason} at byte {err.start}); re-encode it") from err
    values = _parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise SettingError(f"{path} holds a {type(values).__name__}; a stage file is a mapping of settings")
    for override in overrides:
        _override(values, override)
    return parse_settings(values, str(path))


def parse_settings(values: Mapping[str, Any], where: str) -> StageSettings:
    """Checks plain values and returns them as settings; raises SettingError that describes the first problem."""
    try:
        return _SETTINGS.validate_python(values)
    except ValidationError as err:
        problems = err.errors()
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise SettingError(f"{where}: {_describe(problems[0])}{more}") from err


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as err:
        line = f", line {err.problem_mark.line + 1}" if err.problem_mark else ""
        raise SettingError(f"{where}{line} is not valid YAML: {err.problem}") from err
    except (YAMLError, ValueError, RecursionError) as err:  # control characters, a 13th month, deep nesting
        reason = " ".join(str(err).split())[:200]
        raise SettingError(f"{where} is not valid YAML: {reason}") from err


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *parents, last = key.split(".")
    if not equals or not all((*parents, last)):
        raise SettingError(f"--set {override!r} must have the form key=value, for example engine.seed=1")
    section: Any = values
    for name in parents:
        index = _index(section, name, override)
        if isinstance(section, dict) and section.get(index) is None:
            section[index] = {}
        section = section[index]
    section[_index(section, last, override)] = _parse_yaml(text, f"--set {key}")


def _index(section: Any, name: str, override: str) -> Any:
    if isinstance(section, dict):
        return name
    if not isinstance(section, list):
        raise SettingError(f"--set {override!r}: there are no settings below {section!r}")
    if not name.isdecimal() or int(name) >= len(section):
        raise SettingError(f"--set {override!r}: {name} is not an index of a list of {len(section)} (from 0)")
    return int(name)


def _describe(problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path) or "the stage"
    kind = problem["type"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{key} is not a setting{_suggestion(path)}"
    if kind in ("missing", "missing_argument"):
        return f"{key} is missing"
    if kind == "value_error":
        return f"{key}: {problem['ctx']['error']}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{key} is {repr(problem['input'])[:200]}: {message}"


def _suggestion(path: Sequence[str]) -> str:
    """Suggests a setting of the section in which an unknown one was found."""
    schema = _SETTINGS.json_schema()
    section = schema
    for name in path[:-1]:
        section = section.get("items", {}) if name.isdigit() else section.get("properties", {}).get(name, {})
        for option in (section, *section.get("anyOf", ())):
            if "$ref" in option:
                section = schema["$defs"][option["$ref"].rpartition("/")[2]]
    known = sorted(section.get("properties", {}))
    close = difflib.get_close_matches(path[-1], known, 1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"
