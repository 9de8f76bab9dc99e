"""Stage files: YAML, with single settings overridden, -> `StageSettings`.

An unknown key or a bad value is an error that names the key, the value and what is allowed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from penguin_models.errors import SettingError
from penguin_training.settings.stage import StageSettings


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 3e-4 is a number, a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise SettingError(f"line {key_node.start_mark.line + 1}: {key} cannot be a key; name a setting")
            if key in seen:
                raise SettingError(f"line {key_node.start_mark.line + 1}: {key} is given twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def load_settings(path: str | Path, overrides: Sequence[str] = ()) -> StageSettings:
    """Reads a stage file.

    Args:
        path: YAML file.
        overrides: `key=value`, the key with dots (`engine.precision=float32`, `data.files.0.repeat=2.0`), the value in
            YAML.

    Raises:
        SettingError: the file cannot be read, or a setting is unknown or out of range.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as err:
        raise SettingError(f"stage file {path} cannot be read: {err.strerror}") from err
    except UnicodeDecodeError as err:
        raise SettingError(
            f"stage file {path} is not UTF-8 ({err.reason} at byte {err.start}); save it as UTF-8"
        ) from err
    values = _parse(text, str(path))
    if not isinstance(values, dict):
        raise SettingError(f"{path} holds a {type(values).__name__}; a stage file is a mapping of settings")
    for override in overrides:
        _override(values, override)
    return parse_settings(values, str(path))


def parse_settings(values: Mapping[str, Any], where: str) -> StageSettings:
    """Settings from plain values.

    Raises:
        SettingError: names the key, the value and what is allowed; the first problem and how many there are.
    """
    try:
        return TypeAdapter(StageSettings).validate_python(values)
    except ValidationError as err:
        problems = err.errors()
        more = f" ({len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise SettingError(f"{where}: {_describe(problems[0])}{more}") from err


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as err:
        raise SettingError(f"{where} is not YAML: {' '.join(str(err).split())}") from err
    except SettingError as err:
        raise SettingError(f"{where}, {err}") from err


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *parents, last = key.split(".")
    if not equals or not all((*parents, last)):
        raise SettingError(f"--set {override!r} must have the form key=value, for example engine.seed=1")
    place: Any = values
    for name in parents:
        at = _at(place, name, override)
        if isinstance(place, dict) and place.get(at) is None:
            place[at] = {}
        place = place[at]
        if not isinstance(place, dict | list):
            raise SettingError(f"--set {override!r}: {name} is {place!r}, which has no settings below it")
    place[_at(place, last, override)] = _parse(text, f"--set {key}")


def _at(place: dict[str, Any] | list[Any], name: str, override: str) -> Any:
    """A key of a mapping, or a place in a list."""
    if isinstance(place, dict):
        return name
    if not name.isdecimal() or int(name) >= len(place):
        raise SettingError(f"--set {override!r}: {name} is no place in a list of {len(place)}; they count from 0")
    return int(name)


def _describe(problem: Any) -> str:
    """One problem as pydantic reports it, in our words."""
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path) or "the stage"
    kind = problem["type"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{key} is not a setting{_nearest(path)}"
    if kind in ("missing", "missing_argument"):
        return f"{key} is missing"
    if kind == "value_error":
        return f"{key}: {problem['ctx']['error']}"
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{key} is {problem['input']!r}: {message}"


def _nearest(path: Sequence[str]) -> str:
    """The setting that was perhaps meant, among those that stand beside an unknown one."""
    schema = TypeAdapter(StageSettings).json_schema()
    place = schema
    for name in path[:-1]:
        place = _definition(schema, place)
        place = place.get("items", {}) if name.isdigit() else place.get("properties", {}).get(name, {})
    known = sorted(_definition(schema, place).get("properties", {}))
    close = difflib.get_close_matches(path[-1], known, 1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"


def _definition(schema: dict[str, Any], place: dict[str, Any]) -> dict[str, Any]:
    """Follows references and optional settings to the object that they mean."""
    for option in place.get("anyOf", ()):
        if "$ref" in option:
            place = option
    reference = place.get("$ref", "")
    return schema["$defs"][reference.rsplit("/", 1)[-1]] if reference else place
