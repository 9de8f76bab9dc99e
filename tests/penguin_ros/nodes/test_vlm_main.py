"""The node's process opens the runtime that its parameters name."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from penguin_models.errors import CheckpointError
from penguin_ros.nodes import vlm_main
from penguin_ros.settings import SETTINGS, NodeSettings


def settings(**values):
    return NodeSettings.from_values({setting.name: setting.default for setting in SETTINGS} | values)


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_every_runtime_is_opened_by_its_name(checkpoint, exported, runtime):
    model = checkpoint if runtime == "torch" else exported(profile="onnxruntime")
    opened, processor = vlm_main.open_model(settings(model=str(model), runtime=runtime, device="cpu"))
    assert (opened.info.name, opened.info.device) == (runtime, "cpu")
    assert opened.open_cache(8).append([processor.encode_text("a")[:1]]).shape == (1536,)


@pytest.mark.parametrize(
    ("values", "arguments"),
    [({"precision": "auto", "threads": 0}, (None, None)), ({"precision": "int8", "threads": 3}, ("int8", 3))],
)
def test_precision_and_threads_reach_the_runtime(monkeypatch, values, arguments):
    calls = []
    monkeypatch.setattr(vlm_main, "open_runtime", lambda *args: calls.append(args))
    vlm_main.open_model(settings(model="m", runtime="onnx", device="cuda:1", **values))
    assert calls == [("onnx", "m", "cuda:1", *arguments)]


def test_an_empty_model_parameter_is_refused():
    with pytest.raises(CheckpointError, match="the parameter model is empty"):
        vlm_main.open_model(settings())
