"""The launch files, with the real launch_ros if ROS provides it."""

import ast
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
FILES = sorted(LAUNCH.glob("*.launch.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_argument_has_a_description(path):
    tree = ast.parse(path.read_text())
    table = next(n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "_ARGUMENTS")
    for row in table.elts:
        assert isinstance(row.elts[2], ast.Constant) and len(row.elts[2].value) > 5


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_launch_declares_the_arguments(path):
    pytest.importorskip("launch_ros", reason="comes with ROS")
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    from launch import LaunchContext

    description = get_launch_description_from_python_launch_file(str(path))
    names = [argument.name for argument in description.get_launch_arguments()]
    wanted = {
        "penguin.launch.py": {"model", "runtime", "image_topics", "namespace", "params_file", "autostart", "log_level"},
        "replay.launch.py": {"bag", "rate", "loop", "start", "wait", "image_topics", "model", "params_file"},
    }
    assert set(names) >= wanted[path.name]
    context = LaunchContext()
    for entity in description.entities[: len(names)]:
        entity.visit(context)
