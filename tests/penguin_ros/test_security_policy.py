"""The SROS2 policy names what the node and `ask` use on the ROS graph, and nothing else."""

import importlib.util
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from rclpy.node import NodeNameNonExistentError

from penguin_ros.convert import DETECTIONS
from penguin_ros.nodes.annotations import ANNOTATIONS

POLICY = Path(__file__).parents[2] / "launch" / "security" / "penguin.policy.xml"
ACTION_TOPICS, ACTION_SERVICES = ("feedback", "status"), ("send_goal", "get_result", "cancel_goal")
ACTION_USES = {"execute": ("publish", "reply"), "call": ("subscribe", "request")}
PATIENCE_S = 60
MISSING = {
    "/penguin/annotations": ANNOTATIONS is None,  # foxglove_msgs is not installed
    "/penguin/detections": DETECTIONS is None,  # vision_msgs is not installed
    **dict.fromkeys(
        ("/penguin/get_type_description", "/penguin_ask/get_type_description"),
        importlib.util.find_spec("type_description_interfaces") is None,  # ROS 2 Humble
    ),
}


@pytest.fixture
def ask_process(domain):
    """Runs `ask` while it waits for a node that does not exist."""
    code = "from penguin_ros.tools.ask_client import AskClient; AskClient('/penguin', 180).ask('What?')"
    process = subprocess.Popen([sys.executable, "-c", code])
    yield
    process.kill()
    process.wait()


def test_policy_names_what_the_nodes_use(robot, start_node, ask_process):
    node = start_node(image_topics=["image_raw"], use_sim_time=True)
    namespace = node.name.removesuffix("/penguin")
    for name, space in (("penguin", namespace), ("penguin_ask", "/")):
        allowed = {(use, topic) for use, topic in allowed_uses(name) if not MISSING.get(topic)}
        used = partial(graph_uses, robot.node, name, space, namespace)
        with suppress(AssertionError):  # reported below, with the difference
            robot.wait(lambda used=used, allowed=allowed: used() == allowed, PATIENCE_S)
        assert used() == allowed


def test_policy_follows_the_schema():
    policy = pytest.importorskip("sros2.policy", reason="needs sros2").load_policy(POLICY)
    # sros2 0.13 takes a comment between the enclaves for one.
    assert [enclave.get("path") for enclave in policy.find("enclaves")] == ["/penguin", "/penguin_ask"]


def allowed_uses(node):
    """Returns the uses, such as ("publish", "/diagnostics"), that the policy allows a node in the namespace "/"."""
    uses = set()
    for rules in ElementTree.parse(POLICY).find(f".//profile[@ns='/'][@node='{node}']"):
        ((use, qualifier),) = rules.attrib.items()
        assert qualifier == "ALLOW"
        for item in rules:
            name = item.text.replace("~", f"/{node}") if item.text[0] in "~/" else f"/{item.text}"
            if rules.tag == "actions":
                topic_use, service_use = ACTION_USES[use]
                uses |= {(topic_use, f"{name}/_action/{part}") for part in ACTION_TOPICS}
                uses |= {(service_use, f"{name}/_action/{part}") for part in ACTION_SERVICES}
            else:
                uses.add((use, name))
    return uses


def graph_uses(observer, node, space, namespace):
    """Returns what a node uses on the graph, with names as they would be without the test's namespace."""
    lists = {
        "publish": observer.get_publisher_names_and_types_by_node,
        "subscribe": observer.get_subscriber_names_and_types_by_node,
        "reply": observer.get_service_names_and_types_by_node,
        "request": observer.get_client_names_and_types_by_node,
    }
    try:
        return {(use, name.replace(namespace, "")) for use, names in lists.items() for name, _ in names(node, space)}
    except NodeNameNonExistentError:
        return set()
