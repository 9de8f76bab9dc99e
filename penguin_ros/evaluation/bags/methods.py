"""Methods of answering about a recording, and the first of them: the node's memory and session.

Each method sees the frames that the node would take, in the order of their stamps, and is asked after them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Protocol

from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.answer import Answer
from penguin_engine.scene.camera_state import CameraState
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.mailbox import Mailbox
from penguin_engine.scene.multi_camera import ask_cameras
from penguin_engine.scene.requests import Request
from penguin_engine.scene.session import SceneSession
from penguin_models.processor import Processor
from penguin_models.types import Frame
from penguin_ros.evaluation.bags.recording import Recording
from penguin_ros.evaluation.question_file import Question
from penguin_ros.evaluation.records import RunSettings, Timeline


@dataclass(frozen=True)
class Asked:
    """A question of a bag.

    Attributes:
        question: The question as in the file.
        cameras: Cameras it is about; at least one.
        stamp_ns: When it is asked.
        start_ns: Where its clock starts: the first image of its first camera.
        sampling: How the answer is generated.
    """

    question: Question
    cameras: tuple[str, ...]
    stamp_ns: int
    start_ns: int
    sampling: Sampling


class Reading(Protocol):
    """A measurement of a meter."""

    @property
    def total(self) -> float | None:
        """Joules; None if the machine has no sensor."""
        ...


class Meter(Protocol):
    """Measures the energy of work."""

    def measure(self) -> AbstractContextManager[Reading]:
        """Measures the work done in the context; the reading is valid after its end."""
        ...


@dataclass(frozen=True)
class Engine:
    """A loaded model, the settings of the run, and what measures the energy of answers, if anything does."""

    runtime: Runtime
    processor: Processor
    settings: RunSettings
    meter: Meter | None = None

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


class Method(Protocol):
    """A method of answering."""

    @property
    def name(self) -> str:
        """Name in results and options."""
        ...

    def see(self, frame: Frame) -> None:
        """Takes a frame."""
        ...

    def ask(self, asked: Asked) -> Answer:
        """Answers about the frames seen so far; any PenguinError means that there is no answer."""
        ...

    def close(self) -> None:
        """Frees what the method holds."""
        ...


class MemoryMethod:
    """The node's memory and session; every frame is encoded and prefilled before the next one arrives."""

    name = "memory"

    def __init__(self, engine: Engine, recording: Recording):
        self._engine = engine
        self._camera_states = engine.camera_states(recording.cameras)
        self.log = MemoryLog(self.name, recording, self._camera_states)

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
        self._before = dict.fromkeys(camera_states, (0, 0))
        self._late = dict.fromkeys(camera_states, 0)
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
        late = counters.late > self._late[frame.camera]
        resized, evicted = self._before[frame.camera]
        line.time_s.append((frame.stamp_ns - self._start_ns[frame.camera]) * 1e-9)
        line.kind.append(-1 if late else int(memory.frames[-1].kind))
        line.tokens.append(memory.tokens)
        line.frames.append(len(memory.frames))
        line.shrunk.append(counters.resized - resized)
        line.left.append(counters.evicted - evicted)
        line.seconds.append(seconds)
        self._before[frame.camera] = (counters.resized, counters.evicted)
        self._late[frame.camera] = counters.late
