"""The state of one camera: its session, the frame that waits, when a caption is due, and what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.json_answers import grammar_of
from penguin_engine.scene.mailbox import Mailbox
from penguin_engine.scene.memory import HeldFrame
from penguin_engine.scene.pace import Source
from penguin_engine.scene.session import SceneSession
from penguin_models.errors import MediaError, PromptError
from penguin_models.quoting import quoted
from penguin_models.types import Frame, FrameKind, Size


@dataclass(frozen=True)
class CaptionConfig:
    """When captions are made, and how."""

    prompt: str = "Describe what you see."  # what the model is asked
    period_s: float = 0.0  # seconds between captions, by frame stamps; 0 for no periodic captions
    on_keyframe: bool = True  # whether a new keyframe makes a caption due
    max_new_tokens: int = 128  # maximum length of a caption in tokens
    max_age_s: float = 5.0  # a frame that arrived longer ago than this gets no caption
    response_schema: str = ""  # JSON schema that captions follow, or "objects"; empty for plain text

    @property
    def wanted(self) -> bool:
        """Whether there are captions at all."""
        return self.on_keyframe or self.period_s > 0

    @property
    def sampling(self) -> Sampling:
        """How a caption is generated."""
        return Sampling(max_new_tokens=self.max_new_tokens, grammar=grammar_of(self.response_schema))

    def __post_init__(self) -> None:
        limits = (
            ("prompt", self.prompt, bool(self.prompt.strip()), "non-empty"),
            ("period_s", self.period_s, self.period_s >= 0, "0 (none) or above"),
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1"),
            ("max_age_s", self.max_age_s, self.max_age_s > 0, "above 0"),
        )
        for name, value, valid, wanted in limits:
            if not valid:
                raise PromptError(f"caption.{name} is {quoted(value)}, it must be {wanted}")
        try:
            grammar_of(self.response_schema)
        except PromptError as err:
            raise PromptError(f"caption.response_schema: {err}") from err


class CameraState:
    """Everything the worker knows about one camera.

    Attributes:
        camera: Name of the camera.
        session: Its memory and KV cache.
        mailbox: The frame that waits to be taken.
        failure: The error that cleared the memory; None if there was none, or the memory was cleared since.
        observed_s: When the newest frame entered the memory, on the worker's clock; None before the first.
        bad_frames: Number of images that could not be converted.
        last_error: Why the last of them could not be converted.
        newest_failed: Whether the newest image could not be converted.
        source_size: Size of the newest image in pixels; None before the first.
        silence: Why no images arrive, set by the owner; part of the error if there is no frame.
        watched_s: When a condition was last judged, on the worker's clock.
        captioned_s: When a caption was last made or skipped, on the worker's clock.
        captions: Number of captions made.
        captions_skipped: Number of captions that were due when their frame was already too old.
    """

    def __init__(self, camera: str, session: SceneSession, mailbox: Mailbox, clock: Callable[[], float] = monotonic):
        self.camera, self.session, self.mailbox = camera, session, mailbox
        self.failure: Exception | None = None
        self.observed_s: float | None = None
        self.source_size: Size | None = None
        self.captioned_s = self.watched_s = 0.0
        self.bad_frames = self.captions = self.captions_skipped = 0
        self.last_error = self.silence = ""
        self.newest_failed = False
        self._clock = clock
        self._keyframe_waits = False
        self._captioned_seq = -1
        self._captioned_ns = -(2**63)

    @property
    def newest(self) -> HeldFrame | None:
        """The newest frame in memory."""
        frames = self.session.memory.frames
        return frames[-1] if frames else None

    @property
    def clears(self) -> int:
        """How often the memory was cleared."""
        return self.session.memory.counters.clears

    @property
    def source(self) -> Source:
        """What frames of the newest image's size cost."""
        assert self.source_size is not None
        memory = self.session.memory
        counters = memory.counters
        return Source(
            memory.native_tokens(self.source_size),
            memory.config.merge_size**2,
            self.session.text_tokens,
            counters.patches_encoded / max(1, counters.patches_arrived) or 1.0,
            counters.tokens_prefilled / max(1, counters.tokens_arrived) or 1.0,
        )

    @property
    def why_empty(self) -> str:
        """Why there is no frame in memory, as far as that is known."""
        return f"the newest image could not be read: {self.last_error}" if self.newest_failed else self.silence

    def observe(self, frame: Frame) -> FrameKind | None:
        """Adds a frame to the memory and returns its kind, or None if it was late and dropped."""
        self.newest_failed = False
        kind = self.session.observe(frame)
        if kind is not None:
            self.observed_s = self._clock()
            self._keyframe_waits |= kind == FrameKind.KEY
        return kind

    def cannot_read(self, error: MediaError) -> None:
        """Counts an image that could not be converted."""
        self.bad_frames += 1
        self.last_error, self.newest_failed = str(error), True

    def caption_due(self, config: CaptionConfig) -> HeldFrame | None:
        """Returns the newest frame if a caption of it is due; a frame that has become too old is skipped."""
        newest = self.newest
        if newest is None or newest.seq == self._captioned_seq:
            return None
        elapsed_s = abs(newest.stamp_ns - self._captioned_ns) * 1e-9  # a jump back in time makes one due as well
        if not (config.on_keyframe and self._keyframe_waits) and not 0 < config.period_s <= elapsed_s:
            return None
        assert self.observed_s is not None
        if self._clock() - self.observed_s > config.max_age_s:
            self.captions_skipped += 1
            self.captioned(newest)
            return None
        return newest

    def captioned(self, frame: HeldFrame) -> None:
        """Notes that this frame and those before it need no caption any more."""
        self._captioned_seq, self._captioned_ns = frame.seq, frame.stamp_ns
        self.captioned_s = self._clock()
        self._keyframe_waits = any(f.seq > frame.seq and f.kind == FrameKind.KEY for f in self.session.memory.frames)
