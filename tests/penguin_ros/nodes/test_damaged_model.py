"""A live node whose model's logits are not finite reports it and stays alive."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from node_calls import NO_CAPTIONS, ask
from penguin_vl.msg import Answer


@pytest.mark.parametrize("parameters", [NO_CAPTIONS, {}], ids=["questions", "captions"])
def test_every_question_gets_the_reason(robot, start_node, image, parameters):
    node = start_node({"text": "nan"}, **parameters)
    node.may_fail = True
    for second in (1, 2):
        robot.publish_and_wait(node, image(second))
        answer = ask(robot, node)
        assert answer.error_code == Answer.ERROR_INTERNAL and answer.text == ""
        assert "logits are not finite in float32" in answer.error_msg and "check its weights" in answer.error_msg
    assert node.alive
