"""The table of the node's parameters and the settings derived from their values."""

import re
import sys
from pathlib import Path

import hypothesis
import pytest
import yaml
from fuzzing import FUZZ
from hypothesis import strategies as st

from penguin_models.config import ImageConfig
from penguin_models.errors import PenguinError
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.reference_policy import ReferencePolicy
from penguin_ros.settings import SETTINGS, NodeSettings, unknown_parameter

ROOT = Path(__file__).parents[2]
RELEASED = ImageConfig()
DEFAULTS = {setting.name: setting.default for setting in SETTINGS}


def test_the_defaults_are_valid_and_reach_the_settings_they_are_for():
    settings = NodeSettings.from_values(DEFAULTS)
    assert settings.memory(RELEASED).token_budget == 4096
    assert settings.decoding == ("percentiles", 50_000_000)
    assert settings.caption.on_keyframe and settings.novelty.threshold == settings["keyframe.threshold"]
    assert isinstance(settings.policy(), NoveltyPolicy)
    assert isinstance(NodeSettings.from_values({**DEFAULTS, "keyframe.policy": "reference"}).policy(), ReferencePolicy)


def test_cameras_share_the_budget_evenly():
    values = {**DEFAULTS, "image_topics": ["a", "b", "c"], "token_budget": 1000}
    assert NodeSettings.from_values(values).memory(RELEASED).token_budget == 333


@pytest.mark.parametrize(("value", "max_tokens", "budget"), [(0, 1024, 1024), (0, 16384, 4096), (8192, 1024, 8192)])
def test_the_default_budget_is_the_checkpoints_with_a_limit(value, max_tokens, budget):
    settings = NodeSettings.from_values({**DEFAULTS, "token_budget": value, "image_topics": ["a", "b"]})
    images = ImageConfig(max_tokens=max_tokens)
    assert (settings.token_budget(images), settings.memory(images).token_budget) == (budget, budget // 2)


def test_cameras_with_depth_are_those_that_name_a_depth_topic():
    images, none = {**DEFAULTS, "image_topics": ["a", "b"]}, {"depth_topics": [], "camera_info_topics": [""]}
    topics = {"depth_topics": ["", "d"], "camera_info_topics": ["", "i"], "target_frame": "map"}
    assert NodeSettings.from_values(images | topics).depth_cameras == [("b", "d", "i")]
    assert NodeSettings.from_values(images | none).depth_cameras == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("runtime", "magic", "one of torch"),
        ("token_budget", -1, "from 0 to"),
        ("token_budget", 23, "token_budget is 23 for 1 camera: a token budget of 23 cannot hold one frame of 24"),
        ("image_topics", [], "at least one"),
        ("image_topics", ["a", "a"], "each once"),
        ("image_topics", [f"b{i}" for i in range(300)], "image_topics has 300 elements, the limit is 64"),
        ("depth_topics", ["d", ""], "depth_topics has 2 elements and image_topics 1: name one for each camera"),
        ("depth_topics", ["d"], "camera_info_topics names no topic for 'image_raw': a position needs depth and"),
        ("camera_info_topics", ["i"], "depth_topics names no topic for 'image_raw'"),
        ("target_frame", "map", "target_frame is 'map' and depth_topics names no topic"),
        ("model", "x" * 10_000_000, "model has 10000000 characters, the limit is 4096"),
        ("max_image_pixels", 0, "from 1 to 1000000000"),
        ("keyframe.min_cells", 26, "from 1 to 25"),
        ("caption.prompt", "", "non-empty"),
        ("memory.arrival", "late", "full_size, by_kind"),
        ("answer.temperature", -1.0, "from 0.0"),
    ],
)
def test_an_invalid_value_is_refused_with_its_limit(name, value, message):
    with pytest.raises(PenguinError, match=re.escape(message)):
        NodeSettings.from_values({**DEFAULTS, name: value})


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(10**400), 10**400), st.floats(), st.binary(max_size=9),
    st.text(st.characters(exclude_categories=()), max_size=20) | st.just("x" * 10_000),
    st.lists(st.text(max_size=3), max_size=3), st.lists(st.integers(), max_size=3), st.just(["x"] * 1000),
    st.sampled_from([choice for setting in SETTINGS for choice in setting.choices]),
)  # fmt: skip


@FUZZ
@hypothesis.given(st.sampled_from(SETTINGS), VALUES)
def test_any_value_is_taken_in_the_type_of_its_parameter_or_refused_in_one_short_line(setting, value):
    try:
        taken = NodeSettings.from_values({**DEFAULTS, setting.name: value})[setting.name]
    except PenguinError as err:
        assert len(str(err)) < 500 and str(err).isprintable()
        return
    assert type(taken) is type(setting.default)
    assert setting.low is None or setting.low <= taken <= setting.high


@pytest.mark.parametrize("name", ["x" * 1_000_000, "a\nb", "\udcff"])
def test_a_parameter_that_does_not_exist_is_named_in_one_short_line(name):
    message = unknown_parameter(name)
    assert len(message) < 350 and message.isprintable()


def test_the_reference_policy_needs_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(PenguinError, match="needs torch; pip install torch, or set novelty"):
        NodeSettings.from_values({**DEFAULTS, "keyframe.policy": "reference"})


def test_changed_parameters_are_listed():
    before = NodeSettings.from_values(DEFAULTS)
    after = NodeSettings.from_values({**DEFAULTS, "token_budget": 5000, "caption.prompt": "What?"})
    assert before.changes_to(after) == {"token_budget", "caption.prompt"}


@pytest.mark.parametrize("path", sorted((ROOT / "launch" / "config").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_configurations_are_valid(path):
    parameters = yaml.safe_load(path.read_text())["/**"]["ros__parameters"]
    assert set(parameters) <= set(DEFAULTS)
    assert all(type(value) is type(DEFAULTS[name]) for name, value in parameters.items())
    NodeSettings.from_values({**DEFAULTS, **parameters})


def row(setting):
    limits = ", ".join(setting.choices) or (f"{setting.low} to {setting.high}" if setting.low is not None else "")
    when = "at start" if setting.read_only else "yes" if setting.live else "no"
    return f"| `{setting.name}` | `{setting.default!r}` | {limits} | {when} | {setting.description} |"


def test_the_documentation_lists_every_parameter_as_declared():
    documented = re.findall(r"^\| `.*\|$", (ROOT / "docs" / "parameters.md").read_text(), re.MULTILINE)
    assert documented == [row(setting) for setting in SETTINGS]
