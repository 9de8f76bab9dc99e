"""The examples: Python clients over DDS, C++ against the generated interfaces, and trees against the plugin."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
DECLARATIONS = Path(__file__).parent / "data" / "cpp_declarations"
NAMESPACE = "/example"


@pytest.fixture
def client():
    """Returns a function that starts a client that asks the node in NAMESPACE: a Python script or a C++ program."""
    clients = []

    def start(program, question=""):
        file = EXAMPLES / "client_py" / program  # a program has a whole path
        command = [sys.executable] if file.suffix == ".py" else []
        command += [str(file), question, "--ros-args", "-r", f"__ns:={NAMESPACE}"]
        clients.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return clients[-1]

    yield start
    for process in clients:
        process.kill()
        process.wait()


@pytest.fixture
def answering(robot):
    """Serves ~/ask and ~/ask_stream of a node: a question is its own answer, and "why?" has none.

    Returns an event for which the action waits between its feedback and its result.
    """
    from penguin_vl.action import AskStream
    from penguin_vl.msg import Answer, GroundedObject
    from penguin_vl.srv import Ask
    from rclpy.action import ActionServer

    printed = threading.Event()

    def answer(question):
        if question == "why?":
            return Answer(error_code=Answer.ERROR_BUSY, error_msg="the queue is full")
        box = GroundedObject(label="mug", x_min_px=1.0, x_max_px=2.6, y_min_px=3.0, y_max_px=4.0)
        return Answer(text=question, objects=[box], generated_tokens=7, first_token_s=0.25)

    def on_ask(request, response):
        response.answer = answer(request.question)
        return response

    def on_goal(goal):
        if goal.request.question != "why?":
            robot.wait(lambda: robot.node.count_subscribers(f"{NAMESPACE}/penguin/ask_stream/_action/feedback"))
            goal.publish_feedback(AskStream.Feedback(text=goal.request.question))
            assert printed.wait(60)
        goal.succeed()  # the error code counts, whatever the goal's status
        return AskStream.Result(answer=answer(goal.request.question))

    robot.node.create_service(Ask, f"{NAMESPACE}/penguin/ask", on_ask)
    server = ActionServer(robot.node, AskStream, f"{NAMESPACE}/penguin/ask_stream", on_goal)
    yield printed
    robot.result(robot._executor.create_task(server.destroy))


def test_ask_prints_the_answer_or_why_there_is_none(answering, client):
    answered, refused = client("ask.py", "a mug"), client("ask.py", "why?")
    assert (*answered.communicate(timeout=60), answered.returncode) == ("a mug\n  mug: x 1-3, y 3-4 px\n", "", 0)
    assert (refused.communicate(timeout=60)[1], refused.returncode) == ("error 6: the queue is full\n", 1)


def test_ask_stream_prints_text_before_the_answer_is_complete(answering, client):
    answered, refused = client("ask_stream.py", "a mug"), client("ask_stream.py", "why?")
    assert answered.stdout.read(5) == "a mug"
    answering.set()
    assert answered.communicate(timeout=60) == ("\nanswer (7 tokens, the first after 0.25 s): a mug\n", "")
    assert (refused.communicate(timeout=60)[1], refused.returncode) == ("error 6: the queue is full\n", 1)


def test_the_caption_client_prints_captions_until_it_is_interrupted(robot, client):
    from penguin_vl.msg import GroundedCaption, GroundedObject

    process = client("captions.py")
    caption = GroundedCaption(text="a table", camera="/eye", objects=[GroundedObject(label="mug")])
    caption.header.stamp.sec = 3
    robot.publish(f"{NAMESPACE}/penguin/captions", caption)
    assert process.stdout.readline() == "3.000000000 /eye: a table (mug)\n"
    process.send_signal(signal.SIGINT)
    assert (process.communicate(timeout=60)[1], process.returncode) == ("", 0)


def test_cpp_clients_do_the_same(answering, client):
    prefixes = os.environ["AMENT_PREFIX_PATH"].split(os.pathsep)
    built = (folder for prefix in prefixes if (folder := Path(prefix, "lib", "penguin_vl_client_cpp")).is_dir())
    folder = next(built, None) or pytest.skip("needs examples/client_cpp, built in a workspace with rclcpp")
    answered, refused, streamed = (
        client(folder / name, text) for name, text in (("ask", "a mug"), ("ask", "why?"), ("ask_stream", "a mug"))
    )
    assert (*answered.communicate(timeout=60), answered.returncode) == ("a mug\n  mug: x 1-2.6, y 3-4 px\n", "", 0)
    assert (refused.communicate(timeout=60)[1], refused.returncode) == ("error 6: the queue is full\n", 1)
    answering.set()
    out, err = streamed.communicate(timeout=60)  # rclcpp_action drops feedback that comes before the goal's response
    assert (out.endswith("\nanswer: a mug\n"), err, streamed.returncode) == (True, "", 0)


@pytest.mark.parametrize("source", sorted(EXAMPLES.glob("*/src/*.cpp")), ids=lambda path: path.name)
def test_cpp_examples_compile_against_the_interfaces(source):
    """The messages are the generated ones; of the libraries, which no pip package has, there are declarations."""
    compiler = shutil.which("c++") or pytest.skip("needs a C++ compiler")
    prefixes = [*os.environ["AMENT_PREFIX_PATH"].split(os.pathsep), sys.prefix]  # of ROS, and of its wheels
    folders = [str(folder) for prefix in prefixes for folder in Path(prefix, "include").glob("*") if folder.is_dir()]
    includes = [f"-I{DECLARATIONS}", *(part for folder in folders for part in ("-isystem", folder))]
    warnings = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    compiled = subprocess.run([compiler, *warnings, *includes, str(source)], capture_output=True, text=True)
    assert compiled.returncode == 0, compiled.stderr


def test_trees_use_the_ports_that_the_plugin_has():
    source = (EXAMPLES / "behavior_tree" / "src" / "ask_yes_no.cpp").read_text()
    ports = set(re.findall(r'putPort<[\w:]+>\("(\w+)"', source))
    assert ports == {"question", "service", "timeout_s", "answer"}
    for tree in (EXAMPLES / "behavior_tree" / "trees").glob("*.xml"):
        nodes = list(ET.parse(tree).iter("AskYesNo"))
        assert nodes and all(set(node.attrib) - {"name"} <= ports for node in nodes), tree.name


def test_two_robots_have_nodes_of_their_own():
    pytest.importorskip("launch_ros", reason="comes with ROS")
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    description = get_launch_description_from_python_launch_file(str(EXAMPLES / "two_robots.launch.py"))
    included = [dict(part.launch_arguments) for part in description.entities if hasattr(part, "launch_arguments")]
    assert [arguments["namespace"] for arguments in included] == ["robot_1", "robot_2"]
    known = {argument.name for argument in description.get_launch_arguments()}
    assert {"model", "runtime", "cameras", "params_file"} <= known
    assert all(set(arguments) <= known for arguments in included)
