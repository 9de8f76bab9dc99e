"""The table of the node's parameters and the settings derived from their values."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from penguin_models.errors import PenguinError
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.reference_policy import ReferencePolicy
from penguin_ros.settings import SETTINGS, NodeSettings

ROOT = Path(__file__).parents[2]
DEFAULTS = {setting.name: setting.default for setting in SETTINGS}


def test_the_defaults_are_valid_and_reach_the_settings_they_are_for():
    settings = NodeSettings.from_values(DEFAULTS)
    assert settings.memory.token_budget == settings["token_budget"] == 4096
    assert settings.decoding == ("percentiles", 50_000_000)
    assert settings.caption.on_keyframe and settings.novelty.threshold == settings["keyframe.threshold"]
    assert isinstance(settings.policy(), NoveltyPolicy)
    assert isinstance(NodeSettings.from_values({**DEFAULTS, "keyframe.policy": "reference"}).policy(), ReferencePolicy)


def test_cameras_share_the_budget_evenly():
    values = {**DEFAULTS, "image_topics": ["a", "b", "c"], "token_budget": 1000}
    assert NodeSettings.from_values(values).memory.token_budget == 333


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("runtime", "magic", "one of torch"),
        ("token_budget", 1, "from 24 to"),
        ("image_topics", [], "at least one"),
        ("image_topics", ["a", "a"], "each once"),
        ("image_topics", ["a"] + [f"b{i}" for i in range(300)], "cannot hold one frame"),
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
