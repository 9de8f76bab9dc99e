"""Listener: what the owner of a worker learns from it."""

from __future__ import annotations

from typing import Protocol

from penguin_engine.scene.camera_state import CameraState
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.requests import Outcome
from penguin_models.types import Frame


class Listener(Protocol):
    """Receives the worker's events, in the worker's thread."""

    def on_memory(self, camera_state: CameraState) -> None:
        """A camera's memory added a frame, dropped a late one, or was cleared."""
        ...

    def on_keyframe(self, frame: Frame) -> None:
        """A frame that a memory added is a keyframe."""
        ...

    def on_bad_frame(self, camera_state: CameraState) -> None:
        """A camera's image could not be converted; `camera_state.last_error` says why."""
        ...

    def on_pace(self, pace: Pace) -> None:
        """The pace changed how frames are taken; `pace.reason` says why."""
        ...

    def on_caption(self, outcome: Outcome) -> None:
        """A caption is complete."""
        ...

    def on_answer(self, outcome: Outcome) -> None:
        """A question was answered; the caller gets the answer from its pending request."""
        ...

    def on_failure(self, doing: str, error: Exception) -> None:
        """Something failed unexpectedly; the work continues."""
        ...
