"""The interfaces: documented fields, consistent constants, and equal fields in the service and the action."""

from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from penguin_vl import action, msg, srv

from penguin_engine.scene.requests import MAX_CAMERAS
from penguin_models.types import FrameKind

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for folder in ("msg", "srv", "action") for path in (ROOT / folder).iterdir())


def fields(file):
    """Yields the definition and the comment of every field."""
    for line in file.read_text().splitlines():
        definition, _, comment = line.partition("#")
        if definition.strip() not in ("", "---") and "=" not in definition.replace("<=", ""):
            yield definition.strip(), comment.strip()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_field_is_documented(file):
    assert file.read_text().startswith("# ")
    nested = {"Answer answer"}  # documented in Answer.msg
    assert [definition for definition, comment in fields(file) if not comment and definition not in nested] == []


def test_the_bound_of_the_cameras_is_the_limit_of_a_question():
    for file in (ROOT / "srv" / "Ask.srv", ROOT / "srv" / "Recall.srv", ROOT / "action" / "AskStream.action"):
        assert f"string[<={MAX_CAMERAS}] cameras" in [definition for definition, _ in fields(file)]


def test_service_and_action_have_the_same_fields():
    for service, streamed in ((srv.Ask.Request, action.AskStream.Goal), (srv.Ask.Response, action.AskStream.Result)):
        assert service.get_fields_and_field_types() == streamed.get_fields_and_field_types()


def test_error_codes_are_distinct_and_zero_means_none():
    codes = {name: getattr(msg.Answer, name) for name in dir(msg.Answer) if name.startswith("ERROR_")}
    assert len(set(codes.values())) == len(codes) == 10
    assert codes["ERROR_NONE"] == msg.Answer().error_code == 0


def test_frame_kinds_equal_those_of_the_models():
    assert (msg.MemoryFrame.KEY, msg.MemoryFrame.INTERMEDIATE) == (FrameKind.KEY, FrameKind.INTERMEDIATE)
