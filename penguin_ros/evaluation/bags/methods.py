"""Methods of answering about a recording: the node's memory, the last four frames, the released offline procedure.

Each method sees the frames that the node would take, in the order of their stamps, and is asked after them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, perf_counter

from penguin_engine.bench.energy import EnergyMeter
from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.answer import Answer
from penguin_engine.scene.camera_state import CameraState
from penguin_engine.scene.mailbox import Mailbox
from penguin_engine.scene.multi_camera import ask_cameras
from penguin_engine.scene.offline import ask
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.requests import Request
from penguin_engine.scene.session import SceneSession
from penguin_models.errors import MediaError, NoFramesError
from penguin_models.media import Clip, ClipFrame
from penguin_models.processor import Processor
from penguin_models.types import Frame
from penguin_ros.bags import sample_stamps
from penguin_ros.evaluation.bags.jobs import Asked
from penguin_ros.evaluation.records import RunSettings, Timeline
from penguin_ros.recording import ImageRef, Recording

_LAST_FRAMES = 4


@dataclass(frozen=True)
class Engine:
    """A loaded model, and the settings of the run."""

    runtime: Runtime
    processor: Processor
    settings: RunSettings
    meter: EnergyMeter | None = None  # measures the energy of answers

    def camera_states(
        self, cameras: Sequence[str], clock: Callable[[], float] = monotonic, pace: Pace | None = None
    ) -> dict[str, CameraState]:
        """Returns memory, session and mailbox of each camera, as the node creates them."""
        node = self.settings.node(cameras)
        memory = node.memory(self.processor.images)
        states = {}
        for camera in cameras:
            options = node.policy(), memory, pace, node["system_prompt"]
            session = SceneSession(self.runtime, self.processor, *options)
            mailbox = Mailbox(node["sample_rate_hz"], memory.jump_back_s)
            states[camera] = CameraState(camera, session, mailbox, clock)
        return states

    def request(self, asked: Asked) -> Request:
        """Returns a question in the form that the node's sessions take; raises PenguinError if it cannot be asked."""
        question = asked.question
        return Request.prepare(self.processor, question.question, asked.sampling, asked.cameras, question.horizon_s)


class Method(ABC):
    """A method of answering about a recording."""

    def __init__(self, engine: Engine, recording: Recording):
        self._engine, self._recording = engine, recording

    def see(self, frame: Frame) -> None:  # noqa: B027  # the offline procedure reads the recording instead
        """Takes a frame."""

    @abstractmethod
    def ask(self, asked: Asked) -> Answer:
        """Answers about the frames seen so far; any PenguinError means that there is no answer."""

    def close(self) -> None:  # noqa: B027  # most methods hold nothing that must be freed
        """Frees the model's caches."""


class MemoryMethod(Method):
    """The node's memory and session; every frame is encoded and prefilled before the next one arrives."""

    def __init__(self, engine: Engine, recording: Recording):
        super().__init__(engine, recording)
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


class LastFramesMethod(Method):
    """Answers from a clip of the last four frames, without a memory."""

    def __init__(self, engine: Engine, recording: Recording):
        super().__init__(engine, recording)
        self._frames: dict[str, deque[Frame]] = {camera: deque(maxlen=_LAST_FRAMES) for camera in recording.cameras}

    def see(self, frame: Frame) -> None:
        """Stores a frame in place of the oldest of four."""
        self._frames[frame.camera].append(frame)

    def ask(self, asked: Asked) -> Answer:
        """Answers from the last four frames within the horizon."""
        (camera,) = asked.cameras
        frames = [frame for frame in self._frames[camera] if frame.stamp_ns >= _horizon_ns(asked)]
        if not frames:
            raise NoFramesError(f"{camera} has no image yet, or none within the horizon {asked.question.horizon_s} s")
        start_ns = frames[0].stamp_ns
        clip = [ClipFrame((frame.stamp_ns - start_ns) * 1e-9, frame.rgb) for frame in frames]
        return _ask_offline(self._engine, asked, clip, start_ns, "strict")


class OfflineMethod(Method):
    """Answers as the released code does: samples, labels and encodes the recording so far for each question."""

    def ask(self, asked: Asked) -> Answer:
        """Answers from the recording up to now, within the horizon."""
        images = [ref for ref in self._recording.images if ref.camera in asked.cameras]
        past = [ref for ref in images if _horizon_ns(asked) <= ref.stamp_ns <= asked.stamp_ns]
        if not past:
            raise NoFramesError(f"there is no image within {asked.question.horizon_s} s before the question")
        settings = self._engine.settings
        samples = sample_stamps([ref.stamp_ns for ref in past], settings.offline_fps, settings.offline_max_frames)
        clip = _RecordedClip(self._recording, [(past[index], time_s) for index, time_s in samples])
        return _ask_offline(self._engine, asked, clip, past[0].stamp_ns, "reference")


class _RecordedClip:
    """Sampled images of a recording with their times; damaged images are skipped."""

    def __init__(self, recording: Recording, samples: Sequence[tuple[ImageRef, float]]):
        self._recording, self._samples = recording, samples

    def __iter__(self) -> Iterator[ClipFrame]:
        images = self._recording.read([ref for ref, _ in self._samples])
        for image, (_, time_s) in zip(images, self._samples, strict=True):
            try:
                yield ClipFrame(time_s, image.load().rgb)
            except MediaError:
                continue  # replay.py counts it


def _ask_offline(engine: Engine, asked: Asked, clip: Clip | Sequence[ClipFrame], start_ns: int, rule: str) -> Answer:
    # It needs torch, whose import takes seconds: bags and questions are read first.
    from penguin_models.reference_policy import ReferencePolicy

    answer = ask(
        engine.runtime,
        engine.processor,
        asked.question.question,
        clip=clip,
        policy=ReferencePolicy(),
        max_tokens=engine.settings.node().token_budget(engine.processor.images),
        size_rule=rule,
        sampling=asked.sampling,
    )
    answer.start_ns = start_ns
    return answer


def _horizon_ns(asked: Asked) -> float:
    """Returns the stamp before which frames are ignored."""
    horizon_s = asked.question.horizon_s
    return asked.stamp_ns - horizon_s * 1e9 if horizon_s else -math.inf
