"""The lifecycle of the node: transitions, what survives them, and the end of its process."""

import signal
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from builtin_interfaces.msg import Time
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from live_nodes import shower
from node_calls import NO_CAPTIONS, ask, change_state, set_parameter, statuses
from penguin_vl.msg import Answer
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger
from type_description_interfaces.srv import GetTypeDescription


def test_lifecycle_cycles_leak_nothing(robot, start_node, image):
    node = start_node(autostart=False, **NO_CAPTIONS)
    assert ask(robot, node).error_code == Answer.ERROR_NOT_LOADED
    assert not robot.call(Trigger, f"{node.name}/clear_memory").success
    threads, subscriptions, files, resident = [], set(), [], []
    for cycle in range(20):
        assert change_state(robot, node, Transition.TRANSITION_CONFIGURE)
        assert ask(robot, node).error_code == Answer.ERROR_NOT_LOADED
        assert change_state(robot, node, Transition.TRANSITION_ACTIVATE)
        if cycle in (0, 19):
            robot.publish(node.topic, image(1.0 + cycle))
            robot.wait(lambda: ask(robot, node).error_code == 0)
        assert change_state(robot, node, Transition.TRANSITION_DEACTIVATE)
        assert change_state(robot, node, Transition.TRANSITION_CLEANUP)
        if cycle:
            threads.append(_status(node, "Threads"))
            files.append(len([*Path(f"/proc/{node.process.pid}/fd").iterdir()]))
            resident.append(_status(node, "VmRSS"))
            subscriptions.add(len(robot.node.get_subscriber_names_and_types_by_node("penguin", node.name[:-8])))
    assert threads[-1] <= max(threads[:5]), threads
    assert len(subscriptions) == 1, subscriptions
    assert files[-1] <= max(files[:5]), files
    assert resident[-1] - resident[4] < 8 * 1024, resident  # KiB
    assert robot.call(GetState, f"{node.name}/get_state").current_state.label == "unconfigured"


