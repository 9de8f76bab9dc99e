"""`penguin-vl serve --node`: the OpenAI API about what a running node sees."""

import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import openai
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")


@contextmanager
def killed_after(process):
    try:
        yield process
    finally:
        process.kill()  # if the test has failed
        process.wait()
        process.stderr.close()


PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAAC"


def test_requests_without_an_image_are_about_what_the_robot_sees(robot, start_node, image):
    node = start_node(caption__on_keyframe=False)
    command = [sys.executable, "-m", "penguin_ros.cli.main", "serve", "--node", node.name, "--port", "0"]
    with killed_after(subprocess.Popen(command, stderr=subprocess.PIPE, text=True)) as server:
        address = re.search(r"http://\S+", server.stderr.readline())[0]
        client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)

        def ask(content="What is there?", **options):
            messages = [{"role": "user", "content": content}]
            return client.chat.completions.create(**{"model": node.name.strip("/"), "messages": messages} | options)

        while True:  # until the node is discovered
            try:
                ask()
            except openai.InternalServerError as err:
                if err.code == "no_frames":
                    break
                assert err.code == "not_active" and "there is no node" in err.message
        robot.publish_and_wait(node, image(1.0))
        whole = ask()
        assert "red cube" in whole.choices[0].message.content and whole.usage.completion_tokens
        [found] = whole.choices[0].message.grounding["objects"]
        assert found["label"] == "red cube" and found["box_px"][0] == pytest.approx(8, abs=1)
        stream = ask("What else is there?", stream=True, max_tokens=3)
        assert "".join(each.choices[0].delta.content or "" for each in stream)
        turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is there?"}]
        for question in ("And now?", "And here?"):  # an agent sends its system prompt and all turns each time
            turns += [ask(messages=turns).choices[0].message, {"role": "user", "content": question}]
        streamed = "".join(each.choices[0].delta.content or "" for each in ask(messages=turns, stream=True))
        turns += [{"role": "assistant", "content": streamed}, {"role": "user", "content": "Thanks?"}]
        ask(messages=turns)
        for options, message in (
            ({"messages": [*turns[:3], turns[1]]}, "earlier turns are not known to the robot"),
            ({"top_p": 0.5}, "leave out temperature, top_p and stop"),
            ({"temperature": 1.0}, "settings of its own|its own settings"),
            ({"logprobs": True}, "does not report log probabilities: leave out logprobs"),
            ({"content": [{"type": "image_url", "image_url": {"url": PIXEL}}]}, "has no model for images"),
        ):
            with pytest.raises(openai.BadRequestError, match=message):
                ask(**options)
        server.send_signal(signal.SIGINT)
        assert server.wait(60) in (0, 130, -signal.SIGINT), server.stderr.read()
