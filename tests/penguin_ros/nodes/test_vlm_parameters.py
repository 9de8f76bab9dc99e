"""The node's parameters: descriptions, validation, and changes at run time."""

import array

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import rclpy
from node_calls import NO_CAPTIONS, ask, camera_status, set_parameter
from penguin_vl.msg import GroundedCaption, MemoryFrame
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters, SetParametersAtomically
from rclpy.parameter import Parameter

from penguin_ros.nodes.parameters import files_without_effect


def test_every_parameter_has_a_description_and_its_range(robot, shared_node):
    from penguin_ros.settings import SETTINGS

    request = DescribeParameters.Request(names=[s.name for s in SETTINGS])
    descriptors = robot.call(DescribeParameters, "/shared/penguin/describe_parameters", request).descriptors
    assert len(descriptors) == len(SETTINGS) and all(d.description for d in descriptors)
    for setting, descriptor in zip(SETTINGS, descriptors, strict=True):
        assert (setting.low is not None) == bool(descriptor.integer_range or descriptor.floating_point_range)


def test_changes_take_effect_and_bad_ones_are_refused_with_the_reason(robot, start_node, image):
    node = start_node(token_budget=600, **NO_CAPTIONS)
    captions = robot.subscribe(GroundedCaption, f"{node.name}/captions")
    for second in range(1, 21):
        robot.publish_and_wait(node, image(second, (112, 84), 10 * second))
    assert ask(robot, node).visual_tokens == 240
    assert set_parameter(robot, node, "token_budget", 100).successful
    assert 0 < ask(robot, node).visual_tokens <= 100
    assert set_parameter(robot, node, "answer.max_new_tokens", 3).successful
    assert ask(robot, node).generated_tokens == 3
    assert not captions
    assert set_parameter(robot, node, "caption.on_keyframe", True).successful
    robot.wait(lambda: captions)

    for name, value, message in (
        ("token_budget", -1, "out of range"),
        ("token_budget", 3, "token_budget is 3 for 1 camera"),
        ("token_budget", 900_000, "the model has 65536; lower the token budget (parameter token_budget) to at most"),
        ("caption.prompt", " ", "it must be non-empty"),
        ("caption.prompt", "<image>", "image"),
        ("keyframe.policy", "none", "novelty, reference"),
        ("keyframe.threshold", 300.0, "out of range"),
        ("sample_rate_hz", -1.0, "out of range"),
        ("image_reliability", "best_effort", "clean it up first"),
        ("model", "other", "clean it up first"),
        ("autostart", False, "read-only"),
        ("sample_rate_hz", "fast", "sample_rate_hz is 'fast', it must be a number"),
        ("token_budget", 400.5, "token_budget is 400.5, it must be a whole number"),
        ("token_budget", True, "token_budget is True"),
        ("image_topics", "/camera", "it must be a list of strings"),
        ("image_topics", [], "image_topics must name at least one topic"),
        ("image_topics", ["a", "a"], "each once"),
        ("image_topics", ["a b"], "'a b' is not a valid topic name"),
        ("sample_rate", 2.0, "there is no parameter sample_rate; did you mean sample_rate_hz?"),
    ):
        result = set_parameter(robot, node, name, value)
        assert not result.successful and message in result.reason, (name, result.reason)
    assert 0 < ask(robot, node).visual_tokens <= 100


def test_caption_prompt_and_period_and_the_keyframe_threshold_can_change(robot, start_node, image):
    node = start_node({"text": ""}, **NO_CAPTIONS)  # repeats the question
    captions = robot.subscribe(GroundedCaption, f"{node.name}/captions")

    def publish(second, bright_square=False):
        message = image(second, value=100)
        for row in range(28 if bright_square else 0):
            message.data[row * message.step : row * message.step + 3 * 28] = array.array("B", [220] * 3 * 28)
        robot.publish_and_wait(node, message)
        return node.memory[-1].frames[-1].kind

    def caption_of(second):
        publish(second)
        return robot.wait(lambda: [c for c in captions if c.header.stamp.sec == second])[0].text

    assert set_parameter(robot, node, "caption.prompt", "Name each cup.").successful
    assert set_parameter(robot, node, "caption.period_s", 10.0).successful
    assert "Name each cup." in caption_of(1)
    publish(5)
    assert set_parameter(robot, node, "caption.prompt", "Count them.").successful
    assert "Count them." in caption_of(11)
    assert set_parameter(robot, node, "caption.period_s", 2.0).successful
    caption_of(14)
    assert [c.header.stamp.sec for c in captions] == [1, 11, 14]

    assert set_parameter(robot, node, "keyframe.threshold", 254.0).successful
    publish(20)
    assert publish(21, bright_square=True) == MemoryFrame.INTERMEDIATE
    assert set_parameter(robot, node, "keyframe.threshold", 10.0).successful
    publish(22)
    assert publish(23, bright_square=True) == MemoryFrame.KEY


