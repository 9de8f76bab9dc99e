"""Questions under load: the executor never blocks, the queue is bounded, and every goal ends."""

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
from node_calls import NO_CAPTIONS, ask, change_state, set_parameter, statuses
from penguin_vl.action import AskStream
from penguin_vl.msg import Answer
from penguin_vl.srv import Ask
from rcl_interfaces.srv import GetParameters
from rclpy.action import ActionClient
from rclpy.qos import QoSProfile
from std_srvs.srv import Trigger

from penguin_ros.nodes.context import FEEDBACK_QOS, REQUEST_QOS

ANSWER = "A [red cube](100,200,300,400). During the period 0.50 - 1.00 seconds."
SLOW = {"token_s": 0.2, "text": "A word " * 100}
STUCK = {"pause_s": 600}
QUICK_S = 0.05


@pytest.fixture
def slow(robot, start_node, image):
    """Returns a node that takes a fifth of a second per token."""
    return ready(robot, start_node, image, SLOW)


@pytest.fixture
def stuck(robot, start_node, image):
    """Returns a node whose runtime takes ten minutes for the third token of an answer, until the test is over."""
    node = ready(robot, start_node, image, {**STUCK, "time_images": True})
    yield node
    node.process.send_signal(signal.SIGUSR1)


def ready(robot, start_node, image, script, **parameters):
    """Starts a node with one frame in memory, a queue of two questions and an action client."""
    node = start_node(script, queue_size=2, **NO_CAPTIONS, **parameters)
    robot.publish_and_wait(node, image(1.0))
    goal = AskStream.Goal(question="What?")
    node.client = robot.action_client(AskStream, f"{node.name}/ask_stream")

    def start_goal():
        """Sends a goal and returns its handle as soon as text streams."""
        pieces = []

        def feedback(message):
            pieces.append(message.feedback)
            robot.notify()

        handle = robot.response(node.client.send_goal_async, goal, feedback)
        assert handle.accepted
        robot.wait(lambda: pieces)
        handle.pieces = pieces
        return handle

    node.start_goal = start_goal
    return node


def result_of(robot, handle):
    return robot.response(handle.get_result_async)


def is_quick(call):
    """Returns whether one of 50 calls is quick: the machine may be busy, but the executor must not be."""

    def duration_s():
        start_s = monotonic()
        call()
        return monotonic() - start_s

    return any(duration_s() < QUICK_S for _ in range(50))


def test_the_executor_never_blocks_while_an_answer_is_generated(robot, stuck, image):
    """One operation of the runtime lasts longer than this test; if it blocked the executor, no call would return."""
    handle = stuck.start_goal()
    result = robot.request(handle.get_result_async)
    robot.wait(lambda: len(handle.pieces) == 3)
    names = GetParameters.Request(names=["model"])
    for name, call in {
        "reading parameters": lambda: robot.call(GetParameters, f"{stuck.name}/get_parameters", names),
        "changing parameters": lambda: set_parameter(robot, stuck, "queue_size", 5),
        "refusing a question": lambda: ask(robot, stuck, " "),
        "clearing the memory": lambda: robot.call(Trigger, f"{stuck.name}/clear_memory"),
        "cancelling a goal": lambda: robot.response(handle.cancel_goal_async),
    }.items():
        assert is_quick(call), name
    assert not result.done()


def test_images_are_taken_at_once_while_an_answer_is_generated_and_the_newest_replaces_the_others(robot, stuck, image):
    handle = stuck.start_goal()
    robot.wait(lambda: len(handle.pieces) == 3)

    def delays_s():
        return [int(line.split()[-2]) * 1e-9 for line in stuck.log.splitlines() if line.startswith("image handed")]

    def is_one_quick():
        return any(0 < s < QUICK_S for s in delays_s()[1:])

    sent = 1
    while sent < 4 or (sent < 50 and not is_one_quick()):
        robot.publish(stuck.topic, image(time.time()))
        sent += 1
        robot.wait(lambda: len(delays_s()) == sent)  # noqa: B023
    assert is_one_quick()
    camera = f"{stuck.name}: {stuck.topic}"
    values = robot.wait(lambda: (v := values_of(robot, camera)).get("images") == str(sent) and v)
    assert values["dropped"] == str(sent - 2)  # all but the first, which is in memory, and the newest, which waits


