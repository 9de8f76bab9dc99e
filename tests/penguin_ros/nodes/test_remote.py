"""A real node whose questions our own server answers over HTTP, with a local runtime in reserve."""

import threading

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("openai", reason="needs the client of the OpenAI API: pip install 'penguin-vl[remote]'")

from node_calls import NO_CAPTIONS, ask, result, server_values, start_watch, stream
from openai_servers import running
from penguin_vl.msg import Answer
from scripted_runtime import BOX_ANSWER

from penguin_engine.runtimes.loading import open_runtime
from penguin_engine.server.answering import ModelAnswerer, Reply
from penguin_ros.shipped import MODEL

KEY = "0123456789abcdef"
TEXT = "A red cube. During the period 0.50 - 1.00 seconds."
LONG = {"deadline_s": 30.0}
"""The machine may be busy."""


class Scripted:
    """Answers with one box; the question "Slowly?" gets its first word only, until it is cancelled."""

    def __init__(self):
        self.cancelled = threading.Event()

    def answer(self, conversation, sampling, hooks, log=None):
        if conversation.messages[-1]["content"][-1]["text"] == "Slowly?":
            hooks.on_text("A ", 1)
            while not hooks.cancelled():
                self.cancelled.wait(0.01)
            self.cancelled.set()
            return Reply("A ", "cancelled", 1, 0, 1, 0.0, [], [])
        hooks.on_text(BOX_ANSWER, 9)
        return Reply(BOX_ANSWER, "end", 20, 12, 9, 0.1, [{"label": "red cube", "box_px": [], "score": 0.5}], [])

    def close(self):
        pass


def test_the_server_answers_and_the_local_runtime_while_it_is_gone(robot, start_node, image, tmp_path):
    (tmp_path / "key").write_text(KEY)
    scripted = Scripted()
    with running(scripted, api_key=KEY) as server:
        node = start_node(
            {"text": "local"},
            runtime="openai",
            base_url=f"{server.address}/v1",
            model="tiny",
            api_key_file=str(tmp_path / "key"),
            fallback="onnx",
            fallback_model="scripted",
            **NO_CAPTIONS,
        )
        robot.publish_and_wait(node, image(1.0))
        robot.publish_and_wait(node, image(2.0, value=90))
        answer = ask(robot, node, **LONG)
        assert (answer.error_code, answer.text, answer.frames_used, answer.prompt_tokens) == (0, TEXT, 2, 20)
        [found] = answer.objects
        assert (found.label, found.score) == ("red cube", 0.5) and answer.header.stamp.sec == 2

        handle = stream(robot, node, "Slowly?", **LONG)
        robot.response(handle.cancel_goal_async)
        assert result(robot, handle).answer.error_code == Answer.ERROR_CANCELLED
        assert scripted.cancelled.wait(20)

        handle = stream(robot, node, "Slowly?", **LONG)
        server.kill()
        answer = result(robot, handle).answer
        assert answer.error_code == Answer.ERROR_SERVER and answer.error_msg.endswith("; ask again")
        assert "in the middle of an answer" in answer.error_msg

        assert ask(robot, node, deadline_s=1.0).text == "local"
        status, values = server_values(robot, node, unreachable="1")
        assert "cannot be reached" in status.message and values["questions left to the fallback"] == "1"
        assert (values["answered"], values["cancelled"], values["ended in the middle"]) == ("1", "1", "1")
    with running(Scripted(), port=server.port, api_key=KEY):
        assert ask(robot, node, **LONG).text == TEXT
        assert server_values(robot, node, answered="2")[0].message == "OK"
    assert KEY not in node.log and "Traceback" not in node.log


def test_the_server_judges_what_a_node_without_a_model_watches_for(robot, start_node, image):
    with running(ModelAnswerer(*open_runtime("torch", MODEL, "cpu"), 10**6)) as server:
        node = start_node(runtime="openai", base_url=f"{server.address}/v1", model="tiny", **NO_CAPTIONS)
        robot.publish_and_wait(node, image(1.0))  # it is active
        watch = start_watch(robot, node, "there is a red cube", threshold=1.0)
        robot.publish_and_wait(node, image(2.0, value=90))
        robot.wait(lambda: watch.feedback and watch.feedback[-1].alert.header.stamp.sec == 2)
        assert all(0.0 < each.alert.probability < 1.0 for each in watch.feedback)
        assert server_values(robot, node, probabilities_of_tokens="yes")[0].message == "OK"
        robot.response(watch.cancel_goal_async)
        assert result(robot, watch).judged == len(watch.feedback)
