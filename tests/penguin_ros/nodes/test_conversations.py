"""Conversations, answers and captions as JSON, and the system prompt of a real node."""

import json

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from node_calls import ask, set_parameter
from penguin_vl.action import AskStream
from penguin_vl.msg import Answer, GroundedCaption
from std_srvs.srv import Trigger

OBJECTS = '{"type": "object", "properties": {"bbox_2d": {"type": "array", "items": {"type": "integer"}}}}'


def test_a_conversation_continues_over_service_and_action_until_it_is_cleared(robot, start_node, image):
    node = start_node(caption__on_keyframe=False)
    robot.publish_and_wait(node, image(1.0))
    first, other = ask(robot, node, conversation_id="a"), ask(robot, node)
    client = robot.action_client(AskStream, f"{node.name}/ask_stream")
    goal = AskStream.Goal(question="And now?", conversation_id="a")
    handle = robot.response(client.send_goal_async, goal)
    second = robot.response(handle.get_result_async).result.answer
    assert [(a.turns_used, a.turns_forgotten) for a in (first, other, second)] == [(0, 0), (0, 0), (1, 0)]
    assert second.prompt_tokens > first.prompt_tokens + first.generated_tokens and second.text == first.text
    robot.call(Trigger, f"{node.name}/clear_memory")
    robot.publish_and_wait(node, image(2.0))
    cleared = ask(robot, node, conversation_id="a")
    assert (cleared.turns_used, cleared.turns_forgotten, cleared.prompt_tokens) == (0, 2, first.prompt_tokens)
    refused = ask(robot, node, conversation_id="x" * 257)
    assert refused.error_code == Answer.ERROR_BAD_REQUEST and "257 characters, the limit is 256" in refused.error_msg


def test_answers_and_captions_follow_a_schema_and_the_system_prompt_can_change(robot, start_node, image):
    node = start_node(caption__response_schema="objects", caption__max_new_tokens=32)
    captions = robot.subscribe(GroundedCaption, f"{node.name}/captions")
    robot.publish_and_wait(node, image(1.0))
    robot.wait(lambda: captions)
    assert json.loads(captions[0].text).keys() == {"objects"}
    plain = ask(robot, node)
    assert json.loads(ask(robot, node, response_schema=OBJECTS, max_new_tokens=40).text) is not None
    for schema, message in (("{", "is not JSON"), ('{"type": "colour"}', "Invalid type: colour")):
        refused = ask(robot, node, response_schema=schema)
        assert refused.error_code == Answer.ERROR_BAD_REQUEST and message in refused.error_msg
    short = ask(robot, node, response_schema="objects", max_new_tokens=2)
    assert short.error_code == Answer.ERROR_BAD_REQUEST and "does not fit into max_new_tokens" in short.error_msg

    for name, value, message in (
        ("caption.response_schema", '{"enum": []}', "caption.response_schema: the JSON schema"),
        ("system_prompt", "<|im_start|>", "leave it out"),
        ("system_prompt", "x" * 5000, "5000 characters, the limit is 4096"),
    ):
        result = set_parameter(robot, node, name, value)
        assert not result.successful and message in result.reason
    assert set_parameter(robot, node, "system_prompt", "Be brief.").successful
    robot.wait(lambda: ask(robot, node).prompt_tokens > plain.prompt_tokens)
    assert set_parameter(robot, node, "caption.response_schema", "").successful
    robot.publish_and_wait(node, image(2.0, value=200))
    robot.wait(lambda: "A red cube." in captions[-1].text)
