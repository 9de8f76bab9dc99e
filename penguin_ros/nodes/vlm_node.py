"""The lifecycle node `penguin`: cameras in; captions, answers, memory and diagnostics out.

The model is loaded on configure (loading_node.py) and freed on clean-up; cameras are observed while the node is active.
Nothing here blocks: images and questions are left to the worker (penguin_engine/scene/worker.py), whose results
outputs.py publishes.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.camera_state import CameraState
from penguin_engine.scene.caption_request import caption_request
from penguin_engine.scene.episode_backend import EpisodeReader
from penguin_engine.scene.episodes import EpisodeStore
from penguin_engine.scene.first_costs import measure
from penguin_engine.scene.json_answers import grammar_of
from penguin_engine.scene.mailbox import Mailbox
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.remote.brain import RemoteBrain
from penguin_engine.scene.requests import PendingRequest, Request, RequestQueue
from penguin_engine.scene.session import SceneSession, session_capacity
from penguin_engine.scene.watches import Watches
from penguin_engine.scene.worker import SceneWorker, known_camera
from penguin_models.config import ImageConfig
from penguin_models.errors import EpisodeError, NotActiveError, PenguinError
from penguin_models.processor import Processor
from penguin_models.watch import Calibration
from penguin_ros.bridge import bridge_fault
from penguin_ros.convert import stamp_to_ns
from penguin_ros.nodes import diagnostics, parameters
from penguin_ros.nodes.ask_server import AskGoal, AskServer
from penguin_ros.nodes.cameras import Camera, camera_name, camera_names
from penguin_ros.nodes.context import REQUEST_QOS
from penguin_ros.nodes.episode_recorder import EpisodeRecorder, open_store
from penguin_ros.nodes.lasting_executor import LastingExecutor
from penguin_ros.nodes.lifecycle_bond import LifecycleBond, check_bond
from penguin_ros.nodes.loading_node import LoadingLifecycleNode
from penguin_ros.nodes.locator import Locator
from penguin_ros.nodes.node_time import NodeTime
from penguin_ros.nodes.outputs import Outputs
from penguin_ros.nodes.rcl_errors import middleware_errors
from penguin_ros.nodes.recall_server import RecallServer
from penguin_ros.nodes.remote import open_models, remote_warnings, server_status
from penguin_ros.nodes.watch_server import WatchServer
from penguin_ros.settings import BY_NAME, SETTINGS, NodeSettings

OpenModel = Callable[[NodeSettings], tuple[Runtime, Processor]]
Loaded = tuple[Runtime, Processor, Pace | None, EpisodeStore | None, RemoteBrain | None]
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
        super().__init__(name, load=self._load_model, discard=_discard)
        self._open_model = open_model
        self.declare_settings(SETTINGS, lambda values: camera_names(self, NodeSettings.from_values(values)))
        self._settings = parameters.read(self)
        self._time = NodeTime(self)
        self._last_error = ""
        self._queue = RequestQueue(self._settings["queue_size"], _REFUSALS["unconfigured"])
        self._watches = Watches(closed_because=_REFUSALS["unconfigured"])
        self._runtime: Runtime | None = None
        self._processor: Processor | None = None
        self._remote: RemoteBrain | None = None
        self._worker: SceneWorker | None = None
        self._outputs: Outputs | None = None
        self._cameras: list[Camera] = []
        self._episodes: EpisodeRecorder | None = None
        self._bond: LifecycleBond | None = None
        self._locator: Locator | None = None
        self._server = AskServer(self, self._submit, self._queue.cancel, self._age_s)
        self._watch = WatchServer(self, self._watches, self._configured, partial(camera_name, self))
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

    def _load_model(self) -> Loaded:
        bridge_fault()  # tries cv_bridge in another process, which takes a second; the result is kept
        settings = parameters.read(self)
        check_bond(settings["bond_heartbeat_period"])
        with ExitStack() as opened:
            store = open_store(settings)
            if store is not None:
                opened.callback(store.close)
            runtime, processor, remote = open_models(settings, self._open_model)
            opened.callback(runtime.close)
            if remote is not None:
                opened.callback(remote.close)
            pace = Pace(settings.pace) if settings["pace"] and settings.local_model else None
            if pace is not None:
                measure(runtime, processor, pace, settings.memory(processor.images))
            caption_request(runtime, processor, settings.caption, None)  # prepares the vocabulary for a schema
            opened.pop_all()
        return runtime, processor, pace, store, remote

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
        if self._worker is not None:
            self._worker.wake()

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
        self._settings = settings = parameters.read(self)
        self._runtime, self._processor, pace, store, self._remote = self.take_loaded()
        self._episodes = None if store is None else EpisodeRecorder.open(self, store, settings)
        self._locator = Locator(self, settings, self._time)
        self._check_against_model(settings)
        camera_states = self._open_sessions(settings, pace)
        names, has_depth = [state.camera for state in camera_states], bool(settings.depth_cameras)
        self._outputs = Outputs(self, names, self._age_s, pace, self._episodes, has_depth)
        self._queue.limit, self._queue.refused = settings["queue_size"], 0
        self._watches.calibration = Calibration.of(self._processor)
        self._worker = SceneWorker(
            self._runtime,
            self._processor,
            camera_states,
            settings.caption,
            self._queue,
            self._outputs,
            pace=pace,
            episodes=store,
            watches=self._watches,
            locate=self._locator.positions,
            remote=self._remote,
        )
        self._worker.start()
        info, fault = self._runtime.info, bridge_fault()
        for warning in (fault, *remote_warnings(settings, self._remote)):
            if warning is not None:
                self.get_logger().warning(warning)
        memory = f"{settings.token_budget(self._processor.images)} visual tokens"
        self.get_logger().info(f"{settings['model']} on {info.name}, {info.device}, {info.dtype}; {memory}")

    def _open_sessions(self, settings: NodeSettings, pace: Pace | None) -> list[CameraState]:
        assert self._runtime is not None and self._processor is not None
        states, memory = [], settings.memory(self._processor.images)
        with ExitStack() as opened:
            for name in camera_names(self, settings):
                options = settings.policy(), memory, pace, settings["system_prompt"]
                session = SceneSession(self._runtime, self._processor, *options)
                opened.callback(session.close)
                mailbox = Mailbox(settings["sample_rate_hz"], memory.jump_back_s)
                states.append(CameraState(name, session, mailbox))
            opened.pop_all()
        return states

    @middleware_errors()
    def _activate(self) -> None:
        assert self._worker is not None and self._locator is not None
        self._locator.open()
        offer = self._locator.keeping_depth(self._worker.offer)
        for topic in self._settings["image_topics"]:
            self._cameras.append(Camera(self, topic, self._settings, self._time, offer))
        self._note_silence(self._worker)
        if self._settings["bond_heartbeat_period"]:
            self._bond = LifecycleBond(self, self._settings["bond_heartbeat_period"])

    def _follow_graph(self) -> None:
        for camera in self._cameras:
            camera.follow_graph()
        if self._locator is not None:
            self._locator.follow_graph()
        if self._episodes is not None:
            self._episodes.settle()

    def _note_silence(self, worker: SceneWorker) -> None:
        """Lets the worker know why no images arrive, for the answers to questions without a frame."""
        for camera in self._cameras:
            worker.camera_states[camera.name].silence = camera.silence(self._settings["camera_timeout_s"])

    def _age_s(self, camera: str, stamp_ns: int) -> float:
        for found in self._cameras:
            if found.name == camera:
                return found.age_s(stamp_ns)
        return max(0.0, (self._time.now_ns() - stamp_ns) * 1e-9)  # the node was deactivated meanwhile

    def _deactivate(self) -> None:
        if self._bond is not None:
            self._bond.close()
            self._bond = None
        for camera in self._cameras:
            camera.close()
        self._cameras = []
        if self._locator is not None:
            self._locator.close()

    def _clean_up(self) -> None:
        self._deactivate()
        self.enter("unconfigured")
        if self._worker is not None:
            self._worker.stop()
        if self._outputs is not None:
            self._outputs.destroy()
        if self._episodes is not None:
            self._episodes.close()
        if self._locator is not None:
            self._locator.destroy()
        if self._remote is not None:
            self._remote.close()
            self._remote = None
        runtime = self._runtime
        self._remote = self._worker = self._outputs = self._episodes = self._locator = self._runtime = (
            self._processor
        ) = None
        if runtime is not None:
            runtime.close()

    # Questions

    def _submit(self, goal: AskGoal, on_text: Callable[[str, int], None]) -> PendingRequest:
        self._queue.check()
        assert self._worker is not None and self._processor is not None
        limits = self._settings.sampling
        max_new_tokens = goal.max_new_tokens or limits.max_new_tokens
        sampling = replace(limits, max_new_tokens=max_new_tokens, grammar=grammar_of(goal.response_schema))
        request = Request.prepare(
            self._processor,
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
        return self._worker.submit(request, on_text)

    def _configured(self) -> tuple[SceneWorker, Processor]:
        assert self._worker is not None and self._processor is not None
        return self._worker, self._processor

    def _reader(self) -> EpisodeReader:
        """Returns the episodes; raises why there are none."""
        if self._episodes is not None:
            return self._episodes.store
        if self._worker is None:
            raise NotActiveError(_REFUSALS[self.state])
        raise EpisodeError("the node keeps no episodes: clean it up, set episodes.path, and configure it again")

    def _known_cameras(self, topics: Sequence[str]) -> Sequence[str]:
        """Returns full names of cameras; raises UnknownCameraError if one is not in image_topics."""
        known, names = camera_names(self, self._settings), [camera_name(self, topic) for topic in topics]
        return [known_camera(name, known) for name in names]

    def _on_clear_memory(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._worker is not None
        if self._worker is None:
            response.message = f"the node is {self.state}: it has no memory"
            return response
        frames = sum(len(state.session.memory.frames) for state in self._worker.camera_states.values())
        self._worker.clear()
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
            if self._worker is not None:
                self._check_against_model(settings)
        except PenguinError as err:
            return SetParametersResult(successful=False, reason=str(err))
        return SetParametersResult(successful=True)

    def _apply_parameters(self) -> None:
        """Applies changes that were accepted."""
        before, self._settings = self._settings, parameters.read(self)
        if self._worker is not None and self._processor is not None:
            self._worker.change(partial(_apply, self._worker, self._processor.images, before, self._settings))
            self._worker.change_frames(partial(_apply_to_frames, self._worker, before, self._settings))

    def _check_against_model(self, settings: NodeSettings) -> None:
        assert self._runtime is not None and self._processor is not None
        memory = settings.memory(self._processor.images)
        session_capacity(self._runtime, self._processor, memory, settings["system_prompt"])
        Request.prepare(self._processor, settings.caption.prompt, settings.caption.sampling)

    # Diagnostics

    def _on_diagnostics(self) -> None:
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        name = self.get_fully_qualified_name().lstrip("/")
        worker, settings = self._worker, self._settings
        if self.state != "active" or worker is None or self._runtime is None or self._outputs is None:
            message.status = [diagnostics.inactive_status(name, self.state, self._last_error)]
        else:
            self._note_silence(worker)
            message.status = [
                diagnostics.node_status(
                    name, worker, settings, self._runtime.info, self._outputs, self._time.trouble()
                ),
                *diagnostics.camera_statuses(name, self._cameras, worker, settings),
            ]
            if self._remote is not None:
                message.status = [*message.status, server_status(name, self._remote, settings)]
        if self._episodes is not None:
            message.status = [*message.status, diagnostics.episodes_status(name, self._episodes)]
        if self._locator is not None:
            message.status = [*message.status, *self._locator.statuses(name)]
        if isinstance(self.executor, LastingExecutor):
            diagnostics.add_callback_errors(message.status[0], self.executor.errors, self.executor.newest_error)
        self._diagnostics.publish(message)


def _discard(loaded: Loaded) -> None:
    runtime, _, _, store, remote = loaded
    runtime.close()
    if remote is not None:
        remote.close()
    if store is not None:
        store.close()


def _apply(worker: SceneWorker, images: ImageConfig, before: NodeSettings, after: NodeSettings) -> None:
    """Takes over live settings; runs in the worker's thread."""
    worker.caption, worker.queue.limit = after.caption, after["queue_size"]
    changes = before.changes_to(after)
    for state in worker.camera_states.values():
        if "token_budget" in changes:
            state.session.set_budget(after.memory(images).token_budget)
        if "system_prompt" in changes:
            state.session.set_system(after["system_prompt"])
    if worker.remote is not None:
        worker.remote.system_prompt = after["system_prompt"]


def _apply_to_frames(worker: SceneWorker, before: NodeSettings, after: NodeSettings) -> None:
    """Takes over what concerns the next frame; runs in the worker's thread, maybe during an answer."""
    changed = before.changes_to(after)
    for state in worker.camera_states.values():
        if "sample_rate_hz" in changed:
            state.mailbox.set_rate(after["sample_rate_hz"])
        if any(name.startswith("keyframe.") for name in changed):
            state.session.memory.policy = after.policy()
