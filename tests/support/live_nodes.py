"""Real nodes in their own processes, and a robot in this one that talks to them over DDS."""

from __future__ import annotations

import array
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

SUPPORT = Path(__file__).parent
PATIENCE_S = 180  # for a machine that does other things as well
CALLS_PER_S = 50


@pytest.fixture(scope="session", autouse=True)
def domain():
    """Test processes on one machine, and robots near it, do not hear each other."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    os.environ["ROS_DOMAIN_ID"] = str(1 + (os.getppid() + int(worker)) % 100)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"


class NodeProcess:
    """The node with a scripted runtime, in a process of its own."""

    def __init__(self, log, namespace, script, parameters):
        self.name = f"{namespace}/penguin"
        self.memory = None  # what `Robot.show` hears of it
        self._log = log
        args = ["-r", f"__ns:={namespace}"]
        for key, value in parameters.items():
            args += ["-p", f"{key}:={json.dumps(value)}"]
        command = [sys.executable, str(SUPPORT / "scripted_node.py"), json.dumps(script), "--ros-args", *args]
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    @property
    def log(self):
        return self._log.read_text()

    @property
    def alive(self):
        return self.process.poll() is None

    def stop(self):
        """Asks it to stop, as launch does; its exit code."""
        if self.alive:
            self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self):
        """Its exit code, when it has ended by itself."""
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()


class Robot:
    """What talks to nodes: publishers, clients, and everything that was heard."""

    patience_s = PATIENCE_S

    def __init__(self):
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from penguin_vl.msg import MemoryState
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import QoSDurabilityPolicy, QoSProfile
        from rclpy.signals import SignalHandlerOptions

        self._memory_state = MemoryState
        self._latched = QoSProfile(depth=10, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(f"robot_{uuid.uuid4().hex[:8]}")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._changed = threading.Condition()
        self._publishers, self._clients = {}, {}
        self.diagnostics = self.hear(DiagnosticArray, "/diagnostics")
        self._thread = threading.Thread(target=self._executor.spin)
        self._thread.start()

    def close(self):
        import rclpy

        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        rclpy.shutdown()

    def tell(self, *_):
        with self._changed:
            self._changed.notify_all()

    def wait(self, condition, patience_s=PATIENCE_S):
        """Waits until a condition holds; what it returned."""
        deadline = monotonic() + patience_s
        with self._changed:
            while not (result := condition()):
                assert monotonic() < deadline, "waited in vain"
                self._changed.wait(1 / CALLS_PER_S)
        return result

    def hear(self, kind, topic, qos=10):
        """A list to which messages are added as they come."""
        heard = []

        def add(message):
            heard.append(message)
            self.tell()

        self.node.create_subscription(kind, topic, add, qos)
        return heard

    def result(self, future, patience_s=PATIENCE_S):
        future.add_done_callback(self.tell)
        self.wait(future.done, patience_s)
        return future.result()

    def begin(self, request, *args):
        """Makes a request of an action client in the executor's thread, else a quick response is lost; its future."""
        return self.result(self._executor.create_task(request, *args))

    def do(self, request, *args):
        """The response to a request of an action client."""
        return self.result(self.begin(request, *args))

    def call(self, kind, name, request=None, patience_s=PATIENCE_S):
        """Calls a service."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
        client = self._clients[name]
        assert client.wait_for_service(PATIENCE_S), f"there is no service {name}"
        return self.result(client.call_async(request or kind.Request()), patience_s)

    def show(self, node, message):
        """Publishes an image and waits until it is in the node's memory."""
        if node.memory is None:
            node.memory = self.hear(self._memory_state, f"{node.name}/memory{node.topic}", self._latched)
        self.publish(node.topic, message)
        self.wait(lambda: node.memory and node.memory[-1].header.stamp == message.header.stamp)

    def leave(self, topic):
        """The publisher of a topic goes."""
        self.node.destroy_publisher(self._publishers.pop(topic))

    def publish(self, topic, message):
        """Publishes once somebody listens."""
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(type(message), topic, 1)
        publisher = self._publishers[topic]
        self.wait(publisher.get_subscription_count)
        publisher.publish(message)


@pytest.fixture
def robot(domain):
    robot = Robot()
    yield robot
    robot.close()


@pytest.fixture
def start(robot, tmp_path):
    """Starts a node that answers as scripted; by default active, watching `image`, with every frame taken."""
    nodes = []

    def start_node(script=None, autostart=True, **parameters):
        namespace = f"/test_{uuid.uuid4().hex[:8]}"
        defaults = {
            "model": "scripted",
            "autostart": autostart,
            "image_topics": ["image"],
            "image_reliability": "reliable",  # tests publish single images
            "sample_rate_hz": 0.0,
        }
        parameters = {key.replace("__", "."): value for key, value in parameters.items()}
        node = NodeProcess(tmp_path / f"node_{len(nodes)}.log", namespace, script or {}, {**defaults, **parameters})
        node.topic = f"{namespace}/image"
        nodes.append(node)
        return node

    yield start_node
    for node in nodes:
        if node.alive:
            assert node.stop() == 0, node.log
        assert "Traceback" not in node.log or getattr(node, "may_fail", False), node.log


@pytest.fixture
def image():
    """Makes image messages of a plain colour."""
    from sensor_msgs.msg import Image

    def make(second, size=(56, 84), value=0, frame_id="optical", encoding="rgb8"):
        rgb = np.full((*size, 3), value % 256, np.uint8)
        message = Image(height=size[0], width=size[1], encoding=encoding, step=size[1] * 3)
        message.data = array.array("B", rgb.tobytes())
        message.header.stamp.sec, message.header.stamp.nanosec = int(second), int(second % 1 * 1e9)
        message.header.frame_id = frame_id
        return message

    return make


@pytest.fixture(scope="session")
def shared_node(domain, tmp_path_factory):
    """One node for requests that leave no trace; it sees nothing."""
    node = NodeProcess(tmp_path_factory.mktemp("shared") / "log", "/shared", {}, {"model": "x", "autostart": True})
    yield node
    assert node.stop() == 0, node.log
