"""The action `~/watch` over real DDS: feedback, results with their evidence, the latched topic, and every end."""

import io

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import Transition
from node_calls import NO_CAPTIONS, ask, change_state, start_watch, statuses
from penguin_vl.msg import Alert, Answer
from PIL import Image as Picture
from rclpy.qos import QoSDurabilityPolicy, QoSProfile

LATCHED = QoSProfile(depth=10, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


def test_a_condition_that_has_held_ends_its_watch_and_all_others_go_on_until_they_are_ended(robot, start_node, image):
    """
    1. Two watches judge the same frames; the scripted model says yes with a probability of 0.65.
    2. One has a hold time, and ends with the third frame; a subscriber that comes later receives the alert.
    3. The other asks for more, reports every judgement, and is cancelled.
    4. The node is deactivated during a third, which ends with the reason; then none is accepted.
    """
    node = start_node({"text": "yes"}, **NO_CAPTIONS)
    robot.wait(lambda: ask(robot, node).error_code != Answer.ERROR_NOT_LOADED)
    held = start_watch(robot, node, hold_s=2.0, cameras=[node.topic])
    strict = start_watch(robot, node, "the light is on", threshold=0.9)
    robot.publish(node.topic, image(1.0, size=(56, 84)))
    robot.wait(lambda: held.feedback and strict.feedback)
    first = held.feedback[0]
    assert first.holds and first.judged == 1 and first.alert.held_s == 0.0 and not first.alert.picture.data
    assert 0.6 < first.alert.probability < 0.7 and not strict.feedback[0].holds
    robot.publish(node.topic, image(2.0, size=(56, 84)))
    robot.wait(lambda: len(held.feedback) == 2 and len(strict.feedback) == 2)
    robot.publish(node.topic, image(3.0, size=(448, 896)))
    ended = robot.response(held.get_result_async)
    alert, result = ended.result.alert, ended.result
    assert (ended.status, result.error_code, result.judged) == (GoalStatus.STATUS_SUCCEEDED, Answer.ERROR_NONE, 3)
    assert (alert.camera, alert.condition, alert.held_s) == (node.topic, "the door is open", 2.0)
    assert (alert.header.stamp.sec, alert.header.frame_id, alert.picture.header) == (3, "optical", alert.header)
    assert Picture.open(io.BytesIO(bytes(alert.picture.data))).size == (448, 224)
    alerts = robot.subscribe(Alert, f"{node.name}/alerts", LATCHED)
    assert robot.wait(lambda: alerts)[0] == alert

    robot.wait(lambda: len(strict.feedback) == 3)
    robot.response(strict.cancel_goal_async)
    cancelled = robot.response(strict.get_result_async)
    assert (cancelled.status, cancelled.result.error_code) == (GoalStatus.STATUS_CANCELED, Answer.ERROR_CANCELLED)
    assert cancelled.result.judged == 3 and cancelled.result.alert.header.stamp.sec == 3
    assert "cancelled before the condition had held" in cancelled.result.error_msg

    third = start_watch(robot, node, hold_s=3600.0)
    values = robot.wait(lambda: (v := node_values(robot, node)).get("watches") == "1" and v)
    assert values["watch calibration"] == "none" and "judgements are not calibrated" in node.log
    assert change_state(robot, node, Transition.TRANSITION_DEACTIVATE)
    ended = robot.response(third.get_result_async)
    assert (ended.status, ended.result.error_code) == (GoalStatus.STATUS_ABORTED, Answer.ERROR_CANCELLED)
    assert "the node is inactive; activate it" in ended.result.error_msg
    refused = robot.response(start_watch(robot, node).get_result_async).result
    assert (refused.error_code, refused.alert.condition) == (Answer.ERROR_NOT_LOADED, "the door is open")


def node_values(robot, node):
    return {item.key: item.value for status in statuses(robot, node.name)[:1] for item in status.values}


def test_bad_goals_and_more_than_the_limit_are_refused_with_their_reason(robot, shared_node):
    for fields, code, message in (
        ({"condition": " "}, Answer.ERROR_BAD_REQUEST, "the condition is empty"),
        ({"condition": "a <image> b"}, Answer.ERROR_BAD_REQUEST, "image"),
        ({"threshold": float("nan")}, Answer.ERROR_BAD_REQUEST, "threshold is nan"),
        ({"hold_s": -1.0}, Answer.ERROR_BAD_REQUEST, "hold_s is -1"),
        ({"cameras": ["/nowhere"]}, Answer.ERROR_UNKNOWN_CAMERA, "camera '/nowhere' is not configured"),
        ({"cameras": ["a b"]}, Answer.ERROR_UNKNOWN_CAMERA, "is not a valid topic name"),
    ):
        ended = robot.response(start_watch(robot, shared_node, **fields).get_result_async)
        assert (ended.status, ended.result.error_code) == (GoalStatus.STATUS_ABORTED, code)
        assert message in ended.result.error_msg and len(ended.result.error_msg) < 400
    handles = [start_watch(robot, shared_node) for _ in range(16)]
    refused = robot.response(start_watch(robot, shared_node).get_result_async).result
    assert refused.error_code == Answer.ERROR_BUSY and "the limit is 16; cancel one" in refused.error_msg
    for handle in handles:
        robot.response(handle.cancel_goal_async)
