"""The node's process opens any runtime by its name."""

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
