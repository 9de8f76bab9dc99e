"""The page in a real browser, with a scripted node on the other side: pictures, questions, watches, and who may look.

The console is a process of its own; the node's topics and actions are those of the test's robot.
"""

import array
import io
import os
import re
import signal
import subprocess
import sys
import threading
import uuid

import numpy as np
import pytest
from browser import BROWSER, Page
from PIL import Image as Picture

pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from penguin_vl.action import AskStream, Watch
from penguin_vl.msg import Alert, Answer, GroundedCaption, GroundedObject, MemoryFrame, MemoryState
from rcl_interfaces.srv import GetParameters
from rclpy.action import ActionServer, CancelResponse
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage

from penguin_ros.settings import SETTINGS

TOKEN = "a-token-for-this-test"
LATCHED = QoSProfile(depth=5, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


class ScriptedNode:
    """What the console sees of a node. Its actions go on when the test says so."""

    def __init__(self, robot):
        self.name = f"/test_{uuid.uuid4().hex[:8]}/penguin"
        self.camera = self.name.replace("penguin", "front/compressed")
        self.robot, self.goals, self.cancelled = robot, [], []
        self.go_on = threading.Event()
        advertise = robot.node.create_publisher
        self.images = advertise(CompressedImage, self.camera, 1)
        self.captions = advertise(GroundedCaption, f"{self.name}/captions", LATCHED)
        self.memory = advertise(MemoryState, f"{self.name}/memory{self.camera}", LATCHED)
        self.alerts = advertise(Alert, f"{self.name}/alerts", LATCHED)
        self.diagnostics = advertise(DiagnosticArray, "/diagnostics", 1)
        self.parameters = robot.node.create_service(GetParameters, f"{self.name}/get_parameters", self.values)
        self.servers = [
            ActionServer(robot.node, kind, f"{self.name}/{name}", execute, cancel_callback=self.cancel)
            for kind, name, execute in ((AskStream, "ask_stream", self.answer), (Watch, "watch", self.watch))
        ]

    def close(self):
        for server in self.servers:
            server.destroy()

    def values(self, request, response):
        """Returns the defaults of parameters, except for the scaling."""
        values = {setting.name: setting.default for setting in SETTINGS} | {"mono16_scaling": "full_range"}
        response.values = [Parameter(name, value=values[name]).get_parameter_value() for name in request.names]
        return response

    def cancel(self, handle):
        self.cancelled.append(handle)
        return CancelResponse.ACCEPT

    async def until(self, handle):
        """Waits, without blocking the executor, until the goal is cancelled or may go on."""
        import rclpy

        while not (self.go_on.is_set() or handle.is_cancel_requested):
            future = rclpy.Future(executor=self.robot._executor)
            timer = self.robot.node.create_timer(0.02, lambda future=future: future.done() or future.set_result(None))
            await future
            self.robot.node.destroy_timer(timer)

    async def answer(self, handle):
        self.goals.append(handle.request)
        handle.publish_feedback(AskStream.Feedback(text="A red"))
        await self.until(handle)
        if handle.is_cancel_requested:
            handle.canceled()
            return AskStream.Result(answer=Answer(error_code=Answer.ERROR_CANCELLED, error_msg="cancelled"))
        handle.succeed()
        return AskStream.Result(answer=Answer(text="A red cube.", camera=self.camera, frames_used=3))

    async def watch(self, handle):
        self.goals.append(handle.request)
        alert = Alert(condition=handle.request.condition, camera=self.camera, probability=0.31)
        handle.publish_feedback(Watch.Feedback(alert=alert, judged=4))
        await self.until(handle)
        alert.probability, alert.held_s = 0.93, 2.0
        alert.picture.data = array.array("B", jpeg(200))
        self.alerts.publish(alert)
        handle.succeed()
        return Watch.Result(alert=alert, judged=9)

    def show(self, second):
        """Publishes an image, a caption and a memory that holds the image."""
        image = CompressedImage(format="jpeg", data=array.array("B", jpeg(second)))
        image.header.stamp.sec = second
        cube = GroundedObject(label="<b>red</b> cube", x_min_px=80.0, y_min_px=60.0, x_max_px=160.0, y_max_px=120.0)
        caption = GroundedCaption(header=image.header, camera=self.camera, objects=[cube], text="A <i>cube</i>.")
        caption.image_width_px, caption.image_height_px, caption.total_s = 320, 240, 1.5
        frames = [MemoryFrame(kind=kind, width_px=320, height_px=240, tokens=88) for kind in (0, 1)]
        frames[1].stamp.sec = second
        memory = MemoryState(camera=self.camera, frames=frames, tokens=176, token_budget=512)
        self.images.publish(image)
        self.captions.publish(caption)
        self.memory.publish(memory)
        values = [KeyValue(key="answers", value="7")]
        status = DiagnosticStatus(name=self.name[1:], level=DiagnosticStatus.WARN, message="it is slow", values=values)
        self.diagnostics.publish(DiagnosticArray(status=[status]))

    def show_thermal(self, second):
        """Publishes an image of 16 bits: 10,000 on the left, 12,000 on the right."""
        content, grey = io.BytesIO(), np.full((240, 320), 10_000, np.uint16)
        grey[:, 160:] = 12_000
        Picture.fromarray(grey).save(content, "PNG")
        image = CompressedImage(format="mono16; png compressed", data=array.array("B", content.getvalue()))
        image.header.stamp.sec = second
        self.images.publish(image)


BRIGHTNESS = """(() => { const to = document.createElement("canvas").getContext("2d");
    to.drawImage(document.querySelector("#picture"), 0, 0); return to.getImageData(9, 9, 1, 1).data[0]; })()"""
"""Of the picture on the page, near its left upper corner."""


def jpeg(value):
    content = io.BytesIO()
    Picture.fromarray(np.full((240, 320, 3), value % 256, np.uint8)).save(content, "JPEG")
    return content.getvalue()


@pytest.fixture
def node(robot):
    node = ScriptedNode(robot)
    yield node
    node.go_on.set()
    node.close()


@pytest.fixture
def console(node, tmp_path):
    """Starts the console of the node, and ends it like Ctrl-C does."""
    command = [sys.executable, "-m", "penguin_ros.cli.main", "console", "--node", node.name, "--port", "0"]
    log = (tmp_path / "console.log").open("w+")
    environment = os.environ | {"PENGUIN_CONSOLE_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    read = (tmp_path / "console.log").read_text
    node.robot.wait(lambda: re.search(r"127.0.0.1:(\d+)/", read()) or process.poll() is not None)
    process.port = int(re.search(r"127.0.0.1:(\d+)/", read())[1])
    yield process
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130 and "Traceback" not in read(), read()


@pytest.fixture
def page(tmp_path):
    page = Page(tmp_path / "profile", (400, 800), phone=True)
    yield page
    page.close()


@BROWSER
def test_a_browser_sees_the_node_asks_it_and_watches(robot, node, console, page):
    page.open(f"http://127.0.0.1:{console.port}/#token={TOKEN}")
    text = "document.querySelector('{}').textContent".format
    page.wait(f"{text('#state')} === 'live'")
    assert page.evaluate("location.hash") == "", "the token stays out of the address"
    robot.wait(node.images.get_subscription_count)
    node.show(100)
    # What the camera, the memory and the diagnostics say; texts of the model are texts, whatever they hold.
    page.wait("document.querySelector('#picture').naturalWidth === 320 && !document.querySelector('#frame').hidden")
    page.wait(f"{text('.box span')} === '<b>red</b> cube'")
    assert page.evaluate(text("#caption")) == "A <i>cube</i>."
    page.wait("document.querySelectorAll('.cell')[1].firstChild.naturalWidth === 224")
    assert page.evaluate("document.querySelectorAll('.cell.key').length") == 1
    page.wait(f"{text('.status')}.includes('it is slow')")
    # A thermal image is shown with the node's scaling.
    node.show_thermal(101)
    page.wait(f"Math.abs({BRIGHTNESS} - 10000 / 257) < 4")
    # A question, and one that is stopped.
    page.type("#question", "What is there?")
    page.click("#send")
    page.wait(f"{text('.talk .answer')} === 'A red'")
    assert node.goals[-1].question == "What is there?" and list(node.goals[-1].cameras) == [node.camera]
    node.go_on.set()
    page.wait(f"{text('.talk .answer')} === 'A red cube.'")
    node.go_on.clear()
    page.wait("document.querySelector('#cancel').hidden")
    page.type("#question", "And now?")
    page.click("#send")
    page.wait(f"{text('.talk li:last-child .answer')} === 'A red'")
    page.click("#cancel")
    robot.wait(lambda: node.cancelled)
    page.wait(f"{text('.talk li:last-child .error')} === 'stopped'")
    # A watch.
    page.type("#condition", "a person is lying on the floor")
    page.click("#watch .primary")
    page.wait(f"{text('.watch .faint')}.startsWith('31 % now, 50 % needed')")
    assert node.goals[-1].condition == "a person is lying on the floor" and node.goals[-1].period_s == 1.0
    node.go_on.set()
    page.wait(f"{text('.watch .faint')}.startsWith('it happened')")
    page.wait(f"{text('#alerts')}.includes('93 %') && document.querySelector('#alerts img').naturalWidth === 320")
    page.click(".watch button")
    page.wait("!document.querySelector('.watch')")
    assert page.errors == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than a phone"
    # Nobody looks: no pictures are received.
    page.open("about:blank")
    robot.wait(lambda: not node.images.get_subscription_count())
