"""What the node has from its configuration to its clean-up: a scene with its worker, and what is around them.

While the node is active, `activate` to `deactivate`, it has cameras as well. Everything is called by the node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode

from penguin_engine.scene.camera_state import CameraState
from penguin_engine.scene.mailbox import Mailbox
from penguin_engine.scene.requests import Request, RequestQueue
from penguin_engine.scene.session import SceneSession, session_capacity
from penguin_engine.scene.watches import Watches
from penguin_engine.scene.worker import SceneWorker
from penguin_models.watch import Calibration
from penguin_ros.bridge import bridge_fault
from penguin_ros.nodes import diagnostics
from penguin_ros.nodes.cameras import Camera, camera_names
from penguin_ros.nodes.episode_recorder import EpisodeRecorder
from penguin_ros.nodes.lifecycle_bond import LifecycleBond
from penguin_ros.nodes.loaded import Loaded
from penguin_ros.nodes.locator import Locator
from penguin_ros.nodes.node_time import NodeTime
from penguin_ros.nodes.outputs import Outputs
from penguin_ros.nodes.remote import remote_warnings, server_status
from penguin_ros.settings import NodeSettings


class Configured:
    """A configured node's parts.

    Attributes:
        settings: The parameters in effect.
        worker: Owns the sessions of the cameras; it runs.
        episodes: Keeps keyframes and captions; None if nothing does.
    """

    def __init__(
        self,
        node: LifecycleNode,
        loaded: Loaded,
        settings: NodeSettings,
        queue: RequestQueue,
        watches: Watches,
        time: NodeTime,
    ):
        """Opens everything; takes over what was loaded, which is freed if this fails.

        Args:
            node: The node.
            loaded: What was loaded for these settings.
            settings: The node's parameters.
            queue: The node's questions; closed.
            watches: The node's conditions; closed.
            time: The node's clock.

        Raises:
            PenguinError: Model and settings do not fit.
        """
        self.settings = settings
        self._node, self._loaded, self._time = node, loaded, time
        self._cameras: list[Camera] = []
        self._bond: LifecycleBond | None = None
        with ExitStack() as opened:
            opened.callback(loaded.close)
            self._locator = Locator(node, settings, time)
            opened.callback(self._locator.destroy)
            self.episodes = None if loaded.store is None else EpisodeRecorder.open(node, loaded.store, settings)
            if self.episodes is not None:
                opened.callback(self.episodes.close)
            self.check(settings)
            names, has_depth = camera_names(node, settings), bool(settings.depth_cameras)
            self._outputs = Outputs(node, names, self.age_s, loaded.pace, self.episodes, has_depth)
            opened.callback(self._outputs.destroy)
            queue.limit, queue.refused = settings["queue_size"], 0
            watches.calibration = Calibration.of(loaded.processor)
            self.worker = SceneWorker(
                loaded.runtime,
                loaded.processor,
                self._open_sessions(names),
                settings.caption,
                queue,
                self._outputs,
                pace=loaded.pace,
                episodes=loaded.store,
                watches=watches,
                locate=self._locator.positions,
                remote=loaded.remote,
            )
            opened.callback(self.worker.stop)
            self.worker.start()
            self._opened = opened.pop_all()
        for warning in (bridge_fault(), *remote_warnings(settings, loaded.remote)):
            if warning is not None:
                node.get_logger().warning(warning)
        info = loaded.runtime.info
        memory = f"{settings.token_budget(loaded.processor.images)} visual tokens"
        node.get_logger().info(f"{settings['model']} on {info.name}, {info.device}, {info.dtype}; {memory}")

    def close(self) -> None:
        """Ends the worker and frees everything; the queue must be closed."""
        self.deactivate()
        self._opened.close()

    def activate(self) -> None:
        """Subscribes to the cameras."""
        self._locator.open()
        offer = self._locator.keeping_depth(self.worker.offer)
        for topic in self.settings["image_topics"]:
            self._cameras.append(Camera(self._node, topic, self.settings, self._time, offer))
        self._note_silence()
        if self.settings["bond_heartbeat_period"]:
            self._bond = LifecycleBond(self._node, self.settings["bond_heartbeat_period"])

    def deactivate(self) -> None:
        """Unsubscribes; the memory is kept."""
        if self._bond is not None:
            self._bond.close()
            self._bond = None
        for camera in self._cameras:
            camera.close()
        self._cameras = []
        self._locator.close()

    def follow_graph(self) -> None:
        """Follows publishers that come and go."""
        for camera in self._cameras:
            camera.follow_graph()
        self._locator.follow_graph()
        if self.episodes is not None:
            self.episodes.settle()

    def age_s(self, camera: str, stamp_ns: int) -> float:
        """Returns the age in seconds of a camera's frame with a stamp in nanoseconds."""
        for found in self._cameras:
            if found.name == camera:
                return found.age_s(stamp_ns)
        return max(0.0, (self._time.now_ns() - stamp_ns) * 1e-9)  # the node was deactivated meanwhile

    def check(self, settings: NodeSettings) -> None:
        """Raises PenguinError if settings do not fit the model."""
        runtime, processor = self._loaded.runtime, self._loaded.processor
        session_capacity(runtime, processor, settings.memory(processor.images), settings["system_prompt"])
        Request.prepare(processor, settings.caption.prompt, settings.caption.sampling)

    def apply(self, settings: NodeSettings) -> None:
        """Takes over live settings."""
        before, self.settings = self.settings, settings
        self.worker.change(partial(_apply, self.worker, before, settings))
        self.worker.change_frames(partial(_apply_to_frames, self.worker, before, settings))

    def statuses(self, name: str, is_active: bool) -> Iterator[DiagnosticStatus]:
        """Yields the diagnostics of the node, if it is active, and of its parts."""
        if is_active:
            self._note_silence()
            info, trouble = self._loaded.runtime.info, self._time.trouble()
            yield diagnostics.node_status(name, self.worker, self.settings, info, self._outputs, trouble)
            yield from diagnostics.camera_statuses(name, self._cameras, self.worker, self.settings)
            if self._loaded.remote is not None:
                yield server_status(name, self._loaded.remote, self.settings)
        if self.episodes is not None:
            yield diagnostics.episodes_status(name, self.episodes)
        yield from self._locator.statuses(name)

    def _open_sessions(self, names: Sequence[str]) -> list[CameraState]:
        settings, states, memory = self.settings, [], self.settings.memory(self._loaded.processor.images)
        with ExitStack() as opened:
            for name in names:
                options = settings.policy(), memory, self._loaded.pace, settings["system_prompt"]
                session = SceneSession(self._loaded.runtime, self._loaded.processor, *options)
                opened.callback(session.close)
                mailbox = Mailbox(settings["sample_rate_hz"], memory.jump_back_s)
                states.append(CameraState(name, session, mailbox))
            opened.pop_all()
        return states

    def _note_silence(self) -> None:
        """Lets the worker know why no images arrive, for the answers to questions without a frame."""
        for camera in self._cameras:
            self.worker.camera_states[camera.name].silence = camera.silence(self.settings["camera_timeout_s"])


def _apply(worker: SceneWorker, before: NodeSettings, after: NodeSettings) -> None:
    """Takes over live settings; runs in the worker's thread."""
    worker.caption, worker.queue.limit = after.caption, after["queue_size"]
    changes = before.changes_to(after)
    for state in worker.camera_states.values():
        if "token_budget" in changes:
            state.session.set_budget(after.memory(worker.processor.images).token_budget)
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
