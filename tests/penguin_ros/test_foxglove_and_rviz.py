"""The layout for Foxglove and the configuration for RViz that are installed with the package.

Foxglove publishes no schema of its layout files. Checked are the structure that its app exports, and, where the SDK of
Foxglove is installed (pip install foxglove-sdk), the names of all settings against the SDK's classes of panels.
"""

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

LAUNCH = Path(__file__).parents[2] / "launch"
LAYOUT = json.loads((LAUNCH / "foxglove" / "penguin.json").read_text())
PANELS = LAYOUT["configById"]
SDK_NAMES = {"3D": "ThreeDee", "CallService": "ServiceCall", "DiagnosticSummary": "DiagnosticsSummary"}
"""What the SDK calls a panel, where it differs from the app's files."""


def shown(node):
    """Yields the panels that a node of the layout places."""
    if isinstance(node, str):
        yield node
        for tab in PANELS[node].get("tabs", ()):
            yield from shown(tab["layout"])
    else:
        assert node["direction"] in ("row", "column") and 0 < node.get("splitPercentage", 50) < 100
        yield from shown(node["first"])
        yield from shown(node["second"])


def test_the_layout_places_each_panel_once():
    assert set(LAYOUT) == {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"}
    assert sorted(shown(LAYOUT["layout"])) == sorted(PANELS)


def test_the_sdk_knows_all_settings_of_the_layout():
    layouts = pytest.importorskip("foxglove.layouts", reason="needs foxglove-sdk")
    for name, config in PANELS.items():
        kind = SDK_NAMES.get(name.split("!")[0], name.split("!")[0])
        if kind != "Tab":  # a container in the SDK
            known = getattr(layouts, f"{kind}Config")()._to_dict()
            assert set(config) <= set(known), name
    mode = PANELS["Image!camera"]["imageMode"]
    assert set(mode) <= set(layouts.ImageModeConfig()._to_dict())
    for plot in ("Plot!tokens", "Plot!latency"):
        for path in PANELS[plot]["paths"]:
            assert set(path) <= set(layouts.PlotSeries(value="")._to_dict())


@pytest.mark.parametrize("file", ["foxglove/penguin.json", "rviz/penguin.rviz"])
def test_topics_are_those_that_the_node_publishes(file):
    known = ("annotations", "annotated/compressed", "markers", "captions", "memory/image_raw", "ask")
    found = set()
    collect(YAML(typ="safe").load((LAUNCH / file).read_text()), found)
    assert found and all(name.split(".")[0] in {f"/penguin/{topic}" for topic in known} for name in found), found


def collect(value, found):
    """Adds all texts that begin like a topic of the node, keys included."""
    if isinstance(value, dict):
        for key, item in value.items():
            collect(key, found)
            collect(item, found)
    elif isinstance(value, list):
        for item in value:
            collect(item, found)
    elif isinstance(value, str) and value.startswith("/penguin/"):
        found.add(value)
