"""The demo's view of a running node: collects what it publishes, and asks it over the service and the action."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from penguin_vl.action import AskStream
from penguin_vl.msg import GroundedCaption, MemoryState
from penguin_vl.srv import Ask
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CompressedImage

from penguin_models.errors import PenguinError
from penguin_models.types import Size
from penguin_ros.convert import answer_dict, grounded_objects, stamp_to_ns
from penguin_ros.nodes.context import FEEDBACK_QOS, start_ros
from penguin_ros.tools.live_score import LiveScore


class DemoFailedError(PenguinError):
    """Something that the demo waits for did not happen."""


def check_diagnostics(statuses: Mapping[str, DiagnosticStatus], node: str, topic: str) -> None:
    """Looks whether all went well.

    Args:
        statuses: newest diagnostics by name.
        node: its name there.
        topic: of its camera.

    Raises:
        DemoFailedError: something went wrong in the node, or an image could not be read.
    """
    for name, count in ((node, "errors"), (f"{node}: {topic}", "failed to convert")):
        values = {item.key: item.value for item in statuses[name].values}
        if values[count] != "0":
            raise DemoFailedError(f"{name}: {values[count]} {count}; its diagnostics say: {statuses[name].message}")


class DemoClient:
    """Listens to one node.

    Attributes:
        captions: all that came.
        compared: how many of them could be compared with the truth about their frame, which can get lost.
        pictures: JPEG of each caption's frame with its objects.
        memory: the newest state.
        statuses: newest diagnostics by name.
        score: what was said against the truth; None where there is no truth.
    """

    def __init__(self, node_name: str, truth_topic: str | None, on_caption: Callable[[GroundedCaption, Any], None]):
        """Listens.

        Args:
            node_name: fully qualified.
            truth_topic: GroundedCaptions with what is certain about each image; None if there are none.
            on_caption: called with each caption and the truth about its frame, None if that is not known.
        """
        self.captions: list[GroundedCaption] = []
        self.compared = 0
        self.pictures: list[bytes] = []
        self.memory: MemoryState | None = None
        self.statuses: dict[str, DiagnosticStatus] = {}
        self.score = LiveScore() if truth_topic else None
        self._truths: dict[int, GroundedCaption] = {}
        self._on_caption_shown = on_caption
        start_ros([])
        self._changed = threading.Condition()
        self._node = rclpy.create_node("penguin_demo")
        for kind, topic, callback in (
            (GroundedCaption, f"{node_name}/captions", self._on_caption),
            (CompressedImage, f"{node_name}/annotated/compressed", self._on_picture),
            (MemoryState, f"{node_name}/memory", self._on_memory),
            (DiagnosticArray, "/diagnostics", self._on_diagnostics),
        ):
            self._node.create_subscription(kind, topic, callback, 10)
        if truth_topic:
            self._node.create_subscription(GroundedCaption, truth_topic, self._on_truth, 50)
        self._ask = self._node.create_client(Ask, f"{node_name}/ask")
        self._stream = ActionClient(
            self._node, AskStream, f"{node_name}/ask_stream", feedback_sub_qos_profile=FEEDBACK_QOS
        )
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, name="executor")
        self._thread.start()

    def close(self) -> None:
        """Stops listening."""
        self._executor.shutdown()
        self._thread.join()
        self._stream.destroy()
        self._node.destroy_node()
        rclpy.shutdown()

    def wait_for(self, what: str, condition: Callable[[], Any], deadline_s: float) -> None:
        """Waits until something is so.

        Raises:
            DemoFailedError: it was not by the deadline on the monotonic clock.
        """
        with self._changed:
            while not condition() and monotonic() < deadline_s:
                self._changed.wait(0.2)  # not everything that is waited for is told here
            if not condition():
                raise DemoFailedError(f"the demo waited in vain for {what}")

    def ask(self, question: str, max_new_tokens: int, deadline_s: float) -> dict[str, Any]:
        """One question over the service.

        Raises:
            DemoFailedError: no answer in time, or an error code.
        """
        self.wait_for("the service", self._ask.service_is_ready, deadline_s)
        response = self._result(self._ask.call_async(Ask.Request(question=question, max_new_tokens=max_new_tokens)),
                                "the service's answer", deadline_s)  # fmt: skip
        return self._checked(question, response)

    def stream(
        self, question: str, max_new_tokens: int, on_text: Callable[[str], None], deadline_s: float
    ) -> dict[str, Any]:
        """One question over the action; pieces of text as they come.

        Raises:
            DemoFailedError: no answer in time, or an error code.
        """
        goal = AskStream.Goal(question=question, max_new_tokens=max_new_tokens)
        self.wait_for("the action", self._stream.server_is_ready, deadline_s)
        accepting = "the action to accept its goal"
        sent = self._call(accepting, deadline_s, self._stream.send_goal_async, goal, lambda m: on_text(m.feedback.text))
        handle = self._result(sent, accepting, deadline_s)
        result = self._call("the action's result", deadline_s, handle.get_result_async)
        return self._checked(question, self._result(result, "the action's result", deadline_s).result)

    def _call(self, what: str, deadline_s: float, request: Callable[..., Any], *args: Any) -> Any:
        """Requests of an action client are made in the executor's thread, else a quick response is lost."""
        return self._result(self._executor.create_task(request, *args), what, deadline_s)

    def _checked(self, question: str, answer: Any) -> dict[str, Any]:
        """An answer for programs, with whether it is right (None where that is not known)."""
        if answer.error_code:
            raise DemoFailedError(f"the node answered with error {answer.error_code}: {answer.error_msg}")
        right = None
        if self.score:
            stamp_ns = stamp_to_ns(answer.header.stamp)
            truth = self._truths.get(stamp_ns)
            said = grounded_objects(answer.objects, _size(truth)) if truth else []
            scored = self.score.answer(question, stamp_ns, answer.answer, said)
            right = scored.right if scored else None
        return {**answer_dict(answer), "right": right}

    def _result(self, future: Any, what: str, deadline_s: float) -> Any:
        future.add_done_callback(lambda _: self._tell())
        self.wait_for(what, future.done, deadline_s)
        return future.result()

    def _tell(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _on_truth(self, message: GroundedCaption) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp)
        self._truths[stamp_ns] = message
        assert self.score is not None
        self.score.see(stamp_ns, grounded_objects(message.objects, _size(message)))

    def _on_caption(self, message: GroundedCaption) -> None:
        self.captions.append(message)
        stamp_ns = stamp_to_ns(message.header.stamp)
        if self.score:
            scored = self.score.caption(stamp_ns, grounded_objects(message.objects, _size(message)))
            self.compared += scored is not None
        self._on_caption_shown(message, self._truths.get(stamp_ns))
        self._tell()

    def _on_picture(self, message: CompressedImage) -> None:
        self.pictures.append(bytes(message.data))
        self._tell()

    def _on_memory(self, message: MemoryState) -> None:
        self.memory = message
        self._tell()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.statuses = self.statuses | {status.name: status for status in message.status}
        self._tell()


def _size(message: GroundedCaption) -> Size:
    return Size(message.image_height_px, message.image_width_px)
