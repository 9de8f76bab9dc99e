"""Answers that follow a JSON schema: what a schema may be, and its form for `Sampling.grammar`."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from penguin_models.errors import PromptError
from penguin_models.grounding import SCALE
from penguin_models.quoting import quoted, shortened

MAX_SCHEMA_CHARS = 65_536
OBJECTS = "objects"
"""Name of the built-in schema, for objects with boxes."""
_TOO_DEEP = "the JSON schema is nested too deeply; use at most 100 levels"
_COMPACT: Any = {"whitespace_flexible": False}  # a model could otherwise write spaces for ever
_COORDINATE = {"type": "integer", "minimum": 0, "maximum": SCALE}
_OBJECT = {
    "type": "object",
    "properties": {
        "label": {"type": "string", "pattern": r"^\w[\w '-]{0,47}$"},
        "bbox_2d": {"type": "array", "items": _COORDINATE, "minItems": 4, "maxItems": 4},
    },
    "required": ["label", "bbox_2d"],
    "additionalProperties": False,
}
_BUILT_IN = {
    OBJECTS: {
        "type": "object",
        "properties": {"objects": {"type": "array", "items": _OBJECT}},
        "required": ["objects"],
        "additionalProperties": False,
    }
}


def json_grammar(schema: Mapping[str, Any]) -> str:
    """Returns a JSON schema in the form that `Sampling.grammar` takes; `{"type": "object"}` is any object.

    Raises:
        PromptError: llguidance is not installed, or the schema is too long, malformed, or has what it does not support.
    """
    if importlib.util.find_spec("llguidance") is None:
        raise PromptError("answers as JSON need llguidance: pip install 'penguin-vl[json]'")
    from llguidance import LLMatcher

    try:
        text = json.dumps(schema)
    except RecursionError as err:
        raise PromptError(_TOO_DEEP) from err
    _check_length(text)
    try:
        grammar: str = LLMatcher.grammar_from_json_schema(text, overrides=_COMPACT)
        fault: str = LLMatcher.validate_grammar(grammar)
    except ValueError as err:
        fault = str(err)
    if fault:
        reason = shortened(" ".join(fault.split()))
        raise PromptError(f"the JSON schema {quoted(text)} cannot be followed: {reason}")
    return grammar


@lru_cache(maxsize=8)
def grammar_of(text: str) -> str | None:
    """Returns what `Sampling.grammar` takes of a JSON schema as text, or "objects"; None if it is empty.

    Raises:
        PromptError: The text is no JSON object, or `json_grammar` refuses the schema.
    """
    if not text.strip():
        return None
    if text.strip() in _BUILT_IN:
        return json_grammar(_BUILT_IN[text.strip()])
    _check_length(text)
    try:
        schema = json.loads(text)
    except RecursionError as err:
        raise PromptError(_TOO_DEEP) from err
    except json.JSONDecodeError as err:
        raise PromptError(
            f'the JSON schema {quoted(text)} is not JSON: {err}; write one as {{"type": "object", ...}}, or {OBJECTS}'
        ) from err
    if not isinstance(schema, dict):
        raise PromptError(
            f'the JSON schema {quoted(text)} must be an object as {{"type": "object", ...}}, or {OBJECTS}'
        )
    return json_grammar(schema)


def schema_of(grammar: str) -> dict[str, Any]:
    """Returns the JSON schema of a grammar, for programs that have their own way to follow it."""
    schema: dict[str, Any] = dict(json.loads(grammar)["grammars"][0]["json_schema"])
    schema.pop("x-guidance", None)
    return schema


def _check_length(text: str) -> None:
    if len(text) > MAX_SCHEMA_CHARS:
        raise PromptError(f"the JSON schema has {len(text)} characters, the limit is {MAX_SCHEMA_CHARS}; shorten it")
