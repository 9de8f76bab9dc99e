"""The console's ROS node: listens to one node and its cameras, asks it, and watches through it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from penguin_vl.action import AskStream, Watch
from penguin_vl.msg import Alert, GroundedCaption, MemoryState
from rcl_interfaces.srv import GetParameters
from rclpy.action import ActionClient
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import NameValidationException
from rclpy.parameter import parameter_value_to_python
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from rclpy.task import Future

from penguin_models.errors import PenguinError
from penguin_models.quoting import quoted, shortened
from penguin_ros.console import events
from penguin_ros.console.goals import Goal
from penguin_ros.console.hub import Event, Hub
from penguin_ros.console.pictures import NEAR_NS, Pictures
from penguin_ros.console.watches import Watches
from penguin_ros.convert import stamp_to_ns
from penguin_ros.nodes.cameras import Camera
from penguin_ros.nodes.context import FEEDBACK_QOS, REQUEST_QOS, ExecutorThread, start_ros
from penguin_ros.nodes.lasting_executor import LastingExecutor
from penguin_ros.nodes.node_time import NodeTime
from penguin_ros.settings import SETTINGS, NodeSettings

HISTORY = {"caption": 60, "answer": 30, "alert": 30, "tokens": 600}
"""How many entries of each kind a browser that connects receives."""
_DEFAULTS = {setting.name: setting.default for setting in SETTINGS}
_SETTINGS = ("camera_timeout_s", "image_reliability", "max_image_pixels", "memory.jump_back_s", "mono16_scaling")
"""Parameters of the node that say how images are received and decoded."""
_MAX_CAMERAS = 64
_MAX_PICTURE_BYTES = 500_000
_FOLLOW_S = 0.5
_GONE = "the node went away"
_LATCHED = QoSProfile(depth=10, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


ShowAnswer = Callable[[Event], None]


class NoNodeError(PenguinError):
    """The console cannot attach to a node of this name."""


class Robot:
    """Attaches to one node, which may come and go.

    Attributes:
        pictures: What the cameras show, while a browser listens.
        alert_pictures: JPEGs of the newest alerts with their numbers.
    """

    def __init__(self, node_name: str, hub: Hub):
        """Initialises ROS and listens to the node. Raises NoNodeError if the name is not valid."""
        start_ros([])
        self._hub, self._name = hub, f"/{node_name.strip('/')}"
        try:
            self._node = rclpy.create_node("penguin_console")
            self._ask, self._watch = self._client(AskStream, "ask_stream"), self._client(Watch, "watch")
        except (NameValidationException, TypeError) as err:  # TypeError: the name is not Unicode
            rclpy.shutdown()
            raise NoNodeError(f"{quoted(node_name)} is not a valid node name; an example is /penguin") from err
        self._settings, self._time = NodeSettings.from_values(_DEFAULTS), NodeTime(self._node)
        self._parameters = self._node.create_client(GetParameters, f"{self._name}/get_parameters")
        self._is_configured = False  # whether the settings are the node's own
        self.pictures = Pictures(self._on_picture, self._on_bad_frame)
        self.alert_pictures: deque[tuple[int, bytes]] = deque(maxlen=HISTORY["alert"])
        self._alerts = 0
        self._memory: dict[str, MemoryState] = {}
        self._unseen_ns: dict[str, int] = {}  # stamp of the newest frame in memory, while it has no thumbnail
        self._memory_topics: dict[str, Any] = {}
        self._cameras: dict[str, Camera] = {}
        self._goals: list[Goal] = []
        self._watches = Watches(partial(self._start_goal, self._watch), self._on_watches)
        self._subscribe()
        self._executor = LastingExecutor(self._node)
        self._thread = ExecutorThread(self._executor)
        self._thread.start()

    def close(self) -> None:
        """Cancels questions and watches, and shuts ROS down."""
        self.call(self._cancel_all)
        self._thread.close()
        self.pictures.close()
        for client in (self._ask, self._watch):
            client.destroy()
        self._node.destroy_node()
        rclpy.shutdown()

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Runs a function in the executor's thread and returns its result or raises its exception."""
        done, outcome = threading.Event(), list[Any]()

        def run() -> None:
            try:
                outcome.append(function(*args))
            except PenguinError as err:
                outcome.append(err)
            finally:
                done.set()

        self._executor.create_task(run)
        done.wait()
        if isinstance(outcome[0], PenguinError):
            raise outcome[0]
        return outcome[0]

    def ask(self, question: str, camera: str, on_text: Callable[[str], None], on_end: ShowAnswer) -> Goal:
        """Asks a question; the answer is also added to the history.

        Args:
            question: Plain text.
            camera: Image topic to look at; "" for all.
            on_text: Called with each piece of the answer.
            on_end: Called once with the answer as the page shows it.
        """

        def end(result: Any, reason: str) -> None:
            if result is None:
                on_end({"kind": "answer", "error": reason, "answer": ""})
                return
            event = events.answer_event(question, result.answer)
            on_end(event)
            self._hub.add_entry(event)

        message = AskStream.Goal(question=question, cameras=[camera] if camera else [])
        goal: Goal = self.call(self._start_goal, self._ask, message, lambda feedback: on_text(feedback.text), end)
        return goal

    def watch(self, goal: Watch.Goal) -> None:
        """Watches for a condition. Raises PenguinError if there are too many watches."""
        self.call(self._watches.start, goal)

    def stop_watch(self, number: int) -> None:
        """Cancels a watch, or removes it from the list if it has ended."""
        self.call(self._watches.stop, number)

    def cancel(self, goal: Goal) -> None:
        """Asks the node to end a question, and does not wait."""
        self._executor.create_task(goal.cancel)

    def log_error(self, text: str) -> None:
        """Logs an error, at most one per second."""
        self._node.get_logger().error(text, throttle_duration_sec=1.0)

    def _cancel_all(self) -> None:
        for goal in self._goals:
            goal.cancel()

    def _client(self, kind: type, name: str) -> ActionClient:
        qos = dict.fromkeys(("goal_service", "result_service", "cancel_service"), REQUEST_QOS)
        named = {f"{part}_qos_profile": profile for part, profile in qos.items()}
        return ActionClient(self._node, kind, f"{self._name}/{name}", feedback_sub_qos_profile=FEEDBACK_QOS, **named)

    def _subscribe(self) -> None:
        for kind, topic, callback, qos in (
            (GroundedCaption, f"{self._name}/captions", self._on_caption, 10),
            (Alert, f"{self._name}/alerts", self._on_alert, _LATCHED),
            (DiagnosticArray, "/diagnostics", self._on_diagnostics, 10),
        ):
            self._node.create_subscription(kind, topic, callback, qos)
        self._node.create_timer(_FOLLOW_S, self._follow_graph, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _follow_graph(self) -> None:
        """Finds the node and its cameras by their topics; images are subscribed to only while a browser listens."""
        prefix, kind = f"{self._name}/memory", "penguin_vl/msg/MemoryState"
        topics = self._node.get_topic_names_and_types()
        published = [name for name, kinds in topics if name.startswith(f"{prefix}/") and kind in kinds]
        names = [name.removeprefix(prefix) for name in sorted(published) if self._node.count_publishers(name)]
        names = names[:_MAX_CAMERAS]
        for camera in names:
            if camera not in self._memory_topics:
                topic = f"{prefix}{camera}"
                subscribed = self._node.create_subscription(MemoryState, topic, self._on_memory, _LATCHED)
                self._memory_topics[camera] = subscribed
        for camera in set(self._memory_topics) - set(names):
            self._node.destroy_subscription(self._memory_topics.pop(camera))
            self._memory.pop(camera, None)
            self._hub.drop_states(f"memory{camera}")
        self._follow_cameras(names if self._hub.listeners else [])
        is_present = self._ask.server_is_ready()
        self._is_configured &= is_present
        if is_present and not self._is_configured and self._parameters.service_is_ready():
            asked = self._parameters.call_async(GetParameters.Request(names=_SETTINGS))
            asked.add_done_callback(self._on_parameters)
        if not is_present:
            for goal in self._goals:
                goal.fail(_GONE)
        silences = {name: camera.silence(self._settings["camera_timeout_s"]) for name, camera in self._cameras.items()}
        state = {"name": self._name, "present": is_present, "watch": self._watch.server_is_ready()}
        self._hub.set_state("node", {"kind": "node", **state, "cameras": names, "silences": silences})

    def _follow_cameras(self, names: list[str]) -> None:
        for name in names:
            if name not in self._cameras:
                self._cameras[name] = Camera(self._node, name, self._settings, self._time, self.pictures.offer)
        for name in set(self._cameras) - set(names):
            self._cameras.pop(name).close()
        for camera in self._cameras.values():
            camera.follow_graph()

    def _on_parameters(self, future: Future[GetParameters.Response]) -> None:
        """Opens the cameras anew with the node's own settings, so that it and the console see the same pictures."""
        response = future.result()
        if self._is_configured or response is None or len(response.values) < len(_SETTINGS):
            return
        values = dict(zip(_SETTINGS, map(parameter_value_to_python, response.values), strict=True))
        self._settings, self._is_configured = NodeSettings.from_values(_DEFAULTS | values), True
        self._follow_cameras([])

    def _on_caption(self, message: GroundedCaption) -> None:
        self.pictures.keep_caption(message.camera, stamp_to_ns(message.header.stamp))
        self._hub.add_entry(events.caption_event(message))

    def _on_memory(self, message: MemoryState) -> None:
        if message.camera in self._memory_topics:
            self._memory[message.camera] = message
            self._hub.add_entry(events.tokens_event(message))
            self._show_memory(message)

    def _show_memory(self, message: MemoryState) -> None:
        stamps_ns = [stamp_to_ns(frame.stamp) for frame in message.frames]
        seen = self.pictures.keep_memory(message.camera, stamps_ns)
        if stamps_ns and stamps_ns[-1] not in seen:
            self._unseen_ns[message.camera] = stamps_ns[-1]
        else:
            self._unseen_ns.pop(message.camera, None)
        self._hub.set_state(f"memory{message.camera}", events.memory_event(message, seen))

    def _on_alert(self, message: Alert) -> None:
        self._alerts += 1
        picture = bytes(message.picture.data)
        has_picture = picture.startswith(b"\xff\xd8") and len(picture) <= _MAX_PICTURE_BYTES
        if has_picture:
            self.alert_pictures.append((self._alerts, picture))
        values = events.alert_values(message)
        self._hub.add_entry({"kind": "alert", "id": self._alerts, "picture": has_picture, **values})

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        name = self._name.lstrip("/")
        own = [status for status in message.status if status.name == name or status.name.startswith(f"{name}: ")]
        if own:
            self._hub.set_state("status", events.status_event(own[: 2 * _MAX_CAMERAS]))

    def _on_picture(self, camera: str, stamp_ns: int) -> None:
        """Tells the browsers, and shows the memory again if its newest frame was there before its picture."""
        self._hub.set_state(f"frame{camera}", {"kind": "frame", "camera": camera, "stamp": str(stamp_ns)})
        memory, unseen_ns = self._memory.get(camera), self._unseen_ns.get(camera)
        if memory is not None and unseen_ns is not None and abs(stamp_ns - unseen_ns) <= NEAR_NS:
            self._executor.create_task(self._show_memory, memory)

    def _on_bad_frame(self, camera: str, err: Exception) -> None:
        text = f"an image of {camera} cannot be shown: {shortened(str(err))}"
        self._node.get_logger().warning(text, throttle_duration_sec=10.0)

    def _on_watches(self, watches: Any) -> None:
        self._hub.set_state("watches", {"kind": "watches", "watches": watches})

    def _start_goal(self, client: ActionClient, message: Any, on_feedback: Any, on_end: Any) -> Goal:
        goal = Goal(client, message, on_feedback, on_end)
        self._goals = [*(other for other in self._goals if not other.ended), goal]
        return goal
