"""The demo's view of a running node: collects what it publishes, and asks it over the service and the action."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from penguin_vl.action import AskStream
from penguin_vl.msg import Answer, GroundedCaption, MemoryState
from penguin_vl.srv import Ask
from sensor_msgs.msg import CompressedImage

from penguin_models.errors import PenguinError
from penguin_models.grounding import Box, GroundedObject
from penguin_models.types import Size
from penguin_ros.bags import BagClip
from penguin_ros.convert import stamp_to_ns
from penguin_ros.evaluation.bags.ground_truth import read_truth
from penguin_ros.tools.node_client import NodeClient, answer_dict, error_of
from penguin_ros.tools.recorded_depth import RecordedDepth
from penguin_ros.tools.truth_score import TruthScore


class DemoFailedError(PenguinError):
    """Something that the demo waits for did not happen."""


def check_diagnostics(statuses: Mapping[str, DiagnosticStatus], node: str, topic: str) -> None:
    """Raises DemoFailedError if something went wrong in the node, or an image could not be read."""
    for name, count in ((node, "errors"), (f"{node}: {topic}", "failed to convert")):
        values = {item.key: item.value for item in statuses[name].values}
        if values[count] != "0":
            raise DemoFailedError(f"{name}: {values[count]} {count}; its diagnostics say: {statuses[name].message}")


class Recording(NamedTuple):
    """What a bag shows."""

    camera: str  # image topic
    size: Size  # of its images, in pixels
    depth: Path  # bag of a depth camera
    truths: Mapping[int, Sequence[GroundedObject]]  # objects of each image, by its stamp in nanoseconds

    @classmethod
    def open(cls, bag: Path, camera: str, truth_topic: str, depth: Path) -> Recording:
        """Reads the true objects; raises PenguinError if the bag lacks a topic or cannot be read."""
        first, truth = next(iter(BagClip(bag, camera))), read_truth(bag, truth_topic)
        size = Size(*first.rgb.shape[:2])
        truths = {
            stamp_ns: [GroundedObject(item.labels[0], Box.from_pixels(*item.box, size)) for item in objects]
            for stamp_ns, objects in zip(truth.stamps_ns, truth.objects, strict=True)
        }
        return cls(camera, size, depth, truths)


class DemoClient:
    """Listens to one node and asks it.

    Attributes:
        captions: All captions received.
        pictures: JPEG of each caption's frame with its boxes.
        memory: The newest memory state.
        statuses: Newest diagnostics by name.
        score: Score of captions and answers.
        depth: The depth camera, and the errors of positions.
    """

    def __init__(
        self,
        node_name: str,
        recording: Recording,
        on_caption: Callable[[GroundedCaption, Sequence[GroundedObject]], None],
    ):
        """Subscribes; `on_caption` gets each caption and the true objects of its frame."""
        self.captions: list[GroundedCaption] = []
        self.pictures: list[bytes] = []
        self.memory: MemoryState | None = None
        self.statuses: dict[str, DiagnosticStatus] = {}
        self.score = TruthScore(recording.truths)
        self._size = recording.size
        self._on_caption_shown = on_caption
        self._changed = threading.Condition()
        self._client = NodeClient("penguin_demo", node_name)
        self.depth = RecordedDepth(self._client.node, recording.depth, recording.size)
        for kind, topic, callback in (
            (GroundedCaption, f"{node_name}/captions", self._on_caption),
            (CompressedImage, f"{node_name}/annotated/compressed", self._on_picture),
            (MemoryState, f"{node_name}/memory{recording.camera}", self._on_memory),
            (DiagnosticArray, "/diagnostics", self._on_diagnostics),
        ):
            self._client.node.create_subscription(kind, topic, callback, 10)
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

    def questions(self) -> list[str]:
        """Returns questions that the truth about the newest captioned frame answers."""
        return self.score.questions(stamp_to_ns(self.captions[-1].header.stamp))

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
        """Returns an answer as plain types, with whether it is right."""
        if error := error_of(answer):
            raise DemoFailedError(f"the node answered with an error: {error}")
        predicted = self._grounded(answer)
        self.depth.compare(stamp_to_ns(answer.header.stamp), answer.objects)
        scored = self.score.answer(question, stamp_to_ns(answer.header.stamp), answer.text, predicted)
        return {**answer_dict(answer), "right": scored.right if scored else None}

    def _grounded(self, message: GroundedCaption | Answer) -> list[GroundedObject]:
        boxes = [(o.label, (o.x_min_px, o.y_min_px, o.x_max_px, o.y_max_px)) for o in message.objects]
        return [GroundedObject(label, Box.from_pixels(*box, self._size)) for label, box in boxes]

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _on_caption(self, message: GroundedCaption) -> None:
        self.captions.append(message)
        stamp_ns = stamp_to_ns(message.header.stamp)
        self.score.caption(stamp_ns, self._grounded(message))
        self.depth.compare(stamp_ns, message.objects)
        self._on_caption_shown(message, self.score.truths.get(stamp_ns, ()))
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
