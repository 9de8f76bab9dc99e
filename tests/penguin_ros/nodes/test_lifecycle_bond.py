"""The bond with nav2's lifecycle manager, whose side is the real bondpy where it is installed (ROS package bondpy)."""

import sys
import time

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from node_calls import NO_CAPTIONS

from penguin_models.errors import SettingError
from penguin_ros.nodes import lifecycle_bond
from penguin_ros.nodes.lifecycle_bond import LifecycleBond, check_bond


def test_a_bond_without_bondpy_is_an_error_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "bondpy.bondpy", None)
    check_bond(0.0)
    with pytest.raises(SettingError, match=r"bond_heartbeat_period is 0.1, which needs the ROS package bondpy"):
        check_bond(0.1)


def test_the_manager_has_a_bond_from_activation_to_deactivation(robot, start_node):
    """The node is activated and deactivated twice; the manager's bond follows each time."""
    bondpy = pytest.importorskip("bondpy.bondpy", reason="needs the ROS package bondpy")
    node = start_node(bond_heartbeat_period=0.1, **NO_CAPTIONS)

    def bonded():
        formed = []
        topic = f"{node.name.rpartition('/')[0]}/bond"
        bond = bondpy.Bond(robot.node, topic, "penguin", on_formed=lambda: formed.append(True))
        bond.set_heartbeat_timeout(2.0)
        bond.set_heartbeat_period(0.1)
        bond.start()
        robot.wait(lambda: formed)
        return bond

    def change(transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        assert robot.call(ChangeState, f"{node.name}/change_state", request).success

    robot.wait(lambda: "subscribed to" in node.log)  # active
    for again in (True, False):
        bond = bonded()
        change(Transition.TRANSITION_DEACTIVATE)
        robot.wait(bond.is_broken, 30)
        if again:
            change(Transition.TRANSITION_ACTIVATE)
    assert node.log.count("bonded with the lifecycle manager") == 2 and "not formed or broke" not in node.log


def test_a_manager_that_falls_silent_does_not_end_the_bond(robot, monkeypatch):
    """nav2's nodes ignore it too: a manager that is late would find a broken bond, and take all its nodes down."""
    bondpy = pytest.importorskip("bondpy.bondpy", reason="needs the ROS package bondpy")
    from bond.msg import Status

    monkeypatch.setattr(lifecycle_bond, "_TIMEOUT_S", 0.3)
    heartbeats, name = robot.subscribe(Status, "bond"), robot.node.get_name()
    node = LifecycleBond(robot.node, 0.1)
    manager = bondpy.Bond(robot.node, "bond", name)
    manager.start()
    robot.wait(lambda: node._bond.sm.getState().getName() == "SM.Alive")
    sent = robot.wait(lambda: [beat for beat in heartbeats if beat.instance_id == node._bond.instance_id])
    manager.is_shutdown = True  # ends its thread without a message
    robot.wait(lambda: time.time() > node._bond.heartbeat_timer.deadline + 0.1)
    assert not node._bond.is_broken()
    assert {(beat.id, beat.active, round(beat.heartbeat_period, 3)) for beat in sent} == {(name, True, 0.1)}
    node.close()
