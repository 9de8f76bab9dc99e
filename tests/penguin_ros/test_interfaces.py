"""The ROS interfaces as built: every field survives the wire, error codes agree, and every field is explained."""

from __future__ import annotations

import importlib
import itertools
import math
import re
from pathlib import Path

import pytest
from penguin_vl import action, msg, srv
from rclpy.serialization import deserialize_message, serialize_message

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(file for kind in ("msg", "srv", "action") for file in (ROOT / kind).glob(f"*.{kind}"))
TYPES = [
    *(getattr(msg, file.stem) for file in FILES if file.suffix == ".msg"),
    srv.Ask.Request,
    srv.Ask.Response,
    action.AskStream.Goal,
    action.AskStream.Result,
    action.AskStream.Feedback,
]


def filled(kind, numbers):
    """A message with a value of its own in every field, two in every sequence."""
    return kind(**{name: _value(type_name, numbers) for name, type_name in kind.get_fields_and_field_types().items()})


def _value(type_name, numbers):
    if inner := re.fullmatch(r"sequence<(.+)>", type_name):
        return [_value(inner[1], numbers) for _ in range(2)]
    if "/" in type_name:
        package, name = type_name.split("/")
        return filled(getattr(importlib.import_module(f"{package}.msg"), name), numbers)
    number = next(numbers)
    return {"string": f"wörd {number}", "boolean": True, "float": number + 0.5}.get(type_name, number)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_every_field_survives_serialisation(kind):
    message = filled(kind, itertools.count(1))
    assert all(getattr(message, name) != getattr(kind(), name) for name in kind.get_fields_and_field_types())
    assert deserialize_message(serialize_message(message), kind) == message
    assert deserialize_message(serialize_message(kind()), kind) == kind()


def test_the_package_has_what_the_files_define():
    built = {name for module in (msg, srv, action) for name in vars(module) if re.fullmatch(r"[A-Z]\w*", name)}
    assert {file.stem for file in FILES} == {name for name in built if "_" not in name}


def test_a_score_that_was_not_measured_is_nan():
    item = msg.GroundedObject(label="cube", score=math.nan)
    assert math.isnan(deserialize_message(serialize_message(item), msg.GroundedObject).score)


def test_numbers_are_as_wide_as_they_must_be():
    state = msg.MemoryState(frames_received=2**64 - 1, tokens=2**32 - 1)
    again = deserialize_message(serialize_message(state), msg.MemoryState)
    assert (again.frames_received, again.tokens) == (2**64 - 1, 2**32 - 1)


def definition_lines(file):
    """Lines that define something: (definition, comment), without blank, comment-only and separator lines."""
    for line in file.read_text().splitlines():
        definition, _, comment = line.partition("#")
        if definition.strip() not in ("", "---"):
            yield definition.strip(), comment.strip()


def constants(file):
    """Constants by name, as the file has them."""
    found = (re.fullmatch(r"uint\d+ ([A-Z_]+)\s*=\s*(\d+)", definition) for definition, _ in definition_lines(file))
    return {match[1]: int(match[2]) for match in found if match}


def test_error_codes_are_distinct_and_the_same_everywhere():
    codes = constants(ROOT / "srv/Ask.srv")
    assert constants(ROOT / "action/AskStream.action") == codes
    assert codes["ERROR_NONE"] == 0 == srv.Ask.Response().error_code
    assert len(codes) == 8 == len(set(codes.values()))
    for kind in (srv.Ask.Response, action.AskStream.Result):
        assert {name: getattr(kind, name) for name in dir(kind) if name.startswith("ERROR_")} == codes


def test_the_action_is_the_service_with_feedback():
    """One core answers both, so their fields must not drift apart."""
    pairs = ((srv.Ask.Request, action.AskStream.Goal), (srv.Ask.Response, action.AskStream.Result))
    for asked, streamed in pairs:
        assert asked.get_fields_and_field_types() == streamed.get_fields_and_field_types()


def test_frame_kinds_are_those_of_the_models():
    from penguin_models.types import FrameKind

    assert (msg.MemoryFrame.KEY, msg.MemoryFrame.INTERMEDIATE) == (FrameKind.KEY, FrameKind.INTERMEDIATE)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_field_has_a_comment(file):
    assert file.read_text().startswith("# ")
    assert [definition for definition, comment in definition_lines(file) if "=" not in definition and not comment] == []
