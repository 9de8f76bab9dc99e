"""Measures how long a running node lets questions wait, with one synthetic camera, and what its process holds."""

from __future__ import annotations

import array
import io
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from penguin_vl.msg import Answer, MemoryState
from penguin_vl.srv import Ask
from PIL import Image as Picture
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from penguin_ros.tools.node_client import NodeClient, error_of
from penguin_ros.tools.soak import SoakError, process_state

_STARTING_S = 900.0
_ANSWER_S = 900.0
_PICTURES = 8
_LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


@dataclass(frozen=True)
class Camera:
    """The synthetic camera."""

    topic: str
    width: int = 640
    height: int = 480
    rate_hz: float = 10.0
    compressed: bool = False  # whether it publishes JPEG


def measure(
    pid: int,
    node_name: str,
    camera: Camera,
    minutes: float,
    every_s: float,
    max_new_tokens: int,
    on_answer: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Asks a node every few seconds and returns what was measured from the first answer on.

    Raises:
        PenguinError: The node did not start, died, or answered with an error.
    """
    with closing(_Bench(pid, node_name, camera)) as bench:
        bench.wait_until_ready()
        bench.ask(1)  # the node has seen frames and knows its costs
        bench.start()
        began = monotonic()
        answers: list[dict[str, Any]] = []
        while monotonic() - began < minutes * 60:
            bench.pause_until(began + (len(answers) + 1) * every_s)
            answers.append(bench.ask(max_new_tokens))
            on_answer(answers[-1])
        return bench.result(answers)


class _Bench:
    def __init__(self, pid: int, node_name: str, camera: Camera):
        self._pid, self._camera = pid, camera
        self._client = NodeClient("node_bench", node_name)
        node = self._client.node
        self._messages = _messages(camera)
        self._publisher = node.create_publisher(type(self._messages[0]), camera.topic, 1)
        node.create_timer(1 / camera.rate_hz, self._publish)
        node.create_timer(1.0, self._sample)
        node.create_subscription(MemoryState, f"{node_name}/memory{camera.topic}", self._on_memory, _LATCHED)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._pause = threading.Event()
        self._count = 0
        self.start()
        self._client.start()

    def start(self) -> None:
        """Forgets what was seen so far."""
        self._began = monotonic()
        self._stamps: list[float] = []
        self._loads: list[float] = []
        self._resident: list[float] = []
        self._tokens: set[int] = set()
        self._pace = ""

    def close(self) -> None:
        self._client.close()

    def wait_until_ready(self) -> None:
        deadline = monotonic() + _STARTING_S
        request = Ask.Request(question="Ready?", max_new_tokens=1)
        while monotonic() < deadline:
            self._check()
            if self._client.ask.wait_for_service(1.0):
                answer = self._client.wait(self._client.ask.call_async(request), self._check, _ANSWER_S).answer
                if answer.error_code == Answer.ERROR_NONE:
                    return
            self._pause.wait(0.5)
        raise SoakError(f"the node did not answer within {_STARTING_S:.0f} s of its start")

    def pause_until(self, when: float) -> None:
        while (left := when - monotonic()) > 0:
            self._check()
            self._pause.wait(min(left, 1.0))

    def ask(self, max_new_tokens: int) -> dict[str, Any]:
        request = Ask.Request(question="What has changed?", max_new_tokens=max_new_tokens)
        began = monotonic()
        answer = self._client.wait(self._client.ask.call_async(request), self._check, _ANSWER_S).answer
        if (error := error_of(answer)) is not None:
            raise SoakError(f"the node answered with an error: {error}")
        predicted_s = answer.queue_s + answer.predicted_first_token_s
        return {
            "queue_s": answer.queue_s,
            "first_token_s": answer.queue_s + answer.first_token_s,
            "predicted_s": None if math.isnan(predicted_s) else round(predicted_s, 3),  # NaN without a pace
            "total_s": monotonic() - began,
            "evidence_age_s": answer.evidence_age_s - answer.total_s,
            "frames": answer.frames_used,
            "frames_pending": answer.frames_pending,
            "generated_tokens": answer.generated_tokens,
        }

    def result(self, answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
        seconds = monotonic() - self._began
        gaps = np.diff([self._began, *self._stamps, self._began + seconds])
        parts = np.array_split(self._resident, 4)
        names = ("first_token_s", "queue_s", "total_s", "evidence_age_s")
        return {
            **{name: _percentiles([answer[name] for answer in answers]) for name in names},
            "load": round(float(np.mean(self._loads)), 3) if self._loads else None,
            "sampled_hz": round(len(self._stamps) / seconds, 3),
            "longest_gap_s": round(float(gaps.max()), 2),
            "frame_tokens": sorted(self._tokens),
            "rss_mib": round(max(self._resident), 1),
            "rss_mib_by_quarter": [round(float(np.max(part)), 1) for part in parts if len(part)],
            "pace": self._pace,
            "answers": list(answers),
        }

    def _check(self) -> None:
        process_state(self._pid)

    def _sample(self) -> None:
        with suppress(SoakError):  # the process is gone: the thread that waits for an answer reports it
            self._resident.append(process_state(self._pid)[0])

    def _on_memory(self, message: MemoryState) -> None:
        self._stamps.append(monotonic())
        self._pace = message.pace
        self._tokens.update(frame.tokens for frame in message.frames[-1:])

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for item in message.status[0].values if message.status else ():
            if item.key == "load of looking" and item.value:
                self._loads.append(float(item.value))

    def _publish(self) -> None:
        self._count += 1
        message = self._messages[self._count // 10 % len(self._messages)]
        message.header.stamp = self._client.node.get_clock().now().to_msg()
        self._publisher.publish(message)


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {
        "p50": round(float(np.percentile(values, 50)), 3),
        "p95": round(float(np.percentile(values, 95)), 3),
        "max": round(max(values), 3),
    }


def _messages(camera: Camera) -> list[Any]:
    """Returns pictures in which something moves; a new one is a keyframe."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 255, (camera.height // 20, camera.width // 20, 3), np.uint8)
    background = np.asarray(Picture.fromarray(coarse).resize((camera.width, camera.height)))
    messages: list[Any] = []
    for number in range(_PICTURES):
        rgb = background.copy()
        left = number * camera.width // (_PICTURES + 2)
        rgb[camera.height // 3 : camera.height // 2, left : left + camera.width // 6] = (250, 30 * number, 30)
        if camera.compressed:
            jpeg = io.BytesIO()
            Picture.fromarray(rgb).save(jpeg, "JPEG")
            messages.append(CompressedImage(format="jpeg", data=array.array("B", jpeg.getvalue())))
        else:
            step = camera.width * 3
            message = Image(height=camera.height, width=camera.width, encoding="rgb8", step=step)
            message.data = array.array("B", rgb.tobytes())
            messages.append(message)
    return messages
