"""The demo's view of a running node: collects what it publishes, and asks it over the service and the action."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from penguin_vl.action import AskStream
from penguin_vl.msg import Answer, GroundedCaption, MemoryState
from penguin_vl.msg import GroundedObject as GroundedObjectMessage
from penguin_vl.srv import Ask
from sensor_msgs.msg import CompressedImage

from penguin_models.errors import PenguinError
from penguin_models.grounding import Box, GroundedObject
from penguin_models.types import Size
from penguin_ros.convert import stamp_to_ns
from penguin_ros.tools.node_client import NodeClient, answer_dict, error_of

if TYPE_CHECKING:
    from penguin_ros.tools.live_score import LiveScore


class DemoFailedError(PenguinError):
    """Something that the demo waits for did not happen."""


def check_diagnostics(statuses: Mapping[str, DiagnosticStatus], node: str, topic: str) -> None:
    """Raises DemoFailedError if something went wrong in the node, or an image could not be read."""
    for name, count in ((node, "errors"), (f"{node}: {topic}", "failed to convert")):
        values = {item.key: item.value for item in statuses[name].values}
        if values[count] != "0":
            raise DemoFailedError(f"{name}: {values[count]} {count}; its diagnostics say: {statuses[name].message}")


class DemoClient:
    """Listens to one node and asks it.

    Attributes:
        captions: All captions received.
        compared: Number of captions compared with the truth about their frame, which can get lost.
        pictures: JPEG of each caption's frame with its boxes.
        memory: The newest memory state.
        statuses: Newest diagnostics by name.
        score: Score of captions and answers against the truth; None without a truth topic.
    """

    def __init__(
        self, node_name: str, camera: str, truth_topic: str | None, on_caption: Callable[[GroundedCaption, Any], None]
    ):
        """Subscribes; `on_caption` gets each caption and the truth about its frame, None if that is unknown."""
        self.captions: list[GroundedCaption] = []
        self.compared = 0
        self.pictures: list[bytes] = []
        self.memory: MemoryState | None = None
        self.statuses: dict[str, DiagnosticStatus] = {}
        self.score = _live_score() if truth_topic else None
        self._truths: dict[int, GroundedCaption] = {}
        self._on_caption_shown = on_caption
        self._changed = threading.Condition()
        self._client = NodeClient("penguin_demo", node_name)
        for kind, topic, callback in (
            (GroundedCaption, f"{node_name}/captions", self._on_caption),
            (CompressedImage, f"{node_name}/annotated/compressed", self._on_picture),
            (MemoryState, f"{node_name}/memory{camera}", self._on_memory),
            (DiagnosticArray, "/diagnostics", self._on_diagnostics),
        ):
            self._client.node.create_subscription(kind, topic, callback, 10)
        if truth_topic:
            self._client.node.create_subscription(GroundedCaption, truth_topic, self._on_truth, 50)
        self._client.start()

    def close(self) -> None:
        """Stops listening."""
        self._client.close()

    def wait_for(self, what: str, condition: Callable[[], Any], deadline_s: float) -> None:
        """Waits until a condition holds.

        Raises:
            DemoFailedError: It did not hold by the deadline on the monotonic clock.
        """
        with self._changed:
            while not condition() and monotonic() < deadline_s:
                self._changed.wait(0.2)  # some conditions change without a notification
            if not condition():
                raise DemoFailedError(f"the demo waited in vain for {what}")

    def ask(self, question: str, max_new_tokens: int, deadline_s: float) -> dict[str, Any]:
        """Asks over the service.

        Raises:
            PenguinError: There is no answer in time, or it holds an error code.
        """
        self.wait_for("the service", self._client.ask.service_is_ready, deadline_s)
        request = Ask.Request(question=question, max_new_tokens=max_new_tokens)
        response = self._client.wait(self._client.ask.call_async(request), timeout_s=deadline_s - monotonic())
        return self._checked(question, response.answer)

    def stream(
        self, question: str, max_new_tokens: int, on_text: Callable[[str], None], deadline_s: float
    ) -> dict[str, Any]:
        """Asks over the action, with pieces of text as they are generated.

        Raises:
            PenguinError: There is no answer in time, or it holds an error code.
        """
        self.wait_for("the action", self._client.stream.server_is_ready, deadline_s)
        goal = AskStream.Goal(question=question, max_new_tokens=max_new_tokens)
        handle = self._client.send_goal(goal, on_text, timeout_s=deadline_s - monotonic())
        finished = self._client.begin(handle.get_result_async)
        response = self._client.wait(finished, timeout_s=deadline_s - monotonic())
        return self._checked(question, response.result.answer)

    def _checked(self, question: str, answer: Answer) -> dict[str, Any]:
        """Returns an answer as plain types, with whether it is right (None if that is unknown)."""
        if error := error_of(answer):
            raise DemoFailedError(f"the node answered with an error: {error}")
        right = None
        if self.score:
            stamp_ns = stamp_to_ns(answer.header.stamp)
            truth = self._truths.get(stamp_ns)
            predicted = _grounded_objects(answer.objects, _size(truth)) if truth else []
            scored = self.score.answer(question, stamp_ns, answer.text, predicted)
            right = scored.right if scored else None
        return {**answer_dict(answer), "right": right}

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _on_truth(self, message: GroundedCaption) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp)
        self._truths[stamp_ns] = message
        assert self.score is not None
        self.score.see(stamp_ns, _grounded_objects(message.objects, _size(message)))

    def _on_caption(self, message: GroundedCaption) -> None:
        self.captions.append(message)
        stamp_ns = stamp_to_ns(message.header.stamp)
        if self.score:
            scored = self.score.caption(stamp_ns, _grounded_objects(message.objects, _size(message)))
            self.compared += scored is not None
        self._on_caption_shown(message, self._truths.get(stamp_ns))
        self._notify()

    def _on_picture(self, message: CompressedImage) -> None:
        self.pictures.append(bytes(message.data))
        self._notify()

    def _on_memory(self, message: MemoryState) -> None:
        self.memory = message
        self._notify()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.statuses = self.statuses | {status.name: status for status in message.status}
        self._notify()


def _grounded_objects(messages: Sequence[GroundedObjectMessage], size: Size) -> list[GroundedObject]:
    """Returns the objects of a message about an image of this size, with boxes in thousandths."""
    return [
        GroundedObject(o.label, Box.from_pixels(o.x_min_px, o.y_min_px, o.x_max_px, o.y_max_px, size)) for o in messages
    ]


def _live_score() -> LiveScore:
    from penguin_ros.tools.live_score import LiveScore  # needs the simulated table-top, which a robot may lack

    return LiveScore()


def _size(message: GroundedCaption) -> Size:
    return Size(message.image_height_px, message.image_width_px)