def _status(node, key):
    lines = Path(f"/proc/{node.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def test_memory_survives_deactivation(robot, start_node, image):
    node = start_node(**NO_CAPTIONS)
    robot.publish_and_wait(node, image(1.0))
    assert ask(robot, node).error_code == 0
    assert change_state(robot, node, Transition.TRANSITION_DEACTIVATE)
    assert ask(robot, node).error_code == Answer.ERROR_NOT_LOADED
    assert change_state(robot, node, Transition.TRANSITION_ACTIVATE)
    assert ask(robot, node).frames_used == 1


def test_a_model_that_cannot_be_loaded_leaves_the_node_unconfigured_and_is_reported(robot, start_node):
    node = start_node(autostart=False)
    assert set_parameter(robot, node, "model", "missing").successful
    assert not change_state(robot, node, Transition.TRANSITION_CONFIGURE)
    robot.wait(lambda: "cannot configure: model missing does not exist" in node.log)
    robot.wait(lambda: [s for s in statuses(robot, node.name) if s.level == b"\x02" and "model missing" in s.message])
    assert set_parameter(robot, node, "model", "scripted").successful
    assert change_state(robot, node, Transition.TRANSITION_CONFIGURE)


def test_a_failed_configuration_removes_its_topics(robot, start_node):
    node = start_node({"context_length": 100}, autostart=False)
    assert not change_state(robot, node, Transition.TRANSITION_CONFIGURE)
    assert "cannot configure" in node.log
    topics = dict(robot.node.get_publisher_names_and_types_by_node("penguin", node.name[:-8]))
    assert "/diagnostics" in topics and f"{node.name}/captions" not in topics


def test_two_names_of_one_topic_are_refused(robot, start_node):
    node = start_node(image_topics=["~/image", "penguin/image"])
    assert node.wait() == 1
    assert f"image_topics resolves to {node.name}/image, {node.name}/image; it must name each topic once" in node.log


def test_a_signal_ends_the_process_while_the_model_loads(robot, start_node):
    node = start_node({"load_s": 600})
    robot.wait(lambda: "is being loaded" in node.log)
    assert shower(node.process, signal.SIGTERM) == 0


def test_the_node_answers_while_the_model_loads(robot, start_node):
    node = start_node({"load_s": 600}, autostart=False)
    client = robot.node.create_client(ChangeState, f"{node.name}/change_state")
    assert client.wait_for_service(robot.patience_s)
    configure = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
    configuring = client.call_async(configure)
    robot.wait(lambda: "is being loaded" in node.log)
    answer = ask(robot, node)
    assert answer.error_code == Answer.ERROR_NOT_LOADED
    assert answer.error_msg == "the node is loading its model; ask again when it is active"
    assert robot.call(GetState, f"{node.name}/get_state").current_state.label == "unconfigured"
    robot.wait(lambda: [s for s in statuses(robot, node.name) if s.message == "the node is loading"])
    assert not change_state(robot, node, Transition.TRANSITION_CONFIGURE)  # one load at a time
    refused = set_parameter(robot, node, "model", "other")
    assert not refused.successful and "only while the node is unconfigured" in refused.reason
    assert change_state(robot, node, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    answer = ask(robot, node)
    assert answer.error_code == Answer.ERROR_NOT_LOADED
    assert answer.error_msg == "the node is finalized; start it again"
    assert not configuring.done()


def test_requests_and_messages_that_ros_refuses_leave_the_node_usable_and_its_log_short(robot, start_node):
    node = start_node(autostart=False, use_sim_time=True)
    clock = robot.node.create_publisher(Clock, "/clock", 1000)
    robot.wait(clock.get_subscription_count)
    for _ in range(50):
        clock.publish(Clock(clock=Time(sec=-1)))
        assert not change_state(robot, node, Transition.TRANSITION_ACTIVATE)
        assert not change_state(robot, node, 200)
        forged = ChangeState.Request(transition=Transition(label="x\n[FATAL] forged" * 100))
        assert not robot.call(ChangeState, f"{node.name}/change_state", forged).success
        request = GetTypeDescription.Request(type_name="x", type_hash="y")
        assert "RIHS01_" in robot.call(GetTypeDescription, f"{node.name}/get_type_description", request).failure_reason
    request = SetParameters.Request(parameters=[Parameter(name="model", value=ParameterValue(type=200))])
    (result,) = robot.call(SetParameters, f"{node.name}/set_parameters", request).results
    assert not result.successful and result.reason == "model has type 200; the types of parameters are 0 to 9"
    reason = "subscription /clock: ValueError: Seconds value must not be negative"
    robot.wait(lambda: [s for s in statuses(robot, node.name) if reason in {v.value for v in s.values}])
    warnings = [line.split("]: ")[-1] for line in node.log.splitlines()]
    assert len(warnings) == 2 and {line.split(" (")[0] for line in warnings} == {
        "transition 3 refused in state unconfigured",
        reason,
    }
    assert ask(robot, node).error_msg == "the node is unconfigured; configure and activate it"
    assert change_state(robot, node, Transition.TRANSITION_CONFIGURE)
    assert ask(robot, node).error_msg == "the node is inactive; activate it"


def test_a_failed_automatic_start_ends_the_process(robot, start_node):
    node = start_node(model="missing")
    assert node.wait() == 1
    assert "model missing does not exist" in node.log


def test_invalid_parameters_end_the_process_with_one_line(robot, start_node):
    for parameters, message in (
        ({"token_budget": 3}, "token_budget"),
        ({"image_topics": ["a", "a"]}, "each once"),
        ({"sample_rate_hz": "fast"}, "sample_rate_hz is 'fast', it must be a number"),
        ({"keyframe__policy": "none"}, "one of novelty, reference"),
        ({"image_topics": []}, "image_topics must name at least one topic"),
        ({"image_topics": [""]}, "image_topics must name at least one topic"),
        ({"image_topics": ["a b"]}, "image_topics: 'a b' is not a valid topic name"),
        ({"image_topics": "camera"}, "image_topics is 'camera', it must be a list of strings"),
        ({"token_budget": 400.5}, "token_budget is 400.5, it must be a whole number"),
        ({"token_budget": True}, "token_budget is True, it must be a whole number"),
        ({"use_sim_time": 2}, "use_sim_time"),
    ):
        node = start_node(**parameters)
        assert node.wait() == 1
        (line,) = node.log.splitlines()
        assert line.startswith("error: ") and message in line
