"""The pace of the real node: what it chose is published, and deadlines of questions are kept."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import math

from node_calls import NO_CAPTIONS, ask, statuses
from penguin_vl.msg import Answer


def test_a_slow_machine_leaves_frames_out_and_says_so(robot, start_node, image):
    node = start_node({"encode_s": 0.4}, pace=True, **NO_CAPTIONS)
    robot.publish_and_wait(node, image(1.0))
    assert "looking may take" in node.memory[-1].pace and node.memory[-1].frame_period_s > 0.4

    def newest(second):
        answer = ask(robot, node, deadline_s=0.5)
        return answer if answer.header.stamp.sec == second else None  # the image may arrive after the question

    for second in range(2, 6):
        robot.publish(node.topic, image(float(second)))
        answer = robot.wait(lambda second=second: newest(second))
        assert answer.error_code == Answer.ERROR_NONE
        assert answer.frames_used + answer.frames_pending == second
        assert answer.predicted_first_token_s > 0 and answer.evidence_age_s >= 0
    status = robot.wait(lambda: [s for s in statuses(robot, node.name) if "pace" in {v.key for v in s.values}])[0]
    values = {item.key: item.value for item in status.values}
    assert "looking may take" in values["pace"] and 0 <= float(values["load of looking"]) < 1


def test_without_a_pace_nothing_is_predicted(robot, start_node, image):
    node = start_node(pace=False, **NO_CAPTIONS)
    robot.publish_and_wait(node, image(1.0))
    answer = ask(robot, node, deadline_s=0.001)
    assert (answer.error_code, answer.frames_pending) == (Answer.ERROR_NONE, 0)
    assert math.isnan(answer.predicted_first_token_s)
    assert ask(robot, node, deadline_s=-1.0).error_code == Answer.ERROR_BAD_REQUEST
