"""Node parameters of an evaluation, from files and from the command line."""

from pathlib import Path

import pytest

from penguin_models.config import ImageConfig
from penguin_models.errors import EvaluationError, PenguinError
from penguin_ros.evaluation.bags.node_parameters import RELEVANT, node_settings, parse_parameter, read_parameters

CONFIG = Path(__file__).resolve().parents[4] / "launch" / "config"


def test_missing_parameters_have_the_nodes_defaults():
    node = node_settings({}, ["/a", "/b"])
    assert (node.token_budget(ImageConfig()), node["sample_rate_hz"]) == (4096, 2.0)
    assert node.memory(ImageConfig()).token_budget == 2048  # shared by two cameras
    assert type(node.policy()).__name__ == "NoveltyPolicy"


def test_parameters_change_the_nodes_settings():
    values = {"token_budget": 300, "keyframe.policy": "reference", "memory.min_tokens": 20, "answer.seed": 5}
    node = node_settings(values, ["/a"])
    memory = node.memory(ImageConfig())
    assert (memory.token_budget, memory.min_tokens, node.sampling.seed) == (300, 20, 5)
    assert type(node.policy()).__name__ == "ReferencePolicy"


def test_values_are_converted_to_the_parameters_type():
    assert parse_parameter("keyframe.threshold=12") == ("keyframe.threshold", 12.0)
    assert parse_parameter("memory.arrival=by_kind") == ("memory.arrival", "by_kind")
    assert parse_parameter("token_budget=300") == ("token_budget", 300)
    assert parse_parameter("token_budget=300.0") == ("token_budget", 300)
    assert parse_parameter("caption.on_keyframe=false") == ("caption.on_keyframe", False)
    assert parse_parameter("caption.prompt=12: What?") == ("caption.prompt", "12: What?")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("token_budget", "'token_budget' is not NAME=VALUE"),
        ("tokens=3", "tokens is not a parameter of the node; parameters that change answers: token_budget"),
        ("queue_size=3", "queue_size does not change answers"),
        ("token_budget=3.5", "token_budget is 3.5, it must be a whole number"),
    ],
)
def test_an_invalid_parameter_is_an_error(words, message):
    with pytest.raises(EvaluationError, match=message):
        parse_parameter(words)


def test_a_token_budget_too_small_for_the_cameras_is_an_error():
    with pytest.raises(PenguinError, match="token_budget is 40 for 2 cameras: a token budget of 20 cannot hold one"):
        node_settings({"token_budget": 40}, ["/a", "/b"])


@pytest.mark.parametrize("file", sorted(CONFIG.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_shipped_parameter_files_are_accepted(file):
    found = read_parameters(file)
    assert set(found) <= set(RELEVANT)
    node_settings(found, ["/a"])


def test_a_parameter_file_is_flattened_and_filtered(tmp_path):
    file = tmp_path / "robot.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    use_sim_time: true\n    token_budget: 512\n    model: x\n"
        "/robot/penguin:\n  ros__parameters:\n    keyframe: {threshold: 7}\n    memory.arrival: by_kind\n"
    )
    assert read_parameters(file) == {"token_budget": 512, "keyframe.threshold": 7.0, "memory.arrival": "by_kind"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "is not YAML"),
        ("token_budget: 3", "has no 'ros__parameters' below a node name"),
        ("- 1", "has no 'ros__parameters'"),
        ("penguin: {ros__parameters: {tokens: 3}}", "the node has no parameter 'tokens'"),
        ("penguin: {ros__parameters: {token_budget: 300.5}}", "token_budget is 300.5, it must be a whole number"),
        ("penguin: {ros__parameters: {token_budget: many}}", "token_budget is 'many', it must be a whole number"),
    ],
)
def test_an_invalid_parameter_file_is_an_error(tmp_path, content, message):
    file = tmp_path / "robot.yaml"
    file.write_text(content)
    with pytest.raises(EvaluationError, match=message):
        read_parameters(file)
    with pytest.raises(EvaluationError, match="cannot be read: No such file"):
        read_parameters(tmp_path / "none.yaml")
