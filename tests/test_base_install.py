"""The wheel has every file, and an environment with the base install alone (no torch) runs an exported model."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("models/penguin_models", "engine/penguin_engine", "training/penguin_training", "training/penguin_tabletop",
           "penguin_ros")  # fmt: skip
NODE = """
import sys
from importlib.machinery import PathFinder
from pathlib import Path

model, ros_packages, *ros_folders = sys.argv[1:]

class RosOnly:
    '''Imports ROS packages, and nothing else, from the environment of the tests.'''

    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, ros_folders) if name in ros_packages.split() else None

sys.meta_path.append(RosOnly)
sys.modules["av"] = None  # importing PyAV fails: live cameras do not need it
import rclpy
from penguin_ros.nodes.vlm_main import open_model
from penguin_ros.nodes.vlm_node import VlmNode

rclpy.init(args=["--ros-args", "-p", f"model:={model}", "-p", "runtime:=onnx", "-p", "threads:=1"])
node = VlmNode(open_model)
try:
    assert str(node.trigger_configure()).endswith("SUCCESS"), "configure failed"
finally:
    node.destroy_node()
    rclpy.shutdown()
print(sorted(name for name in ("torch", "transformers", "rosbags", "scipy", "onnx") if name in sys.modules))
"""


def run(*command, **environment):
    """Runs a command away from the repository and returns its standard output."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)], cwd="/", env=inherited | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources: building in place would leave files there."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in (*SOURCES, "requirements"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, folder)
    return next(folder.glob("*.whl"))


def required_distributions(requirement_file):
    """Returns the distributions that the lines of a file require, directly or not, in the versions installed here."""
    waiting = [Requirement(line) for line in requirement_file.read_text().splitlines() if not line.startswith("#")]
    found = {}
    while waiting:
        requirement = waiting.pop()
        seen = found.setdefault(canonicalize_name(requirement.name), set())
        for extra in {"", *requirement.extras} - seen:
            seen.add(extra)
            for inner in map(Requirement, distribution(requirement.name).requires or ()):
                if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                    waiting.append(inner)
    return [distribution(name) for name in found]


@pytest.fixture
def environment(wheel, tmp_path):
    """Folder of a virtual environment with the wheel and what it requires, linked from the environment of the tests."""
    folder = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    run(sys.executable, "-m", "pip", "--python", folder, "install", "-q", "--no-deps", "--no-index", wheel)
    (packages,) = folder.glob("lib/python*/site-packages")
    for required in required_distributions(ROOT / "requirements" / "base.txt"):
        for file in set(required.files):
            if ".." not in file.parts:
                (packages / file).parent.mkdir(parents=True, exist_ok=True)
                (packages / file).symlink_to(required.locate_file(file))
    return folder


def test_the_wheel_has_every_module_and_data_file(wheel):
    files = {path.relative_to((ROOT / source).parent) for source in SOURCES for path in (ROOT / source).rglob("*")
             if path.is_file() and "__pycache__" not in path.parts}  # fmt: skip
    with zipfile.ZipFile(wheel) as archive:
        assert {str(file) for file in files} <= set(archive.namelist())


def test_an_exported_model_answers_and_runs_in_the_node(environment, exported, reference):
    python, command = environment / "bin" / "python", environment / "bin" / "penguin-vl"
    model, image = exported(profile="onnxruntime"), reference / "media" / "tabletop.png"
    assert "ask" in run(command, "--help")
    question = ("ask", "--runtime", "onnx", "--model", model, "--image", image, "-q", "What is this?")
    answer = json.loads(run(command, *question, "--max-tokens", 64, "--max-new-tokens", 4, "--json"))
    assert (answer["frames"], answer["tokens"]["generated"]) == (1, 4)

    rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")
    import penguin_vl

    folders = {Path(module.__file__).parents[1] for module in (rclpy, penguin_vl)}
    indices = [folder.parents[2] / "share" / "ament_index" / "resource_index" / "packages" for folder in folders]
    packages = " ".join(path.name for index in indices for path in index.iterdir())
    assert run(python, "-c", NODE, model, packages, *folders).splitlines()[-1] == "[]"