def test_the_sampling_rate_can_change_and_counts_skipped_frames(robot, start_node, image):
    node = start_node(**NO_CAPTIONS)
    robot.publish_and_wait(node, image(1.0))
    assert set_parameter(robot, node, "sample_rate_hz", 1.0).successful
    assert ask(robot, node).frames_used == 1
    for number in range(3):
        robot.publish(node.topic, image(2.0 + number / 10))
        camera_status(robot, node, 2 + number)
    assert int(camera_status(robot, node, 4)[1]["skipped by the sampling rate"]) == 2
    assert ask(robot, node).frames_used == 2


def test_numbers_are_converted_where_that_is_exact(robot, start_node):
    node = start_node(sample_rate_hz=2, token_budget=400.0)
    request = GetParameters.Request(names=["sample_rate_hz", "token_budget"])

    def values():
        rate, budget = robot.call(GetParameters, f"{node.name}/get_parameters", request).values
        return rate.double_value, budget.integer_value

    assert values() == (2.0, 400)
    assert set_parameter(robot, node, "sample_rate_hz", 5).successful
    assert set_parameter(robot, node, "token_budget", 500.0).successful
    assert values() == (5.0, 500)


PARAMETERS = """
/**:
  ros__parameters: {use_sim_time: false, sample_rate: 5.0, sample_rate_hz: 3}
{NODE}:
  ros__parameters:
    keyframe: {treshold: 3.0, min_cells: 7}
    qos_overrides: {/parameter_events: {publisher: {depth: 1}}}
    image_topics: [left, right]
"""


def test_a_parameter_file_applies_and_names_that_do_not_exist_are_reported(robot, start_node, tmp_path):
    files = {"own": "/*/penguin", "other": "/front/penguin"}
    for name, section in files.items():
        text = PARAMETERS.replace("{NODE}", section)
        (tmp_path / name).write_text(text if name == "own" else text.replace("/**:", "other_node:"))
    node = start_node(args=[part for name in files for part in ("--params-file", str(tmp_path / name))])
    request = GetParameters.Request(names=["keyframe.min_cells"])
    assert robot.call(GetParameters, f"{node.name}/get_parameters", request).values[0].integer_value == 7
    warnings = [line.split("]: ")[-1] for line in node.log.splitlines() if "[WARN]" in line]
    assert sorted(warnings) == [
        f"{tmp_path}/other has parameters for /other_node, /front/penguin only, not for {node.name}: it has no effect",
        "keyframe.treshold has no effect: there is no parameter keyframe.treshold; did you mean keyframe.threshold?",
        "sample_rate has no effect: there is no parameter sample_rate; did you mean sample_rate_hz?",
    ]


@pytest.mark.parametrize(
    ("section", "applies"),
    [
        ("penguin", False), ("/a/b/penguin", True), ("a/b/penguin", True), ("/**", True), ("/**/penguin", True),
        ("/*/penguin", False), ("/*/*/penguin", True), ("/a/*", False), ("/a/**", True), ("/a/b", False),
    ],
)  # fmt: skip
def test_sections_of_a_parameter_file_apply_as_in_ros(section, applies, tmp_path):
    (tmp_path / "p.yaml").write_text(f"{section}:\n  ros__parameters:\n    found: true\n")
    args = ["--ros-args", "--params-file", str(tmp_path / "p.yaml")]
    rclpy.init(args=[])
    try:
        node = rclpy.create_node(
            "penguin", namespace="/a/b", cli_args=args, automatically_declare_parameters_from_overrides=True
        )
        assert node.has_parameter("found") == applies
        node.destroy_node()
    finally:
        rclpy.shutdown()
    assert bool(list(files_without_effect(args, "/a/b/penguin"))) != applies


def test_a_message_with_too_many_parameters_is_refused_before_anything_is_done(robot, shared_node):
    def call(kind, service, **fields):
        return robot.call(kind, f"{shared_node.name}/{service}", kind.Request(**fields))

    changes = [Parameter("sample_rate_hz", value=5.0).to_parameter_msg()] * 101
    for result in [
        *(results := call(SetParameters, "set_parameters", parameters=changes).results),
        call(SetParametersAtomically, "set_parameters_atomically", parameters=changes).result,
    ]:
        assert not result.successful
        assert result.reason == "the message has 101 parameters, the limit is 100; nothing was changed"
    assert len(results) == 101
    assert len(call(GetParameters, "get_parameters", names=["caption.prompt"] * 101).values) == 0
    assert call(GetParameters, "get_parameters", names=["sample_rate_hz"]).values[0].double_value == 2.0
