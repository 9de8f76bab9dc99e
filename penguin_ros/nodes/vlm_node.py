"""The lifecycle node `penguin`: cameras in; captions, answers, memory and diagnostics out.

The model is loaded on configure (loading_node.py) and freed on clean-up; cameras are observed while the node is active.
Nothing here blocks: images and questions are left to the worker (penguin_engine/scene/worker.py), whose results
outputs.py publishes.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from penguin_engine.scene.episode_backend import EpisodeReader
from penguin_engine.scene.json_answers import grammar_of
from penguin_engine.scene.requests import PendingRequest, Request, RequestQueue
from penguin_engine.scene.watches import Watches
from penguin_engine.scene.worker import SceneWorker, known_camera
from penguin_models.errors import EpisodeError, NotActiveError, PenguinError
from penguin_ros.convert import stamp_to_ns
from penguin_ros.nodes import diagnostics, parameters
from penguin_ros.nodes.ask_server import AskGoal, AskServer
from penguin_ros.nodes.cameras import camera_name, camera_names
from penguin_ros.nodes.configured import Configured
from penguin_ros.nodes.context import REQUEST_QOS
from penguin_ros.nodes.lasting_executor import LastingExecutor
from penguin_ros.nodes.loaded import Loaded, OpenModel, load
from penguin_ros.nodes.loading_node import LoadingLifecycleNode
from penguin_ros.nodes.node_time import NodeTime
from penguin_ros.nodes.rcl_errors import middleware_errors
from penguin_ros.nodes.recall_server import RecallServer
from penguin_ros.nodes.watch_server import WatchServer
from penguin_ros.settings import BY_NAME, SETTINGS, NodeSettings

_DIAGNOSTICS_PERIOD_S = 1.0
_GRAPH_PERIOD_S = 0.25
_REFUSALS = {
    "unconfigured": "the node is unconfigured; configure and activate it",
    "loading": "the node is loading its model; ask again when it is active",
    "inactive": "the node is inactive; activate it",
    "finalized": "the node is finalized; start it again",
}
"""Why questions are refused, for every state but "active"."""


class VlmNode(parameters.SettingsNode, LoadingLifecycleNode[Loaded]):
    """Observes image topics and answers questions; README.md describes its topics and services."""

    @middleware_errors()
    def __init__(self, open_model: OpenModel, name: str = "penguin"):
        """Declares parameters and creates the services; nothing is loaded yet.

        Args:
            open_model: Returns runtime and processor for some settings; called on a thread of its own.
            name: Name of the node.

        Raises:
            PenguinError: The parameters contradict each other.
        """
        super().__init__(name, load=lambda: load(parameters.read(self), open_model), discard=Loaded.close)
        self.declare_settings(SETTINGS, lambda values: camera_names(self, NodeSettings.from_values(values)))
        self._settings = parameters.read(self)
        self._time = NodeTime(self)
        self._last_error = ""
        self._queue = RequestQueue(self._settings["queue_size"], _REFUSALS["unconfigured"])
        self._watches = Watches(closed_because=_REFUSALS["unconfigured"])
        self._configured: Configured | None = None
        self._server = AskServer(self, self._submit, self._queue.cancel, self._age_s)
        self._watch = WatchServer(self, self._watches, self._worker, partial(camera_name, self))
        self._recall = RecallServer(
            self, self._reader, self._known_cameras, lambda: self._settings["episodes.fixed_frame"]
        )
        self.create_service(Trigger, "~/clear_memory", self._on_clear_memory, qos_profile=REQUEST_QOS)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 1)
        # On the steady clock: diagnostics matter most while simulated time stands still.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_DIAGNOSTICS_PERIOD_S, self._on_diagnostics, clock=steady)
        self.create_timer(_GRAPH_PERIOD_S, self._follow_graph, clock=steady)
        parameters.watch(self, self._check_parameters, self._apply_parameters)

    # Lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Takes the loaded model and opens a session for each camera."""
        return self._transition("configure", self._configure, "inactive")

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribes to the cameras and accepts questions."""
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
        """Frees what was opened; the node may be configured again."""
        return self._transition("recover", self._clean_up, "unconfigured")

    def destroy_node(self) -> None:
        """Ends the worker and destroys the node."""
        self._clean_up()
        self._server.destroy()
        self._watch.destroy()
        self._recall.destroy()
        super().destroy_node()

    def end_questions(self) -> None:
        """Ends all questions and watches as cancelled and accepts no more."""
        self._queue.close("the node is shutting down")
        self._watches.close("the node is shutting down")

    def abandon_questions(self) -> None:
        """Ends the running question as cancelled at once, even in the middle of an operation."""
        self._queue.abandon()

    @property
    def pending(self) -> bool:
        """Whether a client waits for an answer or an alert."""
        return self._server.waiting + self._watch.waiting > 0

    def enter(self, state: str) -> None:
        """Accepts questions and watches in state "active", refuses them with a reason in all others."""
        self.state = state
        if state == "active":
            self._queue.open()
            self._watches.open()
        else:
            self._queue.close(_REFUSALS[state])
            self._watches.close(_REFUSALS[state])
        if self._configured is not None:
            self._configured.worker.wake()

    def _transition(self, what: str, work: Callable[[], None], state: str) -> TransitionCallbackReturn:
        try:
            work()
        except Exception as err:  # noqa: BLE001 - rclpy would swallow it silently
            self._last_error = f"cannot {what}: {err}"
            trace = "" if isinstance(err, PenguinError) else f"\n{traceback.format_exc()}"
            self.get_logger().error(f"{self._last_error}{trace}")
            self._clean_up()
            return TransitionCallbackReturn.FAILURE if what == "configure" else TransitionCallbackReturn.ERROR
        self.enter(state)
        if state == "active":
            self._last_error = ""
        return TransitionCallbackReturn.SUCCESS

    @middleware_errors()
    def _configure(self) -> None:
        self._settings = parameters.read(self)
        loaded = self.take_loaded()
        self._configured = Configured(self, loaded, self._settings, self._queue, self._watches, self._time)

    @middleware_errors()
    def _activate(self) -> None:
        assert self._configured is not None
        self._configured.activate()

    def _deactivate(self) -> None:
        if self._configured is not None:
            self._configured.deactivate()

    def _clean_up(self) -> None:
        self._deactivate()  # no more images and questions
        self.enter("unconfigured")
        configured, self._configured = self._configured, None
        if configured is not None:
            configured.close()

    def _follow_graph(self) -> None:
        if self._configured is not None:
            self._configured.follow_graph()

    # Questions

    def _submit(self, goal: AskGoal, on_text: Callable[[str, int], None]) -> PendingRequest:
        self._queue.check()
        worker = self._worker()
        limits = self._settings.sampling
        max_new_tokens = goal.max_new_tokens or limits.max_new_tokens
        sampling = replace(limits, max_new_tokens=max_new_tokens, grammar=grammar_of(goal.response_schema))
        request = Request.prepare(
            worker.processor,
            goal.question,
            sampling,
            goal.cameras,
            goal.horizon_s,
            partial(camera_name, self),
            goal.deadline_s or self._settings["latency_target_s"],
            stamp_to_ns(goal.since) or None,
            stamp_to_ns(goal.until) or None,
            goal.conversation_id,
        )
        return worker.submit(request, on_text)

    def _worker(self) -> SceneWorker:
        assert self._configured is not None
        return self._configured.worker

    def _age_s(self, camera: str, stamp_ns: int) -> float:
        if self._configured is not None:
            return self._configured.age_s(camera, stamp_ns)
        return max(0.0, (self._time.now_ns() - stamp_ns) * 1e-9)  # the node was cleaned up meanwhile

    def _reader(self) -> EpisodeReader:
        """Returns the episodes; raises why there are none."""
        if self._configured is None:
            raise NotActiveError(_REFUSALS[self.state])
        if self._configured.episodes is not None:
            return self._configured.episodes.store
        raise EpisodeError("the node keeps no episodes: clean it up, set episodes.path, and configure it again")

    def _known_cameras(self, topics: Sequence[str]) -> Sequence[str]:
        """Returns full names of cameras; raises UnknownCameraError if one is not in image_topics."""
        known, names = camera_names(self, self._settings), [camera_name(self, topic) for topic in topics]
        return [known_camera(name, known) for name in names]

    def _on_clear_memory(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._configured is not None
        if self._configured is None:
            response.message = f"the node is {self.state}: it has no memory"
            return response
        worker = self._configured.worker
        frames = sum(len(state.session.memory.frames) for state in worker.camera_states.values())
        worker.clear()
        response.message = f"{frames} frames cleared"
        return response

    # Parameters

    def _check_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        """Validates changes, without side effects."""
        try:
            settings = parameters.read(self, changed)
            camera_names(self, settings)
            if self.state not in ("unconfigured", "finalized"):
                fixed = sorted(name for name in self._settings.changes_to(settings) if not BY_NAME[name].live)
                if fixed:
                    reason = f"{', '.join(fixed)} can change only while the node is unconfigured; clean it up first"
                    return SetParametersResult(successful=False, reason=reason)
            if self._configured is not None:
                self._configured.check(settings)
        except PenguinError as err:
            return SetParametersResult(successful=False, reason=str(err))
        return SetParametersResult(successful=True)

    def _apply_parameters(self) -> None:
        """Applies changes that were accepted."""
        self._settings = parameters.read(self)
        if self._configured is not None:
            self._configured.apply(self._settings)

    # Diagnostics

    def _on_diagnostics(self) -> None:
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name().lstrip("/")
        is_active = self.state == "active"
        message.status = [] if is_active else [diagnostics.inactive_status(name, self.state, self._last_error)]
        if self._configured is not None:
            message.status = [*message.status, *self._configured.statuses(name, is_active)]
        if isinstance(self.executor, LastingExecutor):
            diagnostics.add_callback_errors(message.status[0], self.executor.errors, self.executor.newest_error)
        self._diagnostics.publish(message)
