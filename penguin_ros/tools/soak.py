"""Keeps a node busy for a long time and watches its process: does memory grow, do threads pile up, does it get slower?

Four cameras publish moving pictures; questions come over the service and the action, some are cancelled, memories are
cleared and budgets changed now and then. All of it in a process of its own, over DDS.
"""

from __future__ import annotations

import array
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import rclpy
from penguin_vl.action import AskStream
from penguin_vl.msg import GroundedCaption
from penguin_vl.srv import Ask
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from penguin_models.errors import PenguinError
from penguin_ros.nodes.context import FEEDBACK_QOS, start_ros

SIZE = (240, 320)
_RATE_HZ = 10.0
_STARTING_S = 300.0
_ANSWER_S = 60.0
_PAUSE_S = 0.5
"""Between two questions, so that captions have their turn."""


class SoakError(PenguinError):
    """The node under test did not start, died, or stopped answering."""


@dataclass(frozen=True)
class Sample:
    """The node at one moment.

    Attributes:
        minute: since the first answer.
        resident_mib: memory of the process.
        threads: of the process.
        files: open file descriptors of the process.
        answers: questions answered since the last sample.
        cancelled: of them, cancelled on purpose.
        captions: since the last sample.
        total_p50_s: median time of the answers, as who asked sees it.
        total_p95_s: 95th percentile of it.
    """

    minute: float
    resident_mib: float
    threads: int
    files: int
    answers: int
    cancelled: int
    captions: int
    total_p50_s: float
    total_p95_s: float

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def process_state(pid: int) -> tuple[float, int, int]:
    """Resident MiB, threads and open files of a process.

    Raises:
        SoakError: there is no such process any more.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return int(fields["VmRSS"].split()[0]) / 1024, int(fields["Threads"]), files
    except (OSError, KeyError) as err:
        raise SoakError(f"the node's process {pid} is gone") from err


def soak(
    pid: int,
    node_name: str,
    topics: Sequence[str],
    minutes: float,
    every_s: float,
    on_sample: Callable[[Sample], None],
) -> list[Sample]:
    """Runs the load against a node that watches the topics.

    Args:
        pid: of the node's process.
        node_name: full name of the node.
        topics: image topics to publish on.
        minutes: how long.
        every_s: seconds between two samples.
        on_sample: called with each sample.

    Raises:
        SoakError: the node did not start, died or stopped answering.
    """
    load = _Load(pid, node_name, topics)
    try:
        load.wait_until_it_answers()
        samples, began = [], monotonic()
        while monotonic() - began < minutes * 60:
            sample = load.run_until(monotonic() + every_s, (monotonic() - began + every_s) / 60)
            samples.append(sample)
            on_sample(sample)
        return samples
    finally:
        load.close()


class _Load:
    """Publishers and clients in a thread of their own."""

    def __init__(self, pid: int, node_name: str, topics: Sequence[str]):
        self._pid = pid
        start_ros([])
        self._node = rclpy.create_node("soak")
        self._publishers = [self._node.create_publisher(Image, topic, 1) for topic in topics]
        self._ask = self._node.create_client(Ask, f"{node_name}/ask")
        self._clear = self._node.create_client(Trigger, f"{node_name}/clear_memory")
        self._set = self._node.create_client(SetParameters, f"{node_name}/set_parameters")
        self._stream = ActionClient(
            self._node, AskStream, f"{node_name}/ask_stream", feedback_sub_qos_profile=FEEDBACK_QOS
        )
        self._node.create_subscription(GroundedCaption, f"{node_name}/captions", self._on_caption, 10)
        self._node.create_timer(1 / _RATE_HZ, self._publish)
        self._pause = threading.Event()
        self._captions = self._tick = self._asked = 0
        self._background = np.random.default_rng(0).integers(60, 200, (*SIZE, 3), dtype=np.uint8)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, name="executor")
        self._thread.start()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self._stream.destroy()
        self._node.destroy_node()
        rclpy.shutdown()

    def wait_until_it_answers(self) -> None:
        deadline = monotonic() + _STARTING_S
        while (left_s := deadline - monotonic()) > 0:
            process_state(self._pid)
            # While the model is loaded, the service is there and does not answer.
            ready = Ask.Request(question="Ready?", max_new_tokens=1)
            if self._ask.wait_for_service(1.0) and self._call(ready, left_s):
                return
        raise SoakError(f"the node did not answer within {_STARTING_S:.0f} s of its start")

    def run_until(self, deadline: float, minute: float) -> Sample:
        durations: list[float] = []
        cancelled, captions = 0, self._captions
        while monotonic() < deadline:
            self._asked += 1
            began = monotonic()
            if self._asked % 7 == 0:
                cancelled += self._cancel_one()
            else:
                self._call(Ask.Request(question=f"What is there, for the {self._asked}th time?", max_new_tokens=16))
            durations.append(monotonic() - began)
            self._pause.wait(_PAUSE_S)
            if self._asked % 50 == 0:
                self._result(self._clear.call_async(Trigger.Request()))
            if self._asked % 30 == 0:
                self._change_budget(1500 if self._asked % 60 else 2500)
        resident, threads, files = process_state(self._pid)
        p50, p95 = (float(np.percentile(durations, share)) for share in (50, 95))
        return Sample(minute, resident, threads, files, len(durations), cancelled, self._captions - captions, p50, p95)

    def _call(self, request: Ask.Request, patience_s: float = _ANSWER_S) -> bool:
        """Whether the question was answered; there may be nothing to see yet."""
        response = self._result(self._ask.call_async(request), patience_s)
        if response.error_code in (Ask.Response.ERROR_INTERNAL, Ask.Response.ERROR_BUSY):
            raise SoakError(f"the node answered with error {response.error_code}: {response.error_msg}")
        return bool(response.error_code == Ask.Response.ERROR_NONE)

    def _cancel_one(self) -> int:
        handle = self._stream_call(self._stream.send_goal_async, AskStream.Goal(question="Tell me everything."))
        self._stream_call(handle.cancel_goal_async)
        result = self._stream_call(handle.get_result_async).result
        return int(result.error_code == AskStream.Result.ERROR_CANCELLED)

    def _stream_call(self, request: Callable[..., Any], *args: Any) -> Any:
        """Requests of an action client are made in the executor's thread, else a quick response is lost."""
        return self._result(self._result(self._executor.create_task(request, *args)))

    def _change_budget(self, tokens: int) -> None:
        value = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=tokens)
        request = SetParameters.Request(parameters=[Parameter(name="token_budget", value=value)])
        (result,) = self._result(self._set.call_async(request)).results
        if not result.successful:
            raise SoakError(f"the node refused a token budget of {tokens}: {result.reason}")

    def _result(self, future: Any, patience_s: float = _ANSWER_S) -> Any:
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        deadline = monotonic() + patience_s
        while not done.wait(0.5):
            process_state(self._pid)
            if monotonic() > deadline:
                raise SoakError(f"the node did not answer for {patience_s:.0f} s")
        return future.result()

    def _on_caption(self, message: GroundedCaption) -> None:
        self._captions += 1

    def _publish(self) -> None:
        self._tick += 1
        stamp = self._node.get_clock().now().to_msg()
        for number, publisher in enumerate(self._publishers):
            picture = self._background.copy()
            x = (self._tick * 3 + 70 * number) % (SIZE[1] - 60)
            picture[80:140, x : x + 60] = (250, 40 * number, 30)
            message = Image(height=SIZE[0], width=SIZE[1], encoding="rgb8", step=SIZE[1] * 3)
            message.data = array.array("B", picture.tobytes())
            message.header.stamp, message.header.frame_id = stamp, f"camera_{number}"
            publisher.publish(message)
