"""Questions under load: the executor is never held, queues are bounded, goals end whatever happens."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from itertools import count
from time import monotonic

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from penguin_vl.action import AskStream
from penguin_vl.msg import Answer
from penguin_vl.srv import Ask
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.action import ActionClient
from rclpy.qos import QoSProfile
from std_srvs.srv import Trigger

from penguin_ros.nodes.context import FEEDBACK_QOS

SAYS = "A [red cube](100,200,300,400). During the period 0.50 - 1.00 seconds."
SLOW = {"token_s": 0.2, "text": "A word " * 100}
STUCK = {"pause_s": 600}
HARDLY_ANY_TIME_S = 0.05


@pytest.fixture
def slow(robot, start, image):
    """A node whose every token takes a fifth of a second."""
    return ready(robot, start, image, SLOW)


@pytest.fixture
def stuck(robot, start, image):
    """A node whose runtime takes ten minutes for the third token of an answer."""
    return ready(robot, start, image, {**STUCK, "time_images": True})


def ready(robot, start, image, script):
    """A node with a frame in its memory and room for two questions, and an action client."""
    node = start(script, caption__on_keyframe=False, queue_size=2)
    robot.show(node, image(1.0))
    goal = AskStream.Goal(question="What?")
    node.client = ActionClient(robot.node, AskStream, f"{node.name}/ask_stream", feedback_sub_qos_profile=FEEDBACK_QOS)
    assert node.client.wait_for_server(robot.patience_s)

    def begin(on_text=lambda text: None):
        """A goal that is being answered."""
        pieces = []

        def feedback(message):
            pieces.append(message.feedback)
            robot.tell()

        handle = robot.do(node.client.send_goal_async, goal, feedback)
        assert handle.accepted
        robot.wait(lambda: pieces)
        handle.pieces = pieces
        return handle

    node.begin = begin
    return node


def finished(robot, handle):
    return robot.do(handle.get_result_async)


def is_quick(call):
    """Whether a call takes hardly any time, once of many times: this machine may be busy, the executor must not be."""

    def duration():
        began = monotonic()
        call()
        return monotonic() - began

    return any(duration() < HARDLY_ANY_TIME_S for _ in range(50))


def test_the_executor_is_never_held_while_an_answer_is_generated(robot, stuck, image):
    """One operation of the runtime lasts longer than this test: if it held the executor, nothing would come back."""
    handle = stuck.begin()
    result = robot.begin(handle.get_result_async)
    robot.wait(lambda: len(handle.pieces) == 3)
    names = GetParameters.Request(names=["model"])
    value = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=5)
    change = SetParameters.Request(parameters=[Parameter(name="queue_size", value=value)])
    for name, call in {
        "reading parameters": lambda: robot.call(GetParameters, f"{stuck.name}/get_parameters", names),
        "changing parameters": lambda: robot.call(SetParameters, f"{stuck.name}/set_parameters", change),
        "refusing": lambda: robot.call(Ask, f"{stuck.name}/ask", Ask.Request(question=" ")),
        "clearing": lambda: robot.call(Trigger, f"{stuck.name}/clear_memory"),
        "cancelling": lambda: robot.do(handle.cancel_goal_async),
    }.items():
        assert is_quick(call), name
    assert not result.done()


def test_images_are_handed_over_at_once_while_an_answer_is_generated_and_the_newest_one_wins(robot, stuck, image):
    handle = stuck.begin()
    robot.wait(lambda: len(handle.pieces) == 3)

    def took_s():
        return [int(line.split()[-2]) * 1e-9 for line in stuck.log.splitlines() if line.startswith("image handed")]

    def quick():
        return any(0 < s < HARDLY_ANY_TIME_S for s in took_s()[1:])

    sent = 1
    while sent < 4 or (sent < 50 and not quick()):
        robot.publish(stuck.topic, image(time.time()))
        sent += 1
        robot.wait(lambda: len(took_s()) == sent)  # noqa: B023
    assert quick()
    camera = f"{stuck.name}: {stuck.topic}"
    values = robot.wait(lambda: (v := values_of(robot, camera)).get("images") == str(sent) and v)
    assert values["dropped"] == str(sent - 2)  # the first one was taken, the newest one waits


def values_of(robot, name):
    """The newest diagnostics of one name, and its message under "" ."""
    statuses = [s for message in robot.diagnostics for s in message.status if s.name == name.lstrip("/")]
    return {item.key: item.value for item in statuses[-1].values} | {"": statuses[-1].message} if statuses else {}


def test_a_question_is_answered_about_frames_that_came_while_another_one_was(robot, slow, image):
    handle = slow.begin()
    result = robot.begin(handle.get_result_async)
    for second in (2, 3, 4):
        robot.show(slow, image(second))
    assert not result.done()
    client = robot.node.create_client(Ask, f"{slow.name}/ask")
    assert client.wait_for_service(robot.patience_s)
    next_one = client.call_async(Ask.Request(question="?", max_new_tokens=1))
    robot.do(handle.cancel_goal_async)
    assert robot.result(result).result.answer.frames_used == 1
    answer = robot.result(next_one).answer
    assert (answer.error_code, answer.frames_used, answer.header.stamp.sec) == (Answer.ERROR_NONE, 4, 4)


def test_feedback_streams_and_its_sum_is_the_answer(robot, start, image):
    node = start(caption__on_keyframe=False)
    robot.show(node, image(1.0))
    client = ActionClient(robot.node, AskStream, f"{node.name}/ask_stream", feedback_sub_qos_profile=FEEDBACK_QOS)
    assert client.wait_for_server(robot.patience_s)
    # From the topic itself: rclpy's client drops the pieces that it has not read yet when it reads that a goal is done.
    heard = robot.hear(AskStream.Impl.FeedbackMessage, f"{node.name}/ask_stream/_action/feedback", FEEDBACK_QOS)
    goal = AskStream.Goal(question="What?")
    while not heard:  # the node has not found the listener yet
        finished(robot, robot.do(client.send_goal_async, goal))
    handle = robot.do(client.send_goal_async, goal)
    response = finished(robot, handle)
    assert response.status == GoalStatus.STATUS_SUCCEEDED and response.result.answer.error_code == 0
    assert response.result.answer.text == "A red cube. During the period 0.50 - 1.00 seconds."

    def pieces():
        return [message.feedback for message in heard if message.goal_id == handle.goal_id]

    robot.wait(lambda: "".join(p.text for p in pieces()) == SAYS)
    assert [p.generated_tokens for p in pieces()] == sorted(p.generated_tokens for p in pieces())
    assert response.result.answer.objects[0].label == "red cube"


def test_cancelling_keeps_what_had_been_said(robot, slow):
    handle = slow.begin()
    robot.do(handle.cancel_goal_async)
    response = finished(robot, handle)
    assert response.status == GoalStatus.STATUS_CANCELED
    assert response.result.answer.error_code == Answer.ERROR_CANCELLED
    assert response.result.answer.text.startswith("A") and "cancelled" in response.result.answer.error_msg
    assert response.result.answer.frames_used == 1


def test_parameters_change_while_an_answer_is_generated_and_count_for_the_next(robot, slow):
    handle = slow.begin()
    value = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=2)
    request = SetParameters.Request(parameters=[Parameter(name="answer.max_new_tokens", value=value)])
    result = robot.call(SetParameters, f"{slow.name}/set_parameters", request).results[0]
    assert result.successful
    robot.wait(lambda: len(handle.pieces) > 3)  # the running answer keeps its own limit
    robot.do(handle.cancel_goal_async)
    assert finished(robot, handle).result.answer.generated_tokens > 2
    assert robot.call(Ask, f"{slow.name}/ask", Ask.Request(question="And now?")).answer.generated_tokens == 2


def test_a_goal_that_waits_can_be_cancelled(robot, slow):
    running, waiting = slow.begin(), robot.do(slow.client.send_goal_async, AskStream.Goal(question="Later?"))
    robot.do(waiting.cancel_goal_async)
    response = finished(robot, waiting)
    assert response.status == GoalStatus.STATUS_CANCELED and response.result.answer.text == ""
    robot.do(running.cancel_goal_async)
    finished(robot, running)


def test_a_full_queue_refuses_questions_and_goals_at_once(robot, stuck):
    running = stuck.begin()
    result = robot.begin(running.get_result_async)
    waiting = [robot.do(stuck.client.send_goal_async, AskStream.Goal(question="Later?")) for _ in range(2)]
    values = robot.wait(lambda: (v := values_of(robot, stuck.name)).get("questions waiting") == "2" and v)
    assert values["question running"] == "True" and "the queue of questions is full" in values[""]
    refused = robot.call(Ask, f"{stuck.name}/ask", Ask.Request(question="And now?")).answer
    assert refused.error_code == Answer.ERROR_BUSY and "2 questions are waiting" in refused.error_msg
    goal = robot.do(stuck.client.send_goal_async, AskStream.Goal(question="And now?"))
    response = finished(robot, goal)
    assert response.status == GoalStatus.STATUS_ABORTED
    assert response.result.answer.error_code == Answer.ERROR_BUSY
    assert not result.done()
    robot.wait(lambda: values_of(robot, stuck.name)["questions refused"] == "2")
    for handle in waiting:
        robot.do(handle.cancel_goal_async)
        assert finished(robot, handle).status == GoalStatus.STATUS_CANCELED


def test_a_flood_is_refused_and_those_in_the_queue_are_answered(robot, slow):
    handle = slow.begin()
    result = robot.begin(handle.get_result_async)
    client = robot.node.create_client(Ask, f"{slow.name}/ask", qos_profile=QoSProfile(depth=100))
    assert client.wait_for_service(robot.patience_s)
    futures = [client.call_async(Ask.Request(question=f"{n}?", max_new_tokens=1)) for n in range(30)]
    robot.wait(lambda: sum(f.done() for f in futures) >= 28)
    assert not result.done()
    assert {f.result().answer.error_code for f in futures if f.done()} == {Answer.ERROR_BUSY}
    robot.do(handle.cancel_goal_async)
    codes = [robot.result(f).answer.error_code for f in futures]
    assert codes.count(Answer.ERROR_NONE) == 2


def test_parameters_change_again_and_again_under_load(robot, start, image):
    node = start(sample_rate_hz=10.0, token_budget=600, queue_size=20)
    robot.show(node, image(1.0))
    second = count(2)
    timer = robot.node.create_timer(0.03, lambda: robot.publish(node.topic, image(next(second), (112, 84))))
    ask = robot.node.create_client(Ask, f"{node.name}/ask")
    assert ask.wait_for_service(robot.patience_s)
    values = {
        "token_budget": (ParameterType.PARAMETER_INTEGER, "integer_value", (100, 900)),
        "sample_rate_hz": (ParameterType.PARAMETER_DOUBLE, "double_value", (0.0, 5.0)),
        "keyframe.threshold": (ParameterType.PARAMETER_DOUBLE, "double_value", (5.0, 60.0)),
        "caption.prompt": (ParameterType.PARAMETER_STRING, "string_value", ("What?", "Where?")),
    }
    answers = []
    for number in range(10):
        answers.append(ask.call_async(Ask.Request(question=f"{number}?", max_new_tokens=5)))
        for name, (kind, field, choices) in values.items():
            parameter = Parameter(name=name, value=ParameterValue(**{"type": kind, field: choices[number % 2]}))
            request = SetParameters.Request(parameters=[parameter])
            assert robot.call(SetParameters, f"{node.name}/set_parameters", request).results[0].successful
    assert {robot.result(answer).answer.error_code for answer in answers} == {Answer.ERROR_NONE}
    robot.wait(lambda: node.memory[-1].token_budget == 900 and node.memory[-1].tokens > 100)
    timer.cancel()
    assert all(state.tokens <= state.token_budget for state in node.memory)
    assert {state.token_budget for state in node.memory} <= {600, 100, 900}


@pytest.mark.parametrize("transition", [Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVE_SHUTDOWN])
def test_deactivation_and_shutdown_end_running_and_waiting_goals(robot, slow, transition):
    running, waiting = slow.begin(), robot.do(slow.client.send_goal_async, AskStream.Goal(question="Later?"))
    request = ChangeState.Request(transition=Transition(id=transition))
    assert robot.call(ChangeState, f"{slow.name}/change_state", request).success
    for handle in (running, waiting):
        response = finished(robot, handle)
        assert response.status == GoalStatus.STATUS_ABORTED
        assert response.result.answer.error_code == Answer.ERROR_CANCELLED


def test_shutting_the_process_down_ends_goals_with_a_result(robot, slow):
    handle = slow.begin()
    result = robot.begin(handle.get_result_async)
    slow.process.send_signal(signal.SIGTERM)
    response = robot.result(result)
    assert response.result.answer.error_code == Answer.ERROR_CANCELLED
    assert slow.wait() == 0


def test_shutting_down_does_not_wait_for_an_operation_that_takes_minutes(robot, start, image):
    # Simulated time stands still: saying goodbye goes by another clock.
    node, said = start({"pause_s": 600}, caption__on_keyframe=False, use_sim_time=True), []
    robot.show(node, image(1.0))
    client = ActionClient(robot.node, AskStream, f"{node.name}/ask_stream", feedback_sub_qos_profile=FEEDBACK_QOS)
    assert client.wait_for_server(robot.patience_s)
    handle = robot.do(client.send_goal_async, AskStream.Goal(question="What?"), said.append)
    result = robot.begin(handle.get_result_async)
    robot.wait(lambda: len(said) > 1)
    node.process.send_signal(signal.SIGTERM)
    answer = robot.result(result).result.answer
    assert answer.error_code == Answer.ERROR_CANCELLED and "cancelled" in answer.error_msg
    assert node.wait() == 0


SHORT_LEASE = """<?xml version="1.0"?>
<profiles xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles">
  <participant profile_name="short" is_default_profile="true"><rtps><builtin><discovery_config>
    <leaseDuration><sec>3</sec></leaseDuration><leaseAnnouncement><sec>1</sec></leaseAnnouncement>
  </discovery_config></builtin></rtps></participant>
