"""Baselines to compare the memory with: only the last four frames, and the released offline procedure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from penguin_engine.scene.answer import Answer
from penguin_engine.scene.offline import ask
from penguin_models.errors import MediaError, NoFramesError
from penguin_models.media import ClipFrame
from penguin_models.reference_policy import ReferencePolicy
from penguin_models.types import Frame
from penguin_ros.evaluation.bags.methods import Asked, Engine
from penguin_ros.evaluation.bags.recording import ImageRef, Recording

LAST_FRAMES = 4


class LastFramesMethod:
    """A baseline without memory: a clip of the last four frames."""

    name = "last-4"

    def __init__(self, engine: Engine, recording: Recording):
        self._engine = engine
        self._frames: dict[str, deque[Frame]] = {camera: deque(maxlen=LAST_FRAMES) for camera in recording.cameras}

    def see(self, frame: Frame) -> None:
        """Keeps a frame, and forgets the one before the last four."""
        self._frames[frame.camera].append(frame)

    def ask(self, asked: Asked) -> Answer:
        """Answers about the last four frames within the horizon."""
        (camera,) = asked.cameras
        frames = [frame for frame in self._frames[camera] if frame.stamp_ns >= _oldest_ns(asked)]
        if not frames:
            raise NoFramesError(f"{camera} has shown no image yet, or none within {asked.question.horizon_s} s")
        start_ns = frames[0].stamp_ns
        clip = [ClipFrame((frame.stamp_ns - start_ns) * 1e-9, frame.rgb) for frame in frames]
        answer = ask(
            self._engine.runtime,
            self._engine.processor,
            asked.question.question,
            clip=clip,
            policy=ReferencePolicy(),
            max_tokens=self._engine.settings.node()["token_budget"],
            sampling=asked.sampling,
        )
        answer.start_ns = start_ns
        return answer

    def close(self) -> None:
        """Forgets the frames."""
        self._frames.clear()


class OfflineMethod:
    """A baseline as released: the recording so far is sampled, labelled and encoded anew for each question."""

    name = "offline"

    def __init__(self, engine: Engine, recording: Recording):
        self._engine, self._recording = engine, recording

    def see(self, frame: Frame) -> None:
        """Keeps nothing."""

    def ask(self, asked: Asked) -> Answer:
        """Answers about the recording up to now."""
        oldest_ns, newest_ns = _oldest_ns(asked), asked.stamp_ns
        images = [ref for ref in self._recording.images if ref.camera in asked.cameras]
        seen = [ref for ref in images if oldest_ns <= ref.stamp_ns <= newest_ns]
        if not seen:
            raise NoFramesError(f"there is no image within {asked.question.horizon_s} s before the question")
        settings = self._engine.settings
        clip = _RecordedClip(self._recording, seen, settings.offline_fps, settings.offline_max_frames)
        answer = ask(
            self._engine.runtime,
            self._engine.processor,
            asked.question.question,
            clip=clip,
            policy=ReferencePolicy(),
            max_tokens=settings.node()["token_budget"],
            size_rule="reference",
            sampling=asked.sampling,
        )
        answer.start_ns = clip.start_ns
        return answer

    def close(self) -> None:
        """Nothing is held."""


class _RecordedClip:
    """The part of a recording that lies before a question, sampled as the released code samples videos."""

    def __init__(self, recording: Recording, seen: Sequence[ImageRef], fps: float, max_frames: int):
        self._recording = recording
        self.start_ns = seen[0].stamp_ns
        slots = np.floor((np.array([ref.stamp_ns for ref in seen]) - self.start_ns) * 1e-9 * fps).astype(int)
        chosen = np.flatnonzero(np.diff(slots, append=slots[-1] + 1))  # the last image of each span of 1/fps seconds
        if len(chosen) > max_frames:
            chosen = chosen[np.linspace(0, len(chosen) - 1, max_frames, dtype=int)]
        self._chosen = [(seen[i], float(slots[i] / fps)) for i in chosen]

    def __iter__(self) -> Iterator[ClipFrame]:
        images = self._recording.read([ref for ref, _ in self._chosen])
        for image, (_, time_s) in zip(images, self._chosen, strict=True):
            try:
                frame = image.load()
            except MediaError:
                continue  # counted where the memory sees it
            yield ClipFrame(time_s, frame.rgb)


def _oldest_ns(asked: Asked) -> float:
    """Stamp before which a question does not look back."""
    horizon_s = asked.question.horizon_s
    return asked.stamp_ns - horizon_s * 1e9 if horizon_s else -math.inf