def values_of(robot, name):
    """Returns the values of the newest diagnostics of a name, and their message under the key ""."""
    for status in statuses(robot, name)[:1]:
        return {item.key: item.value for item in status.values} | {"": status.message}
    return {}


def test_a_question_includes_the_frames_that_arrived_during_the_previous_answer(robot, slow, image):
    handle = slow.start_goal()
    result = robot.request(handle.get_result_async)
    for second in (2, 3, 4):
        robot.publish_and_wait(slow, image(second))
    assert not result.done()
    client = robot.node.create_client(Ask, f"{slow.name}/ask")
    assert client.wait_for_service(robot.patience_s)
    next_answer = client.call_async(Ask.Request(question="?", max_new_tokens=1))
    robot.response(handle.cancel_goal_async)
    assert robot.result(result).result.answer.frames_used == 1
    answer = robot.result(next_answer).answer
    assert (answer.error_code, answer.frames_used, answer.header.stamp.sec) == (Answer.ERROR_NONE, 4, 4)


def test_the_feedback_adds_up_to_the_answer(robot, start_node, image):
    node = start_node(**NO_CAPTIONS)
    robot.publish_and_wait(node, image(1.0))
    client = robot.action_client(AskStream, f"{node.name}/ask_stream")
    # Read from the topic: rclpy's action client drops the feedback that it has not read when a goal's result arrives.
    received = robot.subscribe(AskStream.Impl.FeedbackMessage, f"{node.name}/ask_stream/_action/feedback", FEEDBACK_QOS)
    goal = AskStream.Goal(question="What?")
    while not received:  # the node has not discovered the subscriber yet
        result_of(robot, robot.response(client.send_goal_async, goal))
    handle = robot.response(client.send_goal_async, goal)
    response = result_of(robot, handle)
    assert response.status == GoalStatus.STATUS_SUCCEEDED and response.result.answer.error_code == 0
    assert response.result.answer.text == "A red cube. During the period 0.50 - 1.00 seconds."

    def pieces():
        return [message.feedback for message in received if message.goal_id == handle.goal_id]

    robot.wait(lambda: "".join(p.text for p in pieces()) == ANSWER)
    assert [p.generated_tokens for p in pieces()] == sorted(p.generated_tokens for p in pieces())
    assert response.result.answer.objects[0].label == "red cube"


def test_a_cancelled_goal_returns_its_text_so_far(robot, slow):
    handle = slow.start_goal()
    robot.response(handle.cancel_goal_async)
    response = result_of(robot, handle)
    assert response.status == GoalStatus.STATUS_CANCELED
    assert response.result.answer.error_code == Answer.ERROR_CANCELLED
    assert response.result.answer.text.startswith("A") and "cancelled" in response.result.answer.error_msg
    assert response.result.answer.frames_used == 1


def test_a_parameter_changed_during_an_answer_applies_to_the_next_one(robot, slow):
    handle = slow.start_goal()
    assert set_parameter(robot, slow, "answer.max_new_tokens", 2).successful
    robot.wait(lambda: len(handle.pieces) > 3)  # the running answer keeps its own limit
    robot.response(handle.cancel_goal_async)
    assert result_of(robot, handle).result.answer.generated_tokens > 2
    assert ask(robot, slow).generated_tokens == 2


def test_a_waiting_goal_can_be_cancelled(robot, slow):
    running, waiting = slow.start_goal(), robot.response(slow.client.send_goal_async, AskStream.Goal(question="Later?"))
    robot.response(waiting.cancel_goal_async)
    response = result_of(robot, waiting)
    assert response.status == GoalStatus.STATUS_CANCELED and response.result.answer.text == ""
    robot.response(running.cancel_goal_async)
    result_of(robot, running)


