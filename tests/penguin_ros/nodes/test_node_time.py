"""The node's time while `/clock` is late, stands still, or advances."""

from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from penguin_ros.nodes import node_time
from penguin_ros.nodes.node_time import NodeTime

WALL_NS = 1_780_000_000 * 10**9


@pytest.fixture
def at(monkeypatch):
    """Returns a function that sets the node's clock and the seconds that have passed, and returns time and trouble."""
    clock = SimpleNamespace(ros_time_is_active=True, now=lambda: SimpleNamespace(nanoseconds=clock.ns), ns=0)
    monkeypatch.setattr(node_time, "monotonic", lambda: clock.passed_s)
    monkeypatch.setattr(node_time.time, "time_ns", lambda: WALL_NS)
    clock.passed_s = 0.0
    times = NodeTime(SimpleNamespace(get_clock=lambda: clock))

    def at(clock_s, passed_s, simulated=True):
        clock.ns, clock.passed_s, clock.ros_time_is_active = round(clock_s * 1e9), passed_s, simulated
        return round(times.now_ns() * 1e-9, 6), times.trouble()

    return at


def test_the_computers_clock_is_used_until_simulated_time_starts(at):
    assert at(0, 0.0) == (WALL_NS * 1e-9, "use_sim_time is true, but nothing has been received on /clock")
    assert at(12.5, 9.0) == (12.5, "")


def test_the_computers_clock_is_used_while_simulated_time_stands_still(at):
    assert at(12.5, 1.0) == at(12.5, 2.9) == (12.5, "")
    assert at(12.5, 3.0) == (WALL_NS * 1e-9, "use_sim_time is true, but /clock stands still at 12.500 s")
    assert at(12.6, 60.0) == (12.6, "")
    assert at(3.0, 60.1) == (3.0, "")  # a bag that loops


def test_time_that_is_not_simulated_may_stand_still(at):
    assert at(5.0, 1.0, simulated=False) == at(5.0, 9.0, simulated=False) == (5.0, "")
