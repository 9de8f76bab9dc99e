"""Rules of the project that a machine can check: import directions, the README, interfaces, set-up scripts."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "penguin_models": ROOT / "models" / "penguin_models",
    "penguin_engine": ROOT / "engine" / "penguin_engine",
    "penguin_training": ROOT / "training" / "penguin_training",
    "penguin_tabletop": ROOT / "training" / "penguin_tabletop",
    "penguin_ros": ROOT / "penguin_ros",
}
SOURCES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))
MAY_IMPORT = {
    "penguin_models": {"penguin_models"},
    "penguin_engine": {"penguin_models", "penguin_engine"},
    "penguin_training": {"penguin_models", "penguin_training", "penguin_tabletop"},
    "penguin_tabletop": {"penguin_models", "penguin_tabletop"},
    "penguin_ros": set(PACKAGES),
}
ROS = {
    "rclpy",
    "penguin_vl",
    "sensor_msgs",
    "std_msgs",
    "std_srvs",
    "diagnostic_msgs",
    "lifecycle_msgs",
    "cv_bridge",
    "vision_msgs",
}
ENGINE_LAYERS = ("export", "runtimes", "scene", "bench")
"""A layer of the engine imports itself and the layers before it."""
MAY_IMPORT_BENCH = re.compile(r"penguin_engine/bench/|penguin_ros/(cli|evaluation)/")
"""Measurements: nothing that runs on a robot imports them."""
MAY_IMPORT_ROS = re.compile(r"penguin_ros/((nodes|tools)/.*|convert)\.py$")
MAY_IMPORT_TENSORRT = re.compile(r"penguin_engine/runtimes/tensorrt/.*\.py$")


def imports(path):
    """Full names of the modules a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    package = next(name for name, folder in PACKAGES.items() if path.is_relative_to(folder))
    names = {name.split(".")[0] for name in imports(path)}
    assert names & set(PACKAGES) <= MAY_IMPORT[package]
    if not MAY_IMPORT_ROS.search(path.as_posix()):
        assert not names & ROS, "only penguin_ros/nodes, penguin_ros/tools and penguin_ros/convert.py import ROS"
    if not MAY_IMPORT_TENSORRT.search(path.as_posix()):
        assert not names & {"tensorrt", "pycuda"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_layers_of_the_engine_go_one_way(path):
    used = {name.split(".")[1] for name in imports(path) if name.startswith("penguin_engine.")}
    if path.is_relative_to(PACKAGES["penguin_engine"]):
        layer = path.relative_to(PACKAGES["penguin_engine"]).parts[0]
        if layer in ENGINE_LAYERS:
            assert used <= set(ENGINE_LAYERS[: ENGINE_LAYERS.index(layer) + 1])
    if not MAY_IMPORT_BENCH.search(path.as_posix()):
        assert "bench" not in used


def test_readme_commands_exist():
    from penguin_ros.cli.app import app

    readme = (ROOT / "README.md").read_text()
    assert not re.search(r"\b[A-Z]{3} \w+/s\b", readme), "a figure is still to be filled in"
    known = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    assert set(re.findall(r"penguin-vl ([a-z-]+)", readme)) <= known
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z]+)", readme)) <= targets


def test_wheels_are_relocated_without_touching_anything_else():
    spec = importlib.util.spec_from_file_location("relocate", ROOT / "scripts" / "relocate_ros_wheels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    line = 'INTERFACE_INCLUDE_DIRECTORIES "{}"'
    numpy = "/opt/python/cp311-cp311/lib/python3.11/site-packages/numpy/_core/include"
    before = line.format(f"${{_IMPORT_PREFIX}}/include/x;/opt/python/cp311-cp311/include/python3.11;{numpy}")
    assert module.relocate(before) == line.format("${_IMPORT_PREFIX}/include/x")
    assert module.relocate(line.format("/opt/pythonic/include")) == line.format("/opt/pythonic/include")
