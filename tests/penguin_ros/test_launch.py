"""The launch files, with the real launch_ros if ROS provides it."""

import ast
import subprocess
import sys
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
        "penguin.launch.py": {
            "model",
            "runtime",
            "image_topics",
            "name",
            "namespace",
            "params_file",
            "use_sim_time",
            "autostart",
            "log_level",
        },
        "replay.launch.py": {
            "bag",
            "rate",
            "loop",
            "start",
            "wait",
            "image_topics",
            "name",
            "namespace",
            "model",
            "params_file",
        },
    }
    assert set(names) >= wanted[path.name]
    context = LaunchContext()
    for entity in description.entities[: len(names)]:
        entity.visit(context)


RUN = """
import sys
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch import LaunchDescription, LaunchService

path, *values = sys.argv[1:]
arguments = [value.split(":=", 1) for value in values]
include = IncludeLaunchDescription(PythonLaunchDescriptionSource(path), launch_arguments=arguments)
service = LaunchService()
service.include_launch_description(LaunchDescription([include]))
sys.exit(service.run())
"""


def launch(name, *arguments):
    """Runs a launch file as `ros2 launch` does; returns its exit code and output."""
    pytest.importorskip("launch_ros", reason="comes with ROS")
    command = [sys.executable, "-c", RUN, str(LAUNCH / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("value", ["nowhere", "nowhere/webcam.yaml"])
def test_a_missing_params_file_is_an_error_that_lists_the_shipped_ones(value):
    code, output = launch("penguin.launch.py", f"params_file:={value}")
    assert code == 1 and f"params_file {value} does not exist" in output and "demo, four_cameras" in output


def test_a_bare_name_is_a_file_of_the_config_folder_and_name_is_the_name_of_the_node(domain):
    # There is no model, so the node ends; its message carries the node's name.
    _, output = launch("penguin.launch.py", "params_file:=webcam", "name:=eye", "use_sim_time:=true", "model:=/nowhere")
    assert "[eye]" in output and "/nowhere" in output


def test_the_replay_ends_with_an_error_if_the_node_dies(domain):
    code, output = launch("replay.launch.py", "model:=/nowhere")
    assert code == 1 and "/nowhere" in output and "ended with exit code 1 before the end of the bag" in output


def test_the_replay_ends_with_an_error_if_the_bag_is_missing(domain, checkpoint):
    code, output = launch("replay.launch.py", "bag:=/nowhere", f"model:={checkpoint}")
    assert code == 1 and "bag /nowhere does not exist" in output
