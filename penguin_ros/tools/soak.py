"""Keeps a node busy for a long time and samples its process: does memory grow, do threads pile up, does it get slower?

Four cameras publish moving pictures; questions come over the service and the action, some are cancelled, memories are
cleared and budgets changed now and then. Faults may be injected besides (faults.py). The node runs in a process of its
own, over DDS.
"""

from __future__ import annotations

import array
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from penguin_vl.action import AskStream
from penguin_vl.msg import Answer, GroundedCaption
from penguin_vl.srv import Ask
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from penguin_models.errors import PenguinError
from penguin_ros.tools.faults import Faults
from penguin_ros.tools.node_client import NodeClient, error_of

SIZE = (240, 320)
_RATE_HZ = 10.0
_STARTING_S = 300.0
_ANSWER_S = 60.0
_PAUSE_S = 0.5
"""Pause between two questions, so that captions are made as well."""
_FAULT_EVERY = 5
"""Questions between two faults."""


class SoakError(PenguinError):
    """The node under test did not start, died, or answered with an error."""


@dataclass(frozen=True)
class Sample:
    """The node's process and its answers during one interval."""

    minute: float  # end of the interval, since the first answer
    resident_mib: float  # resident memory of the process
    threads: int  # threads of the process
    files: int  # open file descriptors of the process
    answers: int  # number of questions answered during the interval
    cancelled: int  # number of those that were cancelled on purpose
    captions: int  # number of captions during the interval
    total_p50_s: float  # median latency of the answers, from the client's side
    total_p95_s: float  # 95th percentile of the latency
    faults: int = 0  # number of faults injected since the start


def process_state(pid: int) -> tuple[float, int, int]:
    """Returns resident MiB, threads and open files of a process; raises SoakError if it is gone."""
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
    faults: Sequence[str] = (),
) -> list[Sample]:
    """Runs the load against a node that subscribes to the topics.

    Args:
        pid: Process of the node.
        node_name: Its full name.
        topics: Topics of images.
        minutes: Duration of the load.
        every_s: Seconds between two samples.
        on_sample: Called with each sample.
        faults: Topics for bad images, one raw and one compressed, to which the node subscribes as well; faults are
            injected if they are given.

    Raises:
        PenguinError: The node did not start, died, did not answer, or answered with an error.
    """
    with closing(_Load(pid, node_name, topics, faults)) as load:
        load.wait_until_it_answers()
        samples, began = [], monotonic()
        while monotonic() - began < minutes * 60:
            sample = load.run_until(monotonic() + every_s, (monotonic() - began + every_s) / 60)
            samples.append(sample)
            on_sample(sample)
        return samples


class _Load:
    """Publishers and clients of one node."""

    def __init__(self, pid: int, node_name: str, topics: Sequence[str], faults: Sequence[str]):
        self._pid = pid
        self._client = NodeClient("soak", node_name)
        node = self._client.node
        self._publishers = [node.create_publisher(Image, topic, 1) for topic in topics]
        self._clear = node.create_client(Trigger, f"{node_name}/clear_memory")
        self._set = node.create_client(SetParameters, f"{node_name}/set_parameters")
        node.create_subscription(GroundedCaption, f"{node_name}/captions", self._on_caption, 10)
        node.create_timer(1 / _RATE_HZ, self._publish)
        self._pause = threading.Event()
        self._captions = self._tick = self._asked = 0
        self._background = np.random.default_rng(0).integers(60, 200, (*SIZE, 3), dtype=np.uint8)
        self._faults = Faults(self._client, node_name, faults[0], faults[1], _ANSWER_S) if faults else None
        self._client.start()

    def close(self) -> None:
        if self._faults is not None:
            self._faults.close()
        self._client.close()

    def wait_until_it_answers(self) -> None:
        deadline = monotonic() + _STARTING_S
        while monotonic() < deadline:
            self._check()
            ready = Ask.Request(question="Ready?", max_new_tokens=1)
            if self._client.ask.wait_for_service(1.0) and self._answered(ready):
                return
            self._pause.wait(_PAUSE_S)
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
                self._answered(Ask.Request(question=f"What is there, question {self._asked}?", max_new_tokens=16))
            durations.append(monotonic() - began)
            self._pause.wait(_PAUSE_S)
            if self._faults is not None and self._asked % _FAULT_EVERY == 1:
                self._faults.inject()
            if self._asked % 50 == 0:
                self._result(self._clear.call_async(Trigger.Request()))
            if self._asked % 30 == 0:
                self._change_budget(1500 if self._asked % 60 else 2500)
        resident, threads, files = process_state(self._pid)
        p50, p95 = (float(np.percentile(durations, share)) for share in (50, 95))
        faults = self._faults.injected if self._faults is not None else 0
        captions = self._captions - captions
        return Sample(minute, resident, threads, files, len(durations), cancelled, captions, p50, p95, faults)

    def _answered(self, request: Ask.Request) -> bool:
        """Asks a question; returns False if the node is still loading or has no frame yet."""
        answer = self._result(self._client.ask.call_async(request)).answer
        if answer.error_code in (Answer.ERROR_INTERNAL, Answer.ERROR_BUSY):
            raise SoakError(f"the node answered with an error: {error_of(answer)}")
        return bool(answer.error_code == Answer.ERROR_NONE)

    def _cancel_one(self) -> int:
        goal = AskStream.Goal(question="Tell me everything.")
        handle = self._client.send_goal(goal, check=self._check, timeout_s=_ANSWER_S)
        self._result(self._client.begin(handle.cancel_goal_async))
        result = self._result(self._client.begin(handle.get_result_async)).result
        return int(result.answer.error_code == Answer.ERROR_CANCELLED)

    def _change_budget(self, tokens: int) -> None:
        value = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=tokens)
        request = SetParameters.Request(parameters=[Parameter(name="token_budget", value=value)])
        (result,) = self._result(self._set.call_async(request)).results
        if not result.successful:
            raise SoakError(f"the node refused a token budget of {tokens}: {result.reason}")

    def _result(self, future: Any) -> Any:
        return self._client.wait(future, self._check, _ANSWER_S)

    def _check(self) -> None:
        process_state(self._pid)

    def _on_caption(self, message: GroundedCaption) -> None:
        self._captions += 1

    def _publish(self) -> None:
        self._tick += 1
        stamp = self._client.node.get_clock().now().to_msg()
        for number, publisher in enumerate(self._publishers):
            picture = self._background.copy()
            x = (self._tick * 3 + 70 * number) % (SIZE[1] - 60)
            picture[80:140, x : x + 60] = (250, 40 * number, 30)
            message = Image(height=SIZE[0], width=SIZE[1], encoding="rgb8", step=SIZE[1] * 3)
            message.data = array.array("B", picture.tobytes())
            message.header.stamp, message.header.frame_id = stamp, f"camera_{number}"
            publisher.publish(message)
