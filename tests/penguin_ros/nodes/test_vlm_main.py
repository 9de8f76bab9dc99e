"""What the node's process loads: any runtime by its name, and on a robot nothing of torch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from penguin_models.errors import CheckpointError
from penguin_ros.nodes import vlm_main
from penguin_ros.settings import SETTINGS, NodeSettings


def settings(**values):
    return NodeSettings.from_values({setting.name: setting.default for setting in SETTINGS} | values)


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_any_runtime_by_its_name(checkpoint, exported, runtime):
    model = checkpoint if runtime == "torch" else exported(profile="onnxruntime")
    opened, processor = vlm_main.open_model(settings(model=str(model), runtime=runtime, device="cpu"))
    assert (opened.info.name, opened.info.device) == (runtime, "cpu")
    assert opened.open_cache(8).append([processor.encode_text("a")[:1]]).shape == (1536,)


@pytest.mark.parametrize(("threads", "expected"), [(0, None), (3, 3)])
@pytest.mark.parametrize(("precision", "wanted"), [("auto", None), ("int8", "int8")])
def test_what_the_parameters_ask_for(monkeypatch, threads, expected, precision, wanted):
    asked = []
    monkeypatch.setattr(vlm_main, "open_runtime", lambda *args: asked.append(args))
    vlm_main.open_model(settings(model="m", runtime="onnx", device="cuda:1", precision=precision, threads=threads))
    assert asked == [("onnx", "m", "cuda:1", wanted, expected)]


def test_a_node_without_a_model():
    with pytest.raises(CheckpointError, match="the parameter model is empty"):
        vlm_main.open_model(settings())


ROOT = Path(__file__).parents[3]
MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL", "ml-dtypes": "ml_dtypes", "pyyaml": "yaml"}
ROBOT = """
import sys
model, *missing = sys.argv[1:]
for name in missing:
    sys.modules[name] = None  # importing it fails, as where it is not installed
import penguin_ros.cli.main
from penguin_models.errors import SettingError
from penguin_ros.nodes.vlm_main import open_model
from penguin_ros.settings import SETTINGS, NodeSettings
values = {setting.name: setting.default for setting in SETTINGS} | {"model": model, "runtime": "onnx", "threads": 1}
settings = NodeSettings.from_values(values)
runtime, processor = open_model(settings)
settings.policy()
try:
    NodeSettings.from_values(values | {"keyframe.policy": "reference"})
except SettingError as err:
    print(runtime.info.name, "-", err)
"""


def names(lines):
    return {re.match(r"[\w-]+", line.strip().strip('"')).group() for line in lines}


def test_a_robot_with_what_the_guide_installs(exported):
    """The node, the commands and the model load without any other dependency than those in docs/jetson.md."""
    guide = re.search(r"pip install (numpy .*)", (ROOT / "docs" / "jetson.md").read_text()).group(1)
    project = re.search(r"\ndependencies = \[\n(.*?)\n\]", (ROOT / "pyproject.toml").read_text(), re.DOTALL).group(1)
    # What runs the model here stands for TensorRT; PyYAML comes with ROS.
    missing = names(project.splitlines()) - names(guide.split()) - {"onnxruntime"} | {"onnx", "ml-dtypes"}
    assert {"torch", "transformers", "safetensors", "scipy"} <= missing
    done = subprocess.run(
        [sys.executable, "-c", ROBOT, exported(profile="onnxruntime"), *(MODULES.get(name, name) for name in missing)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "onnx - keyframe.policy is 'reference', which needs torch; pip install torch, or set novelty\n"
    )
