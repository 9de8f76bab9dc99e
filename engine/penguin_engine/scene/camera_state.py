"""What is known of one camera that is being watched: its session, the frame that waits, its captions, its health."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

from penguin_engine.scene.mailbox import Mailbox
from penguin_engine.scene.memory import HeldFrame
from penguin_engine.scene.session import SceneSession
from penguin_models.errors import MediaError, PromptError
from penguin_models.types import Frame, FrameKind


@dataclass(frozen=True)
class CaptionConfig:
    """When captions are made, and of what.

    Attributes:
        prompt: what the model is asked.
        period_s: a caption of the newest frame so often, by the clock of the stamps; 0 for none.
        on_keyframe: a caption of the newest frame whenever a key frame has come since the last one.
        max_new_tokens: longest caption in tokens.
        max_age_s: a frame that arrived longer ago gets no caption.
    """

    prompt: str = "Describe what you see."
    period_s: float = 0.0
    on_keyframe: bool = True
    max_new_tokens: int = 128
    max_age_s: float = 5.0

    def __post_init__(self) -> None:
        limits = (
            ("prompt", self.prompt, bool(self.prompt.strip()), "some words"),
            ("period_s", self.period_s, self.period_s >= 0, "0 (none) or above"),
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1"),
            ("max_age_s", self.max_age_s, self.max_age_s > 0, "above 0"),
        )
        for name, value, valid, wanted in limits:
            if not valid:
                raise PromptError(f"caption.{name} is {value!r}, it must be {wanted}")


class CameraState:
    """One camera.

    Attributes:
        camera: its name.
        session: its memory and cache.
        mailbox: the frame that waits.
        observed_s: when the newest frame was taken into the memory, on the monotonic clock; None before the first.
        bad_frames: images that could not be converted.
        last_error: why the last of them could not.
        newest_failed: whether the newest image was one of them.
        captioned_s: when a caption was last made or skipped, on the monotonic clock.
        captions: made so far.
        captions_skipped: due, but their frame had become too old.
    """

    def __init__(self, camera: str, session: SceneSession, mailbox: Mailbox):
        self.camera, self.session, self.mailbox = camera, session, mailbox
        self.observed_s: float | None = None
        self.captioned_s = 0.0
        self.bad_frames = self.captions = self.captions_skipped = 0
        self.last_error = ""
        self.newest_failed = False
        self._key_waits = False
        self._captioned_seq = -1
        self._captioned_ns = -(2**63)

    @property
    def newest(self) -> HeldFrame | None:
        """The newest frame held."""
        frames = self.session.memory.frames
        return frames[-1] if frames else None

    def observe(self, frame: Frame) -> None:
        """Takes a frame into the memory."""
        self.newest_failed = False
        kind = self.session.observe(frame)
        if kind is not None:
            self.observed_s = monotonic()
            self._key_waits |= kind == FrameKind.KEY

    def cannot_read(self, error: MediaError) -> None:
        """Counts an image that could not be converted."""
        self.bad_frames += 1
        self.last_error, self.newest_failed = str(error), True

    def caption_due(self, config: CaptionConfig) -> HeldFrame | None:
        """The newest frame, if it is due for a caption; one that is due but too old is skipped."""
        newest = self.newest
        if newest is None or newest.seq == self._captioned_seq:
            return None
        waited_s = abs(newest.stamp_ns - self._captioned_ns) * 1e-9  # a jump back in time is due as well
        if not (config.on_keyframe and self._key_waits) and not 0 < config.period_s <= waited_s:
            return None
        assert self.observed_s is not None
        if monotonic() - self.observed_s > config.max_age_s:
            self.captions_skipped += 1
            self.captioned(newest)
            return None
        return newest

    def captioned(self, frame: HeldFrame) -> None:
        """Nothing is to be said any more about this frame and those before it."""
        self._captioned_seq, self._captioned_ns = frame.seq, frame.stamp_ns
        self.captioned_s = monotonic()
        self._key_waits = any(f.seq > frame.seq and f.kind == FrameKind.KEY for f in self.session.memory.frames)