</profiles>
"""


def test_a_client_that_is_killed_in_mid_goal_harms_nobody_and_its_goal_ends(robot, start, image, tmp_path):
    node = start({**SLOW, "text": "word " * 1000}, caption__on_keyframe=False)
    robot.show(node, image(1.0))
    profile = tmp_path / "lease.xml"  # Fast DDS then notices in seconds that it is gone, others in their own time
    profile.write_text(SHORT_LEASE)
    script = textwrap.dedent("""
        import sys, rclpy
        from rclpy.action import ActionClient
        from penguin_vl.action import AskStream
        rclpy.init()
        node = rclpy.create_node("doomed")
        client = ActionClient(node, AskStream, sys.argv[1])
        client.wait_for_server()
        goal = AskStream.Goal(question="What?", max_new_tokens=1000)
        client.send_goal_async(goal, lambda message: print("said", flush=True))
        rclpy.spin(node)
    """)
    victim = subprocess.Popen(
        [sys.executable, "-c", script, f"{node.name}/ask_stream"],
        stdout=subprocess.PIPE,
        env={**os.environ, "FASTRTPS_DEFAULT_PROFILES_FILE": str(profile)},
    )
    assert victim.stdout.readline() == b"said\n"
    victim.kill()
    victim.wait()
    answer = robot.call(Ask, f"{node.name}/ask", Ask.Request(question="Still there?", max_new_tokens=1)).answer
    assert answer.error_code == Answer.ERROR_NONE and node.alive
    assert "no client of the action is left" in node.log
