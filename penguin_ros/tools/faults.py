"""What hostile or broken peers do to a node, for the soak: one kind after the other; every request must get a reply."""

from __future__ import annotations

import array
import io
import subprocess
import sys
from itertools import cycle
from time import monotonic
from typing import Any

import numpy as np
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from penguin_vl.action import AskStream
from penguin_vl.srv import Ask
from PIL import Image as Picture
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import CompressedImage, Image

from penguin_models.errors import PenguinError
from penguin_ros.tools.node_client import NodeClient

_AT_ONCE = 50
"""Questions and goals of one flood."""
_PARAMETERS = 5_000
_BOMB_SIDE = 16_000
_JUMP_S = 1_000
_CLIENT_LIVES_S = 5.0


class LostReplyError(PenguinError):
    """The node did not answer a request within its time."""


class Faults:
    """Injects faults.

    Attributes:
        names: Kinds of faults, in turn.
        injected: Number of faults so far.
    """

    def __init__(self, client: NodeClient, node_name: str, raw_topic: str, compressed_topic: str, timeout_s: float):
        self._client, self._node_name, self._timeout_s = client, node_name, timeout_s
        node = client.node
        self._raw = node.create_publisher(Image, raw_topic, 1)
        self._compressed = node.create_publisher(CompressedImage, compressed_topic, 1)
        self._change_state = node.create_client(ChangeState, f"{node_name}/change_state")
        self._set = node.create_client(SetParameters, f"{node_name}/set_parameters")
        bomb = io.BytesIO()
        Picture.new("1", (_BOMB_SIDE, _BOMB_SIDE)).save(bomb, "PNG")
        picture = io.BytesIO()
        Picture.fromarray(np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)).save(picture, "JPEG")
        self._bomb, self._jpeg = bomb.getvalue(), picture.getvalue()
        self._killed: subprocess.Popen[bytes] | None = None
        self._kill_s = 0.0
        self.injected = 0
        kinds = (
            self._bad_raw,
            self._bombs,
            self._damaged,
            self._clock_jump,
            self._transitions,
            self._parameters,
            self._bad_requests,
            self._flood,
            self._killed_client,
        )
        self.names = [kind.__name__.strip("_") for kind in kinds]
        self._kinds = cycle(kinds)

    def inject(self) -> None:
        """Injects the next fault and waits for all replies.

        Raises:
            NoAnswerError, LostReplyError: A request got no reply.
        """
        if self._killed is not None and monotonic() > self._kill_s:
            self._killed.kill()
            self._killed.wait()
            self._killed = None
        next(self._kinds)()
        self.injected += 1

    def close(self) -> None:
        """Ends the client that was to be killed."""
        if self._killed is not None:
            self._killed.kill()
            self._killed.wait()

    def _publish_raw(self, **fields: Any) -> None:
        message = Image(**fields)
        message.header.stamp = self._client.node.get_clock().now().to_msg()
        self._raw.publish(message)

    def _publish_compressed(self, data: bytes, kind: str = "jpeg", offset_s: int = 0) -> None:
        message = CompressedImage(format=kind, data=array.array("B", data))
        message.header.stamp = self._client.node.get_clock().now().to_msg()
        message.header.stamp.sec += offset_s
        self._compressed.publish(message)

    def _bad_raw(self) -> None:
        self._publish_raw(height=2**31, width=2**31, step=1, encoding="rgb8")
        self._publish_raw(height=480, width=640, step=3, encoding="rgb8", data=array.array("B", b"\0" * 100))
        self._publish_raw(height=1, width=1, step=3, encoding="no such encoding", data=array.array("B", b"\0\0\0"))

    def _bombs(self) -> None:
        self._publish_compressed(self._bomb, "png")

    def _damaged(self) -> None:
        self._publish_compressed(self._jpeg[: len(self._jpeg) // 2])
        self._publish_compressed(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "eps")
        self._publish_compressed(b"")

    def _clock_jump(self) -> None:
        for offset_s in (_JUMP_S, -_JUMP_S, 0):
            self._publish_compressed(self._jpeg, offset_s=offset_s)

    def _transitions(self) -> None:
        for number in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE, 99):
            request = ChangeState.Request(transition=Transition(id=number))
            if self._wait(self._change_state.call_async(request)).success:
                raise LostReplyError(f"transition {number} succeeded in an active node")

    def _parameters(self) -> None:
        wrong = ParameterValue(type=200)
        unknown = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value="x" * 10_000)
        for value, count in ((wrong, 10), (unknown, _PARAMETERS)):
            parameters = [Parameter(name=f"unknown_{i}", value=value) for i in range(count)]
            reply = self._wait(self._set.call_async(SetParameters.Request(parameters=parameters)))
            if any(result.successful for result in reply.results) or len(reply.results) != count:
                raise LostReplyError(f"{count} unknown parameters got {len(reply.results)} refusals")

    def _bad_requests(self) -> None:
        for request in (
            Ask.Request(question=""),
            Ask.Request(question="x" * 1_000_000),
            Ask.Request(question="Who?", cameras=["c" * 300]),
            Ask.Request(question="Who?", horizon_s=float("nan")),
            Ask.Request(question="Who?", max_new_tokens=2**32 - 1),
        ):
            if not self._wait(self._client.ask.call_async(request)).answer.error_code:
                raise LostReplyError("a bad request was answered")

    def _flood(self) -> None:
        asked = [self._client.ask.call_async(Ask.Request(question=f"{i}?", max_new_tokens=1)) for i in range(_AT_ONCE)]
        goal = AskStream.Goal(question="Tell me.", max_new_tokens=1)
        sent = [self._client.begin(self._client.stream.send_goal_async, goal) for _ in range(_AT_ONCE)]
        for future in asked:
            self._wait(future)
        handles = [self._wait(future) for future in sent]
        for handle in handles:
            self._wait(self._client.begin(handle.get_result_async))

    def _killed_client(self) -> None:
        """Starts a client that is killed a few seconds later, while it waits for its answer."""
        if self._killed is None:
            command = [sys.executable, "-m", "penguin_ros.cli.main", "ask", "--node", self._node_name]
            self._killed = subprocess.Popen([*command, "Tell me all."], stdout=subprocess.DEVNULL)
            self._kill_s = monotonic() + _CLIENT_LIVES_S

    def _wait(self, future: Any) -> Any:
        return self._client.wait(future, timeout_s=self._timeout_s)
