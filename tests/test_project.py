"""Rules of the project: import directions, documented commands, the relocation of the ROS wheels."""

import ast
import functools
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "penguin_models": ROOT / "models" / "penguin_models",
    "penguin_engine": ROOT / "engine" / "penguin_engine",
    "penguin_training": ROOT / "training" / "penguin_training",
    "penguin_tabletop": ROOT / "training" / "penguin_tabletop",
    "penguin_ros": ROOT / "penguin_ros",
}
SOURCES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAY_IMPORT = {
    "penguin_models": {"penguin_models"},
    "penguin_engine": {"penguin_models", "penguin_engine"},
    "penguin_training": {"penguin_models", "penguin_engine", "penguin_training", "penguin_tabletop"},
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
    "foxglove_msgs",
}
ENGINE_LAYERS = ("export", "runtimes", "scene", "bench")
"""Layers of the engine; each may import itself and the layers before it."""
MAY_IMPORT_BENCH = re.compile(r"penguin_engine/bench/|penguin_ros/(cli|evaluation)/")
"""Nothing that runs on a robot may import measurements."""
MAY_IMPORT_ROS = re.compile(r"penguin_ros/((nodes|tools|console)/.*|convert|bridge)\.py$")
MAY_IMPORT_TENSORRT = re.compile(r"penguin_engine/runtimes/tensorrt/(flavour|cuda_device)\.py$")


MAY_RUN_MODELS = {
    "curation": ("penguin_engine.runtimes.encoder.",),
    "post_training": ("penguin_engine.runtimes.torch_groups.",),
    "recaptioning": ("penguin_engine.runtimes.base.", "penguin_engine.scene."),
}
"""What parts of the training package import of the engine, besides its memory: those that run a model."""


@functools.cache
def imports(path):
    """Returns the full name of every module that a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_python_files_that_documents_name_exist(document):
    sources = [path.as_posix() for path in SOURCES]
    names = re.findall(r"`([\w/]+\.py)`", document.read_text())
    assert [n for n in names if not (ROOT / n).exists() and not any(s.endswith(f"/{n}") for s in sources)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package):
    for path in PACKAGES[package].rglob("*.py"):
        names = {name.split(".")[0] for name in imports(path)}
        assert names & set(PACKAGES) <= MAY_IMPORT[package], path
        if not MAY_IMPORT_ROS.search(path.as_posix()):
            assert not names & ROS, f"{path}: only {MAY_IMPORT_ROS.pattern} import ROS"
        if not MAY_IMPORT_TENSORRT.search(path.as_posix()):
            assert not names & {"tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "pycuda"}, path


@pytest.mark.parametrize("package", PACKAGES)
def test_engine_layers_import_one_way(package):
    for path in PACKAGES[package].rglob("*.py"):
        engine = {name for name in imports(path) if name.split(".")[0] == "penguin_engine"}
        used = {name.split(".")[1] for name in engine if "." in name}
        layer = path.relative_to(PACKAGES[package]).parts[0]
        if package == "penguin_engine" and layer in ENGINE_LAYERS:
            assert used <= set(ENGINE_LAYERS[: ENGINE_LAYERS.index(layer) + 1]), path
        if not MAY_IMPORT_BENCH.search(path.as_posix()):
            assert "bench" not in used, path
        if package == "penguin_training":
            runs_models = next((names for part, names in MAY_RUN_MODELS.items() if part in path.parts), ())
            assert all(name.startswith(("penguin_engine.scene.memory.", *runs_models)) for name in engine), path


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_documented_commands_and_options_exist(path):
    from penguin_ros.cli.app import app

    program = typer.main.get_command(app)
    for words in documented_commands(path.read_text()):
        command = program
        while isinstance(command, typer.core.TyperGroup) and words and not words[0].isupper():
            name = words.pop(0)
            assert name in command.commands, f"{path.name}: {command.name} has no command {name}"
            command = command.commands[name]
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.split("=")[0] for word in words if word.startswith("--")}
        assert used <= options | {"--help"}, f"{path.name}: penguin-vl {command.name}"


def documented_commands(text):
    """Returns the words after `penguin-vl` of every command in code blocks and code spans."""
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", text)
    for line in lines:
        if "penguin-vl " in line:
            words = shlex.split(line, comments=True)
            yield words[words.index("penguin-vl") + 1 :]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(path):
    text = re.sub(r"`[^`]*`", "", path.read_text())
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (path.parent / link).exists(), link


SAFE_OPTIONS = {
    "torch.load": ("weights_only", "True"),
    "np.load": ("allow_pickle", "False"),
    "YAML": ("typ", "'safe'"),
    "from_pretrained": ("trust_remote_code", "False"),
}
"""Calls that may run code which a file holds, unless this option forbids it."""
UNSAFE = re.compile(
    r"eval|exec|__import__|pickle\.loads?|yaml\.(unsafe|full)_load|torch\.hub\..*|(importlib\.)?import_module"
)


def unsafe_calls(source):
    """Yields the calls that may run code which a data file holds."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if re.match(r"(Auto|Qwen|VideoLlama)\w*\.from_pretrained$", name):
                name = "from_pretrained"  # of transformers
            options = [(keyword.arg, ast.unparse(keyword.value)) for keyword in node.keywords]
            constant = node.args and isinstance(node.args[0], ast.Constant)  # the name of a module, written out
            if (name in SAFE_OPTIONS and SAFE_OPTIONS[name] not in options) or (
                UNSAFE.fullmatch(name) and not constant
            ):
                yield name


def test_no_call_runs_code_that_a_file_holds():
    """Except for a stage file's reward functions, which are Python modules of who trains."""
    found = {path.name: calls for path in SOURCES if (calls := list(unsafe_calls(path.read_text())))}
    assert found == {"rewards.py": ["importlib.import_module"]}


@pytest.mark.parametrize(
    "call",
    [
        *("torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)", "YAML()", "eval(x)"),
        *("pickle.load(f)", "AutoModel.from_pretrained(f)", "importlib.import_module(name)", "yaml.unsafe_load(f)"),
    ],
)
def test_calls_that_run_code_are_found(call):
    assert list(unsafe_calls(call))


def test_readme_is_short_and_its_make_targets_exist():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.encode()) <= 10_000
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z]+)", readme, re.MULTILINE)) <= targets


def test_relocation_removes_only_the_directories_of_the_build_machine():
    spec = importlib.util.spec_from_file_location("relocate", ROOT / "scripts" / "relocate_ros_wheels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    line = 'INTERFACE_INCLUDE_DIRECTORIES "{}"'
    numpy = "/opt/python/cp311-cp311/lib/python3.11/site-packages/numpy/_core/include"
    before = line.format(f"${{_IMPORT_PREFIX}}/include/x;/opt/python/cp311-cp311/include/python3.11;{numpy}")
    assert module.relocate(before) == line.format("${_IMPORT_PREFIX}/include/x")
    assert module.relocate(line.format("/opt/pythonic/include")) == line.format("/opt/pythonic/include")
