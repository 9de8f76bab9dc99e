"""A client of one running node: the service and the action, served by an executor on a thread of its own."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import rclpy
from penguin_vl.action import AskStream
from penguin_vl.msg import Answer, Evidence, GroundedObject
from penguin_vl.srv import Ask
from rclpy.action import ActionClient
from rclpy.action.client import ClientGoalHandle
from rclpy.exceptions import NameValidationException

from penguin_models.errors import PenguinError
from penguin_models.quoting import quoted, shortened
from penguin_ros.convert import stamp_to_ns
from penguin_ros.nodes.context import FEEDBACK_QOS, REQUEST_QOS, ExecutorThread, start_ros
from penguin_ros.nodes.lasting_executor import LastingExecutor

_CHECK_PERIOD_S = 0.5


class NoAnswerError(PenguinError):
    """A node cannot be asked, refused a goal, or did not answer in time."""


class NodeClient:
    """Asks one node. Waiting for an answer leaves the calling thread free to take Ctrl-C.

    Attributes:
        node: The ROS node; add subscriptions and further clients to it before `start`.
        ask: Client of the service.
        stream: Client of the action.
    """

    def __init__(self, name: str, node_name: str, ros_args: Sequence[str] = ()):
        """Initialises ROS and creates the clients.

        Raises:
            RosArgumentsError: `ros_args` cannot be parsed.
            NoAnswerError: `node_name` is not a valid name of a node.
        """
        start_ros(ros_args)
        try:
            self.node = rclpy.create_node(name)
            self.ask = self.node.create_client(Ask, f"{node_name.rstrip('/')}/ask", qos_profile=REQUEST_QOS)
            self.stream = ActionClient(
                self.node,
                AskStream,
                f"{node_name.rstrip('/')}/ask_stream",
                goal_service_qos_profile=REQUEST_QOS,
                result_service_qos_profile=REQUEST_QOS,
                cancel_service_qos_profile=REQUEST_QOS,
                feedback_sub_qos_profile=FEEDBACK_QOS,
            )
        except (NameValidationException, TypeError) as err:  # TypeError: the name is not Unicode
            rclpy.shutdown()
            raise NoAnswerError(f"{quoted(node_name)} is not a valid node name; an example is /penguin") from err
        self._executor = LastingExecutor(self.node)
        self._thread = ExecutorThread(self._executor)

    def start(self) -> None:
        """Starts the executor's thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and shuts ROS down."""
        self._thread.close()
        self.stream.destroy()
        self.node.destroy_node()
        rclpy.shutdown()

    def wait(self, future: Any, check: Callable[[], None] = lambda: None, timeout_s: float | None = None) -> Any:
        """Returns the result of a future; `check` is called twice a second, and its exception ends the wait.

        Raises:
            NoAnswerError: The timeout passed.
        """
        done = threading.Event()
        future.add_done_callback(lambda _: done.set())
        deadline = None if timeout_s is None else monotonic() + timeout_s
        while not done.wait(_CHECK_PERIOD_S):
            check()
            if deadline is not None and monotonic() > deadline:
                raise NoAnswerError(f"the node did not answer for {timeout_s:.0f} s")
        return future.result()

    def send_goal(
        self,
        goal: AskStream.Goal,
        on_text: Callable[[str], None] = lambda piece: None,
        check: Callable[[], None] = lambda: None,
        timeout_s: float | None = None,
    ) -> ClientGoalHandle:
        """Sends a goal of the action and returns its handle once the node has accepted it.

        Raises:
            NoAnswerError: The node refused the goal, or the timeout passed.
        """
        sent = self.begin(self.stream.send_goal_async, goal, lambda message: on_text(message.feedback.text))
        handle = self.wait(sent, check, timeout_s)
        if not handle.accepted:
            raise NoAnswerError("the node refused the question")
        return handle

    def begin(self, request: Callable[..., Any], *args: Any) -> Any:
        """Makes a request of the action client and returns its future.

        Runs in the executor's thread: an action client registers a request after sending it, and would lose a response
        that another thread has read by then.

        Raises:
            NoAnswerError: A value does not fit into the message.
        """

        def send() -> Any:
            try:
                return request(*args)
            except Exception as err:  # noqa: BLE001 - it would end the executor, and nobody would learn of it
                return NoAnswerError(f"the question cannot be sent: {shortened(str(err.__cause__ or err))}")

        sent = self.wait(self._executor.create_task(send))
        if isinstance(sent, NoAnswerError):
            raise sent
        return sent


def error_of(answer: Answer) -> str | None:
    """Returns what an answer's error code and message say; None if there is no error."""
    return f"{answer.error_msg} (error code {answer.error_code})" if answer.error_code != Answer.ERROR_NONE else None


def answer_dict(message: Answer) -> dict[str, Any]:
    """Returns an answer as plain types for JSON; times are stamps in seconds."""
    return {
        "answer": message.text,
        "objects": [
            {
                "label": o.label,
                "box_px": [o.x_min_px, o.y_min_px, o.x_max_px, o.y_max_px],
                "score": None if math.isnan(o.score) else round(o.score, 4),
                "position": _position_dict(o),
            }
            for o in message.objects
        ],
        "time_ranges": [
            {"start_s": stamp_to_ns(t.start) * 1e-9, "end_s": stamp_to_ns(t.end) * 1e-9} for t in message.time_ranges
        ],
        "malformed_boxes": message.malformed_boxes,
        "camera": message.camera,
        "stamp": stamp_to_ns(message.header.stamp) * 1e-9,
        "frame_id": message.header.frame_id,
        "turns_used": message.turns_used,
        "turns_forgotten": message.turns_forgotten,
        "frames": message.frames_used,
        "frames_pending": message.frames_pending,
        "evidence": [_evidence_dict(item) for item in message.evidence],
        "candidates_judged": message.candidates_judged,
        "candidates_left_out": message.candidates_left_out,
        "evidence_age_s": message.evidence_age_s,
        "tokens": {
            "visual": message.visual_tokens,
            "prompt": message.prompt_tokens,
            "generated": message.generated_tokens,
        },
        "seconds": {"queue": message.queue_s, "first_token": message.first_token_s, "total": message.total_s},
    }


def _position_dict(item: GroundedObject) -> dict[str, Any] | None:
    """Returns the position of an object; None if it is not known."""
    if not item.position_frame_id:
        return None
    place, covariance = item.position, [float(value) for value in item.position_covariance]
    return {"frame_id": item.position_frame_id, "xyz_m": [place.x, place.y, place.z], "covariance_m2": covariance}


def _evidence_dict(item: Evidence) -> dict[str, Any]:
    pose = None
    if item.pose_known:
        place, turn = item.pose.pose.position, item.pose.pose.orientation
        pose = {
            "frame_id": item.pose.header.frame_id,
            "position": [place.x, place.y, place.z],
            "orientation": [turn.x, turn.y, turn.z, turn.w],
        }
    return {
        "episode": item.episode_id,
        "robot": item.robot,
        "camera": item.camera,
        "stamp": stamp_to_ns(item.stamp) * 1e-9,
        "probability": None if math.isnan(item.probability) else round(item.probability, 4),
        "pose": pose,
    }
