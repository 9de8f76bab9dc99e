"""The lifecycle node `penguin`: cameras in; captions, answers, memory and diagnostics out.

The model is loaded on configure and freed on clean-up; cameras are watched while the node is active. Nothing here
waits: images and questions are left to the worker (penguin_engine/worker.py), which publishes from its own thread.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import InvalidTopicNameException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.validate_topic_name import validate_topic_name
from std_srvs.srv import Trigger

from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.camera_state import CameraState
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.mailbox import Mailbox
from penguin_engine.scene.requests import Outcome, PendingRequest, Question, QuestionQueue
from penguin_engine.scene.session import SceneSession, check_horizon, question_ids, session_capacity
from penguin_engine.scene.worker import SceneWorker
from penguin_models.errors import NotActiveError, PenguinError, SettingError, UnknownCameraError
from penguin_models.processor import Processor
from penguin_ros.nodes import diagnostics, parameters
from penguin_ros.nodes.ask_server import AskServer
from penguin_ros.nodes.cameras import Camera
from penguin_ros.nodes.outputs import Outputs
from penguin_ros.settings import SETTINGS, NodeSettings

OpenModel = Callable[[NodeSettings], tuple[Runtime, Processor]]
_DIAGNOSTICS_PERIOD_S = 1.0


class VlmNode(LifecycleNode):
    """Watches image topics and answers questions; see README.md for its interface."""

    def __init__(self, open_model: OpenModel, name: str = "penguin"):
        """Declares parameters and offers the services; nothing is loaded yet.

        Args:
            open_model: settings -> runtime and processor.
            name: of the node.

        Raises:
            PenguinError: the parameters do not fit each other.
        """
        super().__init__(name)
        self._open_model = open_model
        parameters.declare(self)
        self._settings = parameters.read(self)
        self._runtime: Runtime | None = None
        self._processor: Processor | None = None
        self._worker: SceneWorker | None = None
        self._outputs: Outputs | None = None
        self._cameras: list[Camera] = []
        self._state = "unconfigured"
        self._errors, self._last_error = 0, ""
        self._answers, self._captions = diagnostics.Latencies(), diagnostics.Latencies()
        self._server = AskServer(self, self._make_question, self._submit, self._cancel)
        self.create_service(Trigger, "~/clear_memory", self._on_clear_memory)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        # By the wall clock: diagnostics matter most when simulated time stands still.
        self.create_timer(_DIAGNOSTICS_PERIOD_S, self._on_diagnostics, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.add_on_set_parameters_callback(self._on_parameters)

    # Life

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads the model and opens a session for each camera."""
        return self._transition("configure", self._configure, "inactive")

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribes to the cameras and takes questions."""
        super().on_activate(state)
        return self._transition("activate", self._activate, "active")

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribes and ends all questions as cancelled; the memory is kept."""
        super().on_deactivate(state)
        return self._transition("deactivate", self._deactivate, "inactive")

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees the model."""
        return self._transition("clean up", self._clean_up, "unconfigured")

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Ends everything, from any state."""
        return self._transition("shut down", self._clean_up, "finalized")

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Frees what there is; the node may be configured again."""
        return self._transition("recover", self._clean_up, "unconfigured")

    def destroy_node(self) -> None:
        """Ends the worker and destroys the node."""
        self._clean_up()
        self._server.destroy()
        super().destroy_node()

    def end_questions(self) -> None:
        """Ends all questions as cancelled and takes no more."""
        if self._worker is not None:
            self._worker.pause()

    def abandon_questions(self) -> None:
        """The question that is being answered ends as cancelled at once, even in the middle of an operation."""
        if self._worker is not None:
            self._worker.abandon()

    @property
    def pending(self) -> bool:
        """Whether somebody waits for an answer."""
        return self._server.waiting > 0

    def _transition(self, what: str, work: Callable[[], None], state: str) -> TransitionCallbackReturn:
        try:
            work()
        except Exception as err:  # noqa: BLE001 - rclpy would swallow it without a word
            self._last_error = f"cannot {what}: {err}"
            trace = "" if isinstance(err, PenguinError) else f"\n{traceback.format_exc()}"
            self.get_logger().error(f"{self._last_error}{trace}")
            self._clean_up()
            return TransitionCallbackReturn.FAILURE if what == "configure" else TransitionCallbackReturn.ERROR
        self._state = state
        if what == "activate":
            self._last_error = ""
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        self._settings = settings = parameters.read(self)
        self._errors = 0
        self._answers, self._captions = diagnostics.Latencies(), diagnostics.Latencies()
        self._runtime, self._processor = self._open_model(settings)
        self._check_against_model(settings)
        camera_states = self._camera_states(settings)
        self._outputs = Outputs(self, len(camera_states))
        queue = QuestionQueue(settings["queue_size"])
        self._worker = SceneWorker(self._runtime, self._processor, camera_states, settings.caption, queue, self)
        self._worker.start()
        info = self._runtime.info
        self.get_logger().info(f"{settings['model']} on {info.name}, {info.device}, {info.dtype}")

    def _camera_states(self, settings: NodeSettings) -> list[CameraState]:
        assert self._runtime is not None and self._processor is not None
        names, camera_states = [self._camera_name(topic) for topic in settings["image_topics"]], []
        if len(set(names)) < len(names):
            raise SettingError(f"image_topics is {', '.join(names)} in full, it must name each topic once")
        with ExitStack() as opened:
            for name in names:
                session = SceneSession(self._runtime, self._processor, settings.policy(), settings.memory)
                opened.callback(session.close)
                mailbox = Mailbox(settings["sample_rate_hz"], settings.memory.jump_back_s)
                camera_states.append(CameraState(name, session, mailbox))
            opened.pop_all()
        return camera_states

    def _activate(self) -> None:
        assert self._worker is not None
        reliability, offer = self._settings["image_reliability"], self._worker.offer
        self._cameras = [Camera(self, topic, reliability, offer) for topic in self._settings["image_topics"]]
        self._worker.resume()

    def _deactivate(self) -> None:
        if self._worker is not None:
            self._worker.pause()
        for camera in self._cameras:
            camera.close()
        self._cameras = []

    def _clean_up(self) -> None:
        self._deactivate()
        if self._worker is not None:
            self._worker.stop()
        if self._outputs is not None:
            self._outputs.destroy()
        self._worker = self._outputs = self._runtime = self._processor = None

    # Questions

    def _make_question(self, text: str, cameras: list[str], horizon_s: float, max_new_tokens: int) -> Question:
        if self._processor is None:
            raise NotActiveError(f"the node is {self._state}; configure and activate it")
        limits = self._settings.sampling
        sampling = Sampling(
            max_new_tokens or limits.max_new_tokens, limits.temperature, limits.top_p, limits.top_k, limits.seed
        )
        question_ids(self._processor, text, sampling)
        check_horizon(horizon_s)
        return Question(text, tuple(map(self._camera_name, cameras)), horizon_s, sampling)

    def _camera_name(self, topic: str) -> str:
        try:
            validate_topic_name(topic)
            return self.resolve_topic_name(topic)
        except InvalidTopicNameException as err:
            raise UnknownCameraError(f"{topic!r} names no camera: {' '.join(str(err).split())}") from err

    def _submit(self, question: Question, on_text: Callable[[str, int], None]) -> PendingRequest:
        if self._worker is None:
            raise NotActiveError(f"the node is {self._state}; configure and activate it")
        return self._worker.submit(question, on_text)

    def _cancel(self, pending: PendingRequest) -> None:
        if self._worker is not None:
            self._worker.queue.cancel(pending)

    def _on_clear_memory(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._worker is not None
        if self._worker is None:
            response.message = f"the node is {self._state}: it has no memory"
            return response
        held = sum(len(camera_state.session.memory.frames) for camera_state in self._worker.camera_states.values())
        self._worker.clear()
        response.message = f"{held} frames forgotten"
        return response

    # Parameters

    def _on_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        names = {setting.name: setting for setting in SETTINGS}
        values = {parameter.name: parameter.value for parameter in changed if parameter.name in names}
        try:
            settings = parameters.read(self, values)
            if self._worker is not None:
                fixed = sorted(name for name in self._settings.changes_to(settings) if not names[name].live)
                if fixed:
                    reason = f"{', '.join(fixed)} can change only while the node is unconfigured: clean it up first"
                    return SetParametersResult(successful=False, reason=reason)
                self._check_against_model(settings)
                self._worker.change(partial(self._apply, self._worker, self._settings, settings))
                self._worker.change_frames(partial(self._apply_to_frames, self._worker, self._settings, settings))
        except PenguinError as err:
            return SetParametersResult(successful=False, reason=str(err))
        self._settings = settings
        return SetParametersResult(successful=True)

    def _check_against_model(self, settings: NodeSettings) -> None:
        assert self._runtime is not None and self._processor is not None
        session_capacity(self._runtime, self._processor, settings.memory)
        caption = settings.caption
        question_ids(self._processor, caption.prompt, Sampling(max_new_tokens=caption.max_new_tokens))

    @staticmethod
    def _apply(worker: SceneWorker, before: NodeSettings, after: NodeSettings) -> None:
        """Takes live settings over; in the worker's thread."""
        worker.caption, worker.queue.limit = after.caption, after["queue_size"]
        if "token_budget" in before.changes_to(after):
            for camera_state in worker.camera_states.values():
                camera_state.session.set_budget(after.memory.token_budget)

    @staticmethod
    def _apply_to_frames(worker: SceneWorker, before: NodeSettings, after: NodeSettings) -> None:
        """Takes over what concerns the next frame; in the worker's thread, maybe amid an answer."""
        changed = before.changes_to(after)
        for camera_state in worker.camera_states.values():
            if "sample_rate_hz" in changed:
                camera_state.mailbox.set_rate(after["sample_rate_hz"])
            if any(name.startswith("keyframe.") for name in changed):
                camera_state.session.memory.policy = after.policy()

    # What the worker tells (in its thread)

    def on_memory(self, camera_state: CameraState) -> None:
        """Publishes the memory."""
        assert self._outputs is not None
        self._outputs.memory(camera_state)

    def on_bad_frame(self, camera_state: CameraState) -> None:
        """Warns, at most once a second."""
        text = f"an image of {camera_state.camera} cannot be read: {camera_state.last_error}"
        self.get_logger().warning(text, throttle_duration_sec=1.0)

    def on_caption(self, outcome: Outcome) -> None:
        """Publishes a caption."""
        assert self._outputs is not None
        self._captions.add(outcome.answer)
        age_s = (self.get_clock().now().nanoseconds - outcome.frame.stamp_ns) * 1e-9
        self._outputs.caption(outcome, age_s)

    def on_answer(self, outcome: Outcome) -> None:
        """Counts an answer that was completed."""
        if outcome.answer.ended_by != "cancelled":
            self._answers.add(outcome.answer)

    def on_failure(self, doing: str, error: Exception) -> None:
        """Logs what nobody waits for."""
        self._errors += 1
        self._last_error = f"{doing}: {type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error))
        self.get_logger().error(f"{self._last_error}\n{trace}", throttle_duration_sec=1.0)

    # Diagnostics

    def _on_diagnostics(self) -> None:
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name().lstrip("/")
        worker, settings = self._worker, self._settings
        if self._state != "active" or worker is None or self._runtime is None:
            message.status = [diagnostics.inactive_status(name, self._state, self._last_error)]
        else:
            message.status = [
                diagnostics.node_status(
                    name, worker, settings, self._runtime.info, self._answers, self._captions, self._errors,
                    self._last_error,
                ),
                *diagnostics.camera_statuses(name, self._cameras, worker, settings["camera_timeout_s"]),
            ]  # fmt: skip
        self._diagnostics.publish(message)
