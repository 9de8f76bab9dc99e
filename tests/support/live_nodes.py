"""Real nodes in processes of their own, and a robot in the test process that talks to them over DDS.

Only the model's runtime is scripted (scripted_runtime.py); rclpy, the lifecycle and DDS are real.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest

SUPPORT = Path(__file__).parent
PATIENCE_S = 180  # the machine may be busy
DISCOVERY_S = 30
POLL_S = 0.02


@pytest.fixture(scope="session", autouse=True)
def domain():
    """Separates the DDS traffic of test processes on one machine from each other and from robots nearby."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    os.environ["ROS_DOMAIN_ID"] = str(1 + (os.getppid() + int(worker)) % 100)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(SUPPORT / "fast_discovery.xml")


def shower(process, *numbers, pause_s=POLL_S):
    """Sends signals in turn until the process has ended, and returns its exit code."""
    for number in itertools.cycle(numbers):
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(pause_s)
            break
    return process.returncode


class ForkedProcess:
    """A process that scripted_node.py forked; has the methods of subprocess.Popen that tests use."""

    def __init__(self, pid, exit_file):
        self.pid, self.returncode, self._exit_file = pid, None, exit_file

    def poll(self):
        if self.returncode is None and self._exit_file.exists():
            self.returncode = int(self._exit_file.read_text())
        return self.returncode

    def wait(self, timeout):
        deadline = monotonic() + timeout
        while self.poll() is None:
            if monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            sleep(0.005)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class NodeServer:
    """Starts nodes; see scripted_node.py."""

    def __init__(self):
        command = [sys.executable, str(SUPPORT / "scripted_node.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def start(self, script, args, log):
        request = {"script": script, "args": args, "log": str(log), "folder": str(Path.cwd())}
        log.touch()
        self._process.stdin.write(json.dumps(request | {"environment": dict(os.environ)}) + "\n")
        self._process.stdin.flush()
        return ForkedProcess(int(self._process.stdout.readline()), Path(f"{log}.exit"))

    def close(self):
        self._process.communicate()


class NodeProcess:
    """A node with a scripted runtime in a process of its own."""

    def __init__(self, server, log, namespace, script, parameters, args=()):
        self.name = f"{namespace}/penguin"
        self.memory = None  # MemoryState messages received by `Robot.publish_and_wait`
        self._log = log
        args = ["-r", f"__ns:={namespace}", *args]
        for key, value in parameters.items():
            args += ["-p", f"{key}:={json.dumps(value)}"]
        self.process = server.start(script, args, log)

    @property
    def log(self):
        return self._log.read_text()

    @property
    def alive(self):
        return self.process.poll() is None

    def stop(self):
        """Stops the process with SIGINT, as launch does, and returns its exit code."""
        if self.alive:
            self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self):
        """Waits until the process ends by itself and returns its exit code."""
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()


class Robot:
    """Publishes to nodes, calls their services and actions, and collects the messages they publish.

    An executor in a thread of its own runs all callbacks. Commands that run in the test process initialise rclpy's
    default context; the robot then needs another one.
    """

    patience_s = PATIENCE_S

    def __init__(self, context=None):
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from penguin_vl.msg import MemoryState
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import QoSDurabilityPolicy, QoSProfile
        from rclpy.signals import SignalHandlerOptions

        self._memory_state = MemoryState
        self._latched = QoSProfile(depth=10, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
        self._context = context
        rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(f"robot_{uuid.uuid4().hex[:8]}", context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.node)
        self._changed = threading.Condition()
        self._publishers, self._clients, self._action_clients = {}, {}, []
        self.diagnostics = self.subscribe(DiagnosticArray, "/diagnostics")
        self._spinning = True
        self._thread = threading.Thread(target=self._spin)
        self._thread.start()

    def close(self):
        import rclpy

        # Executor.shutdown() doesn't wait for the thread: it destroys the guard conditions that the thread waits on.
        self._executor.create_task(setattr, self, "_spinning", False)
        self._thread.join()
        self._executor.shutdown()
        for client in self._action_clients:  # destroy_node() leaves them
            client.destroy()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def _spin(self):
        while self._spinning:
            self._executor.spin_once()

    def notify(self, *_):
        """Wakes `wait`, so that it checks its condition at once."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, condition, patience_s=PATIENCE_S):
        """Waits until a condition is true and returns its value."""
        deadline = monotonic() + patience_s
        with self._changed:
            while not (result := condition()):
                assert monotonic() < deadline, f"the condition was not met within {patience_s} s"
                self._changed.wait(POLL_S)
        return result

    def subscribe(self, kind, topic, qos=10):
        """Subscribes to a topic and returns the list to which its messages are added."""
        received = []

        def add(message):
            received.append(message)
            self.notify()

        self.node.create_subscription(kind, topic, add, qos)
        return received

    def result(self, future, patience_s=PATIENCE_S):
        """Waits for a future and returns its result."""
        future.add_done_callback(self.notify)
        self.wait(future.done, patience_s)
        return future.result()

    def action_client(self, kind, name):
        """Returns a client of an action as soon as its server is discovered."""
        from rclpy.action import ActionClient

        from penguin_ros.nodes.context import FEEDBACK_QOS

        client = ActionClient(self.node, kind, name, feedback_sub_qos_profile=FEEDBACK_QOS)
        self._action_clients.append(client)
        assert client.wait_for_server(PATIENCE_S), f"there is no action {name}"
        return client

    def request(self, request, *args):
        """Calls a request method of an action client and returns its future.

        The call is made in the executor's thread: a quick response to a call from another thread would be lost.
        """
        return self.result(self._executor.create_task(request, *args))

    def response(self, request, *args):
        """Calls a request method of an action client and returns the response."""
        return self.result(self.request(request, *args))

    def call(self, kind, name, request=None, patience_s=PATIENCE_S):
        """Calls a service and returns its response.

        A new client asks again after a while: a server drops its response if it has not discovered, within 100 ms, the
        client that wants it.
        """
        is_new = name not in self._clients
        if is_new:
            self._clients[name] = self.node.create_client(kind, name)
        client = self._clients[name]
        assert client.wait_for_service(PATIENCE_S), f"there is no service {name}"
        future = client.call_async(request or kind.Request())
        if is_new:
            with contextlib.suppress(AssertionError):
                return self.result(future, min(patience_s, DISCOVERY_S))
            future = client.call_async(request or kind.Request())
        return self.result(future, patience_s)

    def publish_and_wait(self, node, message):
        """Publishes an image and waits until the node reports it in its memory."""
        if node.memory is None:
            node.memory = self.subscribe(self._memory_state, f"{node.name}/memory{node.topic}", self._latched)
        self.publish(node.topic, message)
        self.wait(lambda: node.memory and node.memory[-1].header.stamp == message.header.stamp)

    def destroy_publisher(self, topic):
        self.node.destroy_publisher(self._publishers.pop(topic))

    def publish(self, topic, message):
        """Publishes a message as soon as the topic has a subscriber."""
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


@pytest.fixture(scope="session")
def node_server(domain):
    server = NodeServer()
    yield server
    server.close()


@pytest.fixture
def start_node(robot, node_server, tmp_path):
    """Returns a function that starts a node with a scripted runtime.

    By default the node activates itself, subscribes to `image` and keeps every frame, whatever else the machine does.
    """
    nodes = []

    def start(script=None, autostart=True, args=(), **parameters):
        namespace = f"/test_{uuid.uuid4().hex[:8]}"
        defaults = {
            "model": "scripted",
            "autostart": autostart,
            "image_topics": ["image"],
            "image_reliability": "reliable",  # tests publish single images
            "sample_rate_hz": 0.0,
            "pace": False,
        }
        parameters = {key.replace("__", "."): value for key, value in parameters.items()}
        log = tmp_path / f"node_{len(nodes)}.log"
        node = NodeProcess(node_server, log, namespace, script or {}, {**defaults, **parameters}, args)
        node.topic = f"{namespace}/image"
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        if node.alive:
            assert node.stop() == 0, node.log
        assert "Traceback" not in node.log or getattr(node, "may_fail", False), node.log


@pytest.fixture
def image():
    """Returns a function that makes image messages of one colour."""
    from sensor_msgs.msg import Image

    def make(second, size=(56, 84), value=0, frame_id="optical", encoding="rgb8"):
        rgb = np.full((*size, 3), value % 256, np.uint8)
        message = Image(height=size[0], width=size[1], encoding=encoding, step=size[1] * 3)
        message.data = array.array("B", rgb.tobytes())
        message.header.stamp.sec, message.header.stamp.nanosec = int(second), int(second % 1 * 1e9)
        message.header.frame_id = frame_id
        return message

    return make


@pytest.fixture
def shared_node(robot, idle_node):
    """Returns an active node that receives no images, shared by the tests whose requests do not change it."""
    from penguin_vl.msg import Answer
    from penguin_vl.srv import Ask

    def is_active():
        answer = robot.call(Ask, f"{idle_node.name}/ask", Ask.Request(question="What?")).answer
        return answer.error_code != Answer.ERROR_NOT_LOADED

    robot.wait(is_active)
    return idle_node


@pytest.fixture(scope="session")
def idle_node(node_server, tmp_path_factory):
    """Returns the process of `shared_node`, which may still be loading its model."""
    log = tmp_path_factory.mktemp("shared") / "log"
    node = NodeProcess(node_server, log, "/shared", {}, {"model": "x", "autostart": True})
    yield node
    assert node.stop() == 0, node.log
