"""Baselines for the memory: the last four frames only, and the released offline procedure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence

from penguin_engine.scene.answer import Answer
from penguin_engine.scene.offline import ask
from penguin_models.errors import MediaError, NoFramesError
from penguin_models.media import Clip, ClipFrame
from penguin_models.reference_policy import ReferencePolicy
from penguin_models.types import Frame
from penguin_ros.bags import sample_stamps
from penguin_ros.evaluation.bags.jobs import Asked
from penguin_ros.evaluation.bags.methods import Engine, Method
from penguin_ros.evaluation.bags.recording import ImageRef, Recording

LAST_FRAMES = 4


class LastFramesMethod(Method):
    """Answers from a clip of the last four frames, without a memory."""

    def __init__(self, engine: Engine, recording: Recording):
        self._engine = engine
        self._frames: dict[str, deque[Frame]] = {camera: deque(maxlen=LAST_FRAMES) for camera in recording.cameras}

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

    def __init__(self, engine: Engine, recording: Recording):
        self._engine, self._recording = engine, recording

    def see(self, frame: Frame) -> None:
        """Does nothing: frames are read from the recording for each question."""

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
    answer = ask(
        engine.runtime,
        engine.processor,
        asked.question.question,
        clip=clip,
        policy=ReferencePolicy(),
        max_tokens=engine.settings.node()["token_budget"],
        size_rule=rule,
        sampling=asked.sampling,
    )
    answer.start_ns = start_ns
    return answer


def _horizon_ns(asked: Asked) -> float:
    """Returns the stamp before which frames are ignored."""
    horizon_s = asked.question.horizon_s
    return asked.stamp_ns - horizon_s * 1e9 if horizon_s else -math.inf
