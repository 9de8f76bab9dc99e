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
    "penguin_ros": ROOT / "penguin_ros",
}
SOURCES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))
MAY_IMPORT = {
    "penguin_models": {"penguin_models"},
    "penguin_engine": {"penguin_models", "penguin_engine"},
    "penguin_training": {"penguin_models", "penguin_training"},
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
MAY_IMPORT_ROS = re.compile(r"penguin_ros/(nodes/.*|convert)\.py$")
MAY_IMPORT_TENSORRT = re.compile(r"penguin_engine/(runtimes/tensorrt|build)\.py$")


def imports(path):
    """Top-level names of everything a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module).split(".")[0]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    package = next(name for name, folder in PACKAGES.items() if path.is_relative_to(folder))
    names = set(imports(path))
    assert names & set(PACKAGES) <= MAY_IMPORT[package]
    if not MAY_IMPORT_ROS.search(path.as_posix()):
        assert not names & ROS, "only penguin_ros/nodes and penguin_ros/convert.py meet ROS"
    if not MAY_IMPORT_TENSORRT.search(path.as_posix()):
        assert not names & {"tensorrt", "pycuda"}


def test_setuptools_knows_every_package():
    text = (ROOT / "pyproject.toml").read_text()
    folders = {path.parent for path in SOURCES}
    for folder in folders:
        base = folder.relative_to(ROOT)
        name = ".".join(part for part in base.parts if part not in ("models", "engine", "training"))
        assert f'"{name}"' in text, f"pyproject.toml does not list {name}"


def tree_files(tree):
    """Paths of the files that a drawn tree names; after a folder, names on the same line lie in it."""
    folders, files = [], set()
    for line in tree.splitlines()[1:]:
        prefix, rest = re.match(r"([│├└─ ]*)(.*)", line).groups()
        words = rest.split()
        folder = Path(*folders[: len(prefix) // 4 - 1])
        if words[0].endswith("/"):
            folders[len(prefix) // 4 - 1 :] = [words.pop(0)]
            folder = Path(*folders)
        files |= {folder / word for word in words if re.search(r"\.(py|msg|srv|action|sh)$", word)}
    return files


def test_readme_names_every_source_file():
    tree = re.search(r"```\n(penguin_vl/.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree, "README.md has no tree that begins with penguin_vl/"
    files = {p.relative_to(ROOT) for p in SOURCES if p.name != "__init__.py"}
    files |= {p.relative_to(ROOT) for folder in ("msg", "srv", "action") for p in (ROOT / folder).iterdir()}
    files |= {p.relative_to(ROOT) for p in (ROOT / "launch").glob("*.launch.py")}
    assert tree_files(tree[1]) == files


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
