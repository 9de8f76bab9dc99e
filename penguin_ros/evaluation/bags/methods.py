"""Methods of answering about a recording, and the first of them: the node's memory and session.

Each method sees the frames that the node would take, in the order of their stamps, and is asked after them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, perf_counter

from penguin_engine.bench.energy import EnergyMeter
from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.answer import Answer
from penguin_engine.scene.camera_state import CameraState
from penguin_engine.scene.mailbox import Mailbox
from penguin_engine.scene.multi_camera import ask_cameras
from penguin_engine.scene.requests import Request
from penguin_engine.scene.session import SceneSession
from penguin_models.processor import Processor
from penguin_models.types import Frame
from penguin_ros.evaluation.bags.jobs import Asked
from penguin_ros.evaluation.bags.recording import Recording
from penguin_ros.evaluation.records import RunSettings, Timeline


@dataclass(frozen=True)
class Engine:
    """A loaded model, and the settings of the run."""

    runtime: Runtime
    processor: Processor
    settings: RunSettings
    meter: EnergyMeter | None = None  # measures the energy of answers

    def camera_states(self, cameras: Sequence[str], clock: Callable[[], float] = monotonic) -> dict[str, CameraState]:
        """Returns memory, session and mailbox of each camera, as the node creates them."""
        node = self.settings.node(cameras)
        states = {}
        for camera in cameras:
            session = SceneSession(self.runtime, self.processor, node.policy(), node.memory)
            mailbox = Mailbox(node["sample_rate_hz"], node.memory.jump_back_s)
            states[camera] = CameraState(camera, session, mailbox, clock)
        return states

    def request(self, asked: Asked) -> Request:
        """Returns a question in the form that the node's sessions take.

        Raises:
            PenguinError: The question cannot be asked.
        """
        question = asked.question
        return Request.prepare(self.processor, question.question, asked.sampling, asked.cameras, question.horizon_s)


class Method(ABC):
    """A method of answering about a recording."""

    @abstractmethod
    def __init__(self, engine: Engine, recording: Recording): ...

    @abstractmethod
    def see(self, frame: Frame) -> None:
        """Takes a frame."""

    @abstractmethod
    def ask(self, asked: Asked) -> Answer:
        """Answers about the frames seen so far; any PenguinError means that there is no answer."""

    def close(self) -> None:  # noqa: B027  # most methods hold nothing that must be freed
        """Frees the model's caches."""


class MemoryMethod(Method):
    """The node's memory and session; every frame is encoded and prefilled before the next one arrives."""

    def __init__(self, engine: Engine, recording: Recording):
        self._engine = engine
        self._camera_states = engine.camera_states(recording.cameras)
        self.log = MemoryLog("memory", recording, self._camera_states)

    def see(self, frame: Frame) -> None:
        """Adds a frame to its camera's memory and prefills it."""
        session = self._camera_states[frame.camera].session
        start = perf_counter()
        session.observe(frame)
        while session.prefill_pending():
            pass
        self.log.add(frame, perf_counter() - start)

    def ask(self, asked: Asked) -> Answer:
        """Answers from the memories, as the node does: one through its session, several together."""
        request = self._engine.request(asked)
        sessions = {camera: self._camera_states[camera].session for camera in asked.cameras}
        if len(sessions) == 1:
            return sessions[asked.cameras[0]].ask(request)
        return ask_cameras(self._engine.runtime, self._engine.processor, sessions, request)

    def close(self) -> None:
        """Frees the caches."""
        for camera_state in self._camera_states.values():
            camera_state.session.close()


class MemoryLog:
    """Records the history of memories, frame by frame."""

    def __init__(self, method: str, recording: Recording, camera_states: Mapping[str, CameraState]):
        self._camera_states = camera_states
        self._before = dict.fromkeys(camera_states, (0, 0, 0))
        self._start_ns = {camera: recording.span_ns(camera)[0] for camera in camera_states}
        self.timelines = {
            camera: Timeline(
                camera=camera,
                method=method,
                token_budget=camera_state.session.memory.config.token_budget,
                unstamped=recording.unstamped.get(camera, 0),
            )
            for camera, camera_state in camera_states.items()
        }

    def add(self, frame: Frame, seconds: float) -> None:
        """Records the state of a memory after it took a frame, which cost some seconds of work."""
        memory, line = self._camera_states[frame.camera].session.memory, self.timelines[frame.camera]
        counters = memory.counters
        late, resized, evicted = self._before[frame.camera]
        line.time_s.append((frame.stamp_ns - self._start_ns[frame.camera]) * 1e-9)
        line.kind.append(-1 if counters.late > late else int(memory.frames[-1].kind))
        line.tokens.append(memory.tokens)
        line.frames.append(len(memory.frames))
        line.shrunk.append(counters.resized - resized)
        line.left.append(counters.evicted - evicted)
        line.seconds.append(seconds)
        self._before[frame.camera] = (counters.late, counters.resized, counters.evicted)
