"""What callbacks raise is counted and logged once; the executor continues with the next callback."""

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import rclpy
from fuzzing import FUZZ
from hypothesis import given, settings
from hypothesis import strategies as st
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from penguin_ros.nodes import lasting_executor
from penguin_ros.nodes.context import start_ros
from penguin_ros.nodes.lasting_executor import LastingExecutor
from penguin_ros.nodes.vlm_node import VlmNode
from penguin_ros.settings import BY_NAME


@pytest.fixture
def ros(domain):
    start_ros([])
    yield
    rclpy.try_shutdown()


@pytest.fixture
def node(ros):
    node = rclpy.create_node("target")
    yield node
    node.destroy_node()


def fail(*args):
    raise ValueError("a callback's reason")


async def fail_later(*args):
    fail()


def subscription(node, callback, **changes):
    subscription = node.create_subscription(Header, "in", callback, 10)
    for name, value in changes.items():
        setattr(subscription, name, value)
    publisher = node.create_publisher(Header, "in", 10)
    return lambda executor: publisher.publish(Header())


def service(node, callback):
    node.create_service(Trigger, "call", callback)
    client = node.create_client(Trigger, "call")
    assert client.wait_for_service(60)
    return lambda executor: client.call_async(Trigger.Request())


def timer(node, callback):
    timer = node.create_timer(0.0, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))
    return lambda executor: executor.create_task(lambda: executor.errors > 1 and timer.cancel())


def guard(node, callback):
    condition = node.create_guard_condition(callback)
    return lambda executor: condition.trigger()


def done_callback(node, callback):
    return lambda executor: executor.create_task(lambda: None).add_done_callback(callback)


FAILURES = {
    "subscription /in": lambda node: subscription(node, fail),
    "subscription /in (coroutine)": lambda node: subscription(node, fail_later),
    "subscription /in (unreadable)": lambda node: subscription(node, print, msg_type=object),
    "service call": lambda node: service(node, fail),
    "timer fail": lambda node: timer(node, fail),
    "guardcondition fail": lambda node: guard(node, fail),
    "task": lambda node: lambda executor: executor.create_task(fail_later),
    "task (done callback)": lambda node: done_callback(node, fail),
}


@pytest.mark.parametrize("what", FAILURES)
def test_the_next_callback_runs_after_one_that_raised(node, what):
    executor, ran = LastingExecutor(node), []
    cause = FAILURES[what](node)
    node.create_service(Trigger, "next", lambda request, response: ran.append(True) or response)
    client = node.create_client(Trigger, "next")
    while executor.errors < 2:
        cause(executor)
        executor.spin_once(1.0)
    assert client.wait_for_service(60)
    answer = client.call_async(Trigger.Request())
    while not answer.done():
        executor.spin_once(60)
    name, _, how = what.partition(" (")
    reason = "AttributeError: " if how == "unreadable)" else "ValueError: a callback's reason"
    assert ran and executor.newest_error.startswith(f"{name}: {reason}")
    executor.shutdown()


def test_a_storm_of_errors_is_two_lines_of_the_log(node, monkeypatch, capfd):
    monkeypatch.setattr(lasting_executor, "_SUMMARY_PERIOD_S", 0.5)
    executor = LastingExecutor(node)
    for _ in range(1000):
        executor.create_task(fail)
    log = ""
    while " more in the last" not in log:
        executor.spin_once(0.1)
        log += capfd.readouterr().err
    first, *summaries = [line.split("[target]: ")[1] for line in log.splitlines() if "[WARN]" in line]
    assert first.startswith("task: ValueError: a callback's reason (")
    assert summaries[0].startswith("task: ValueError: ") and len(summaries) <= 2
    executor.shutdown()


def test_an_executor_whose_ros_was_shut_down_ends(node):
    executor = LastingExecutor(node)
    rclpy.shutdown()
    with pytest.raises((ExternalShutdownException, RuntimeError)):
        executor.spin_once()


def test_a_task_for_an_executor_that_was_shut_down_is_not_run(node):
    executor, ran = LastingExecutor(node), []
    executor.shutdown()
    executor.create_task(ran.append, True)
    assert not ran


@pytest.fixture
def parameter_services(ros):
    node = VlmNode(lambda settings: None)
    yield {service.srv_type: service.callback for service in node.services}
    node.destroy_node()


NUMBERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=True, allow_infinity=True)
TEXT = st.text(max_size=20)
VALUES = st.builds(
    ParameterValue,
    type=st.integers(0, 255) | st.integers(0, 10),
    bool_value=st.booleans(),
    integer_value=NUMBERS,
    double_value=FLOATS,
    string_value=TEXT,
    byte_array_value=st.lists(st.binary(min_size=1, max_size=1), max_size=3),
    double_array_value=st.lists(FLOATS, max_size=3),
    string_array_value=st.lists(TEXT, max_size=3),
)
NAMES = st.sampled_from([*BY_NAME, "use_sim_time", "start_type_description_service"]) | TEXT


def test_every_parameter_sent_gets_a_result(parameter_services):
    @settings(FUZZ, max_examples=FUZZ.max_examples // 10)  # 4 ms each
    @given(st.builds(Parameter, name=NAMES, value=VALUES), st.integers(0, 2))
    def check(parameter, count):
        request = SetParameters.Request(parameters=[parameter] * count)
        results = parameter_services[SetParameters](request, SetParameters.Response()).results
        request = SetParametersAtomically.Request(parameters=request.parameters)
        result = parameter_services[SetParametersAtomically](request, SetParametersAtomically.Response()).result
        assert len(results) == count and all(found == result for found in results)
        assert result.successful or 0 < len(result.reason) < 1000

    check()
