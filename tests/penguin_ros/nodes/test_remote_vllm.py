"""A real node whose questions a real `vllm serve` answers on loopback, with a local runtime in reserve."""

import array
import json

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("openai", reason="needs the client of the OpenAI API: pip install 'penguin-vl[remote]'")

from node_calls import NO_CAPTIONS, ask, result, server_values, start_watch, stream
from penguin_vl.msg import Answer
from PIL import Image as Picture

pytestmark = [pytest.mark.timeout(1500)]
QUESTION = "What is on the table?"
LONG = {"deadline_s": 120.0}
"""The machine may be busy; the server gets half of it."""
NUMBERS = {"type": "array", "items": {"type": "integer"}, "minItems": 1000}
ENDLESS = {"type": "object", "properties": {"numbers": NUMBERS}, "required": ["numbers"]}
"""A schema that no answer fulfils before its tokens run out."""


@pytest.fixture
def table(image, reference):
    """Returns a function that makes messages of a picture of a table, which moves to the right."""
    picture = np.asarray(Picture.open(reference / "media" / "tabletop.png").convert("RGB"))

    def make(second):
        message = image(second, size=picture.shape[:2])
        message.data = array.array("B", np.roll(picture, int(40 * second), axis=1).tobytes())
        return message

    return make


def test_vllm_is_killed_in_the_middle_of_an_answer_and_answers_again_after_its_restart(
    robot, start_node, table, vllm_serving
):
    """
    1. vLLM judges a watch by its probabilities, and answers a question about two frames.
    2. It is killed while an answer streams: the goal ends with an error, because its client has seen a part of it.
    3. The local runtime answers while it is gone; the circuit opens.
    4. Started again on the same port, it gives its first answer again, and the circuit closes.
    """
    remote = {"runtime": "openai", "model": "penguin-tiny", "fallback": "onnx", "fallback_model": "scripted"}
    with vllm_serving() as server:
        node = start_node({"text": "local"}, base_url=server.url, **remote, **NO_CAPTIONS)
        robot.publish_and_wait(node, table(1.0))
        watch = start_watch(robot, node, "There is a cube on the table.", threshold=1.0)
        robot.publish_and_wait(node, table(2.0))
        robot.wait(lambda: watch.feedback and watch.feedback[-1].alert.header.stamp.sec == 2)
        assert all(0.0 < judged.alert.probability < 1.0 for judged in watch.feedback)
        robot.response(watch.cancel_goal_async)
        assert result(robot, watch).error_code == Answer.ERROR_CANCELLED
        first = ask(robot, node, QUESTION, **LONG)
        assert (first.error_code, first.frames_used) == (Answer.ERROR_NONE, 2) and first.prompt_tokens > 0
        requests = str(len(watch.feedback) + 1)
        assert server_values(robot, node, answered=requests, probabilities_of_tokens="yes")[0].message == "OK"

        handle = stream(robot, node, response_schema=json.dumps(ENDLESS), max_new_tokens=1024, **LONG)
        server.kill()
        broken = result(robot, handle).answer
        assert broken.error_code == Answer.ERROR_SERVER and broken.error_msg.endswith("; ask again")
        assert "in the middle of an answer" in broken.error_msg

    for _ in range(2):
        assert ask(robot, node, deadline_s=4.0).text == "local"
    status, values = server_values(robot, node, circuit_opened="1")
    assert "cannot be reached" in status.message and values["questions left to the fallback"] == "2"
    assert (values["ended in the middle"], values["unreachable"]) == ("1", "2")
    with vllm_serving(server.port):
        server_values(robot, node, circuit="half-open")
        again = ask(robot, node, QUESTION, **LONG)
        assert (again.error_code, again.text, again.frames_used) == (Answer.ERROR_NONE, first.text, 2)
        status, values = server_values(robot, node, circuit="closed")
        assert status.message == "OK" and values["questions left to the fallback"] == "2"