def test_a_full_queue_refuses_questions_and_goals_at_once(robot, stuck):
    running = stuck.start_goal()
    result = robot.request(running.get_result_async)
    waiting = [robot.response(stuck.client.send_goal_async, AskStream.Goal(question="Later?")) for _ in range(2)]
    values = robot.wait(lambda: (v := values_of(robot, stuck.name)).get("questions waiting") == "2" and v)
    assert values["question running"] == "True" and "the queue of questions is full" in values[""]
    refused = ask(robot, stuck)
    assert refused.error_code == Answer.ERROR_BUSY and "2 questions are waiting" in refused.error_msg
    goal = robot.response(stuck.client.send_goal_async, AskStream.Goal(question="And now?"))
    response = result_of(robot, goal)
    assert response.status == GoalStatus.STATUS_ABORTED
    assert response.result.answer.error_code == Answer.ERROR_BUSY
    assert not result.done()
    robot.wait(lambda: values_of(robot, stuck.name)["questions refused"] == "2")
    for handle in waiting:
        robot.response(handle.cancel_goal_async)
        assert result_of(robot, handle).status == GoalStatus.STATUS_CANCELED


def test_a_thousand_questions_at_once_are_all_refused_with_a_reason(robot, stuck):
    """All but the two that fit the queue; the client keeps every reply, those of the other services as well."""
    stuck.start_goal()
    others = []
    for kind, name in ((Trigger, "clear_memory"), (GetParameters, "get_parameters")):
        other = robot.node.create_client(kind, f"{stuck.name}/{name}", qos_profile=REQUEST_QOS)
        assert other.wait_for_service(robot.patience_s)
        others += robot.request(lambda: [other.call_async(kind.Request()) for _ in range(200)])  # noqa: B023
    client = robot.node.create_client(Ask, f"{stuck.name}/ask", qos_profile=REQUEST_QOS)
    assert client.wait_for_service(robot.patience_s)
    calls = robot.request(lambda: [client.call_async(Ask.Request(question="What?")) for _ in range(1000)])
    robot.wait(lambda: sum(call.done() for call in calls) == 998)
    codes = [call.result().answer.error_code for call in calls if call.done()]
    assert codes == [Answer.ERROR_BUSY] * 998
    robot.wait(lambda: all(call.done() for call in others))


def test_two_hundred_goals_at_once_all_end(robot, stuck):
    stuck.start_goal()
    client = ActionClient(
        robot.node,
        AskStream,
        f"{stuck.name}/ask_stream",
        goal_service_qos_profile=REQUEST_QOS,
        result_service_qos_profile=REQUEST_QOS,
    )
    assert client.wait_for_server(robot.patience_s)
    sent = robot.request(lambda: [client.send_goal_async(AskStream.Goal(question="?")) for _ in range(200)])
    robot.wait(lambda: all(goal.done() for goal in sent))
    results = robot.request(lambda: [goal.result().get_result_async() for goal in sent])
    robot.wait(lambda: sum(result.done() for result in results) == 198)
    statuses = {result.result().status for result in results if result.done()}
    assert statuses == {GoalStatus.STATUS_ABORTED}
    robot.request(client.destroy)  # in the executor's thread, which waits for it


def test_of_thirty_questions_the_two_that_fit_the_queue_are_answered(robot, slow):
    handle = slow.start_goal()
    result = robot.request(handle.get_result_async)
    client = robot.node.create_client(Ask, f"{slow.name}/ask", qos_profile=QoSProfile(depth=100))
    assert client.wait_for_service(robot.patience_s)
    futures = [client.call_async(Ask.Request(question=f"{n}?", max_new_tokens=1)) for n in range(30)]
    robot.wait(lambda: sum(f.done() for f in futures) >= 28)
    assert not result.done()
    assert {f.result().answer.error_code for f in futures if f.done()} == {Answer.ERROR_BUSY}
    robot.response(handle.cancel_goal_async)
    codes = [robot.result(f).answer.error_code for f in futures]
    assert codes.count(Answer.ERROR_NONE) == 2


