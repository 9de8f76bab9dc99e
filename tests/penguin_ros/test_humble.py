"""The names of rclpy that the package uses exist in ROS 2 Humble as well.

tests/data/rclpy_humble.json lists the modules, members and parameters in the sources of rclpy on its branch `humble`.
Which attributes and keyword arguments belong to rclpy is decided by the rclpy that is installed.
"""

import ast
import importlib
import inspect
import json
import pkgutil
from contextlib import suppress
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2")

ROOT = Path(__file__).parents[2]
HUMBLE = json.loads((ROOT / "tests" / "data" / "rclpy_humble.json").read_text())
FILES = sorted(
    p for f in ("penguin_ros", "scripts", "launch") for p in (ROOT / f).rglob("*.py") if "rclpy" in p.read_text()
)


def installed_modules():
    yield rclpy
    for module in pkgutil.walk_packages(rclpy.__path__, "rclpy."):
        if "._" not in module.name and ".impl" not in module.name:
            yield importlib.import_module(module.name)


@pytest.fixture(scope="module")
def installed():
    """Attributes of rclpy's classes, and the parameters of its functions and classes by name."""
    members, parameters = set(), {}
    for module in installed_modules():
        for name, value in vars(module).items():
            if not getattr(value, "__module__", "").startswith("rclpy"):
                continue
            functions = {name: value}
            if inspect.isclass(value):
                functions |= {n: f for n, f in vars(value).items() if inspect.isfunction(f) and n[0] != "_"}
                members |= {n for n in vars(value) if n[0] != "_"}
            for function_name, function in functions.items():
                with suppress(TypeError, ValueError):  # not callable, or written in C
                    parameters.setdefault(function_name, set()).update(inspect.signature(function).parameters)
    return members, parameters


def used_names(tree, members, parameters):
    """Yields each use of rclpy in a file: whether Humble has it, and its name."""
    other_modules = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.module == "importlib")
        for alias in node.names
    } - {"rclpy"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rclpy":
            for alias in node.names:
                yield alias.name in HUMBLE["modules"].get(node.module, ()), alias.name
        elif isinstance(node, ast.Attribute):
            owner = getattr(node.value, "id", None)
            if owner == "rclpy":
                yield node.attr in HUMBLE["modules"]["rclpy"], node.attr
            elif node.attr in members and owner not in other_modules:
                yield node.attr in HUMBLE["members"], node.attr
        elif isinstance(node, ast.Call):
            function = getattr(node.func, "attr", getattr(node.func, "id", None))
            for keyword in node.keywords:
                if keyword.arg in parameters.get(function, ()):
                    yield keyword.arg in HUMBLE["parameters"].get(function, ()), f"{function}({keyword.arg}=)"


def test_every_name_of_rclpy_that_the_package_uses_exists_in_humble(installed):
    missing, count = {}, 0
    for path in FILES:
        for in_humble, name in used_names(ast.parse(path.read_text()), *installed):
            count += 1
            if not in_humble:
                missing.setdefault(name, set()).add(path.name)
    assert count > 200
    assert not missing, missing


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("node.add_post_set_parameters_callback(print)", "add_post_set_parameters_callback"),
        ("QoSReliabilityPolicy.BEST_AVAILABLE", "BEST_AVAILABLE"),
        ("from rclpy.event_handler import PublisherEventCallbacks", "PublisherEventCallbacks"),
    ],
)
def test_names_that_humble_lacks_are_found(installed, code, name):
    assert (False, name) in set(used_names(ast.parse(code), *installed))
