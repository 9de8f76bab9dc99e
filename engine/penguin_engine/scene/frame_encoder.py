"""FrameEncoder: visual tokens of held frames, once per size and in steps that a question can interrupt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from penguin_engine.runtimes.base import Runtime, VisualTokens
from penguin_engine.scene.evidence import Shown
from penguin_engine.scene.memory import HeldFrame
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.paced_cache import never
from penguin_models.errors import CancelledError
from penguin_models.images import patch_image
from penguin_models.processor import Processor
from penguin_models.types import Size

_FRAMES_PER_STEP = 8
"""Most frames that are encoded together."""


class FrameEncoder:
    """Encodes the frames of one memory; a pace learns what they cost, and bounds the steps."""

    def __init__(
        self, runtime: Runtime, processor: Processor, merge_size: int, text_tokens: int, pace: Pace | None = None
    ):
        """Sets what frames are encoded with; `text_tokens` come before each frame in the prompt."""
        self._runtime, self._processor, self._pace = runtime, processor, pace
        self._merge_size, self._text_tokens = merge_size, text_tokens

    def at_once(self, frame: HeldFrame) -> int:
        """Returns how many frames like this one make a step of encoding and prefilling."""
        if self._pace is None:
            return _FRAMES_PER_STEP
        patches, tokens = frame.tokens * self._merge_size**2, frame.tokens + self._text_tokens
        return min(_FRAMES_PER_STEP, self._pace.frames_at_once(patches, tokens))

    def encode(self, frames: Sequence[HeldFrame], interrupted: Callable[[], bool] = never) -> None:
        """Encodes those frames that have no visual tokens yet, at the size at which the memory holds them.

        Raises:
            CancelledError: `interrupted`, which is polled between steps, was true.
        """
        missing = [frame for frame in frames if frame.encoded is None]
        while missing:
            step = missing[: self.at_once(missing[0])]
            encoded = self.encode_at([(frame, frame.size) for frame in step])
            for frame, tokens in zip(step, encoded, strict=True):
                frame.encoded = tokens
            del missing[: len(step)]
            if missing and interrupted():
                raise CancelledError("interrupted between two frames")

    def encode_shown(self, shown: Sequence[Shown], interrupted: Callable[[], bool] = never) -> list[VisualTokens]:
        """Returns the visual tokens of frames as an answer shows them; raises what `encode` does."""
        self.encode([item.frame for item in shown if item.as_held], interrupted)
        return [item.frame.encoded if item.as_held else self.encode_at([(item.frame, item.size)])[0] for item in shown]

    def encode_at(self, frames: Sequence[tuple[HeldFrame, Size]]) -> Sequence[VisualTokens]:
        """Encodes frames at given sizes together, and lets the pace learn what one costs."""
        start_s = self._pace.clock() if self._pace else 0.0
        images = self._processor.images
        patched = [patch_image(frame.pixels, size, self._merge_size, images) for frame, size in frames]
        encoded = self._runtime.encode(patched)
        if self._pace is not None:
            self._runtime.synchronize()
            patches = sum(image.grid.area for image in patched)
            self._pace.encode.observe(patches // len(patched), (self._pace.clock() - start_s) / len(patched))
        return encoded