def test_parameters_can_change_repeatedly_under_load(robot, start_node, image):
    node = start_node(sample_rate_hz=10.0, token_budget=600, queue_size=20)
    robot.publish_and_wait(node, image(1.0))
    second = count(2)
    timer = robot.node.create_timer(0.03, lambda: robot.publish(node.topic, image(next(second), (112, 84))))
    client = robot.node.create_client(Ask, f"{node.name}/ask")
    assert client.wait_for_service(robot.patience_s)
    values = {
        "token_budget": (100, 900),
        "sample_rate_hz": (0.0, 5.0),
        "keyframe.threshold": (5.0, 60.0),
        "caption.prompt": ("What?", "Where?"),
    }
    answers = []
    for number in range(10):
        answers.append(client.call_async(Ask.Request(question=f"{number}?", max_new_tokens=5)))
        for name, choices in values.items():
            assert set_parameter(robot, node, name, choices[number % 2]).successful
    assert {robot.result(answer).answer.error_code for answer in answers} == {Answer.ERROR_NONE}
    robot.wait(lambda: node.memory[-1].token_budget == 900 and node.memory[-1].tokens > 100)
    timer.cancel()
    assert all(state.tokens <= state.token_budget for state in node.memory)
    assert {state.token_budget for state in node.memory} <= {600, 100, 900}


@pytest.mark.parametrize("transition", [Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVE_SHUTDOWN])
def test_deactivation_and_shutdown_end_running_and_waiting_goals(robot, slow, transition):
    running, waiting = slow.start_goal(), robot.response(slow.client.send_goal_async, AskStream.Goal(question="Later?"))
    assert change_state(robot, slow, transition)
    for handle in (running, waiting):
        response = result_of(robot, handle)
        assert response.status == GoalStatus.STATUS_ABORTED
        assert response.result.answer.error_code == Answer.ERROR_CANCELLED


def test_a_signal_ends_goals_with_a_result(robot, slow):
    handle = slow.start_goal()
    result = robot.request(handle.get_result_async)
    slow.process.send_signal(signal.SIGTERM)
    response = robot.result(result)
    assert response.result.answer.error_code == Answer.ERROR_CANCELLED
    assert slow.wait() == 0


def test_a_signal_does_not_wait_for_an_operation_that_takes_minutes(robot, start_node, image):
    # Simulated time stands still: the shutdown must use another clock.
    node = ready(robot, start_node, image, STUCK, use_sim_time=True)
    handle = node.start_goal()
    result = robot.request(handle.get_result_async)
    robot.wait(lambda: len(handle.pieces) > 1)
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


def test_the_goal_of_a_killed_client_ends_and_the_node_answers_others(robot, start_node, image, tmp_path):
    node = start_node({**SLOW, "text": "word " * 1000}, **NO_CAPTIONS)
    robot.publish_and_wait(node, image(1.0))
    profile = tmp_path / "lease.xml"  # so that Fast DDS notices within seconds that the client is gone
    profile.write_text(SHORT_LEASE)
    script = textwrap.dedent("""
        import sys, rclpy
        from rclpy.action import ActionClient
        from penguin_vl.action import AskStream
        rclpy.init()
        node = rclpy.create_node("client")
        client = ActionClient(node, AskStream, sys.argv[1])
        client.wait_for_server()
        goal = AskStream.Goal(question="What?", max_new_tokens=1000)
        client.send_goal_async(goal, lambda message: print("streaming", flush=True))
        rclpy.spin(node)
    """)
    client = subprocess.Popen(
        [sys.executable, "-c", script, f"{node.name}/ask_stream"],
        stdout=subprocess.PIPE,
        env={**os.environ, "FASTRTPS_DEFAULT_PROFILES_FILE": str(profile)},
    )
    assert client.stdout.readline() == b"streaming\n"
    client.kill()
    client.wait()
    assert ask(robot, node, max_new_tokens=1).error_code == Answer.ERROR_NONE and node.alive
    assert "no client of the action is left" in node.log
