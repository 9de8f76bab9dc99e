"""An answer: what the model wrote, what it points at, and what it cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from penguin_engine.scene.episode import Evidence
from penguin_engine.scene.memory import HeldFrame
from penguin_models.grounding import Grounding
from penguin_models.types import Size


@dataclass
class Answer:
    """An answer and its cost."""

    raw: str = ""  # text as the model wrote it, with box syntax
    token_ids: tuple[int, ...] = field(default=(), repr=False)  # its tokens, without the end token
    # Clean text (of an answer that follows a JSON schema all of it), objects and time ranges
    grounding: Grounding = field(default_factory=lambda: Grounding(""))
    scores: tuple[float, ...] = ()  # confidence of each object's box, 0 to 1; NaN if it could not be measured
    image_size: Size | None = None  # size in pixels of the image that boxes refer to: the last one in the prompt
    start_ns: int = 0  # stamp of the first frame in the prompt; times in the answer count from it. 0 for files
    ended_by: str = ""  # "end" (end token), "stop" (stop string), "length" or "cancelled"
    frames: int = 0  # number of images or sampled frames in the prompt
    frames_pending: int = 0  # number of frames in memory that were left out to meet the deadline
    predicted_s: float = math.nan  # predicted seconds from the start of the work to the first token; NaN without a pace
    keyframes: int = 0  # number of those that are keyframes
    visual_tokens: int = 0  # number of visual tokens in the prompt
    prompt_tokens: int = 0  # number of all tokens in the prompt
    generated_tokens: int = 0  # number of tokens in the answer
    evidence: tuple[Evidence, ...] = ()  # episodes in the prompt, in order of time
    candidates_judged: int = 0  # number of episodes that the model judged for their place in the prompt
    # Number of episodes that were found but not judged, to meet the deadline or because their picture is damaged
    candidates_left_out: int = 0
    turns_used: int = 0  # number of earlier turns of the conversation in the prompt
    turns_forgotten: int = 0  # number of those that were left out of it
    # Camera and last frame of the prompt, if the question asked for more than the newest frames
    newest: tuple[str, HeldFrame] | None = field(default=None, repr=False)
    # Wall time of "read" (decoding, labelling and patching frames), "recall" (finding and judging episodes), "encode",
    # "prefill" and "decode"
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def first_token_s(self) -> float:
        """Seconds from the start of the work to the first token."""
        return self.total_s - self.seconds.get("decode", 0.0)

    @property
    def total_s(self) -> float:
        """Seconds from the start of the work to the last token."""
        return sum(self.seconds.values())

    def to_dict(self) -> dict[str, Any]:
        """Returns plain types for JSON; boxes are in pixels of the image they refer to."""
        boxes = [o.box.to_pixels(self.image_size) if self.image_size else None for o in self.grounding.objects]
        return {
            "answer": self.grounding.text,
            "raw": self.raw,
            "objects": [
                {"label": o.label, "box_px": box, "score": None if math.isnan(score) else round(score, 4)}
                for o, box, score in zip(self.grounding.objects, boxes, self.scores, strict=True)
            ],
            "time_ranges": [{"start_s": t.start_s, "end_s": t.end_s} for t in self.grounding.time_ranges],
            "malformed_boxes": self.grounding.malformed,
            "ended_by": self.ended_by,
            "turns_used": self.turns_used,
            "turns_forgotten": self.turns_forgotten,
            "frames": self.frames,
            "keyframes": self.keyframes,
            "tokens": {"visual": self.visual_tokens, "prompt": self.prompt_tokens, "generated": self.generated_tokens},
            "seconds": {name: round(seconds, 4) for name, seconds in self.seconds.items()},
        }


class LapTimer:
    """Measures the steps of an answer."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._last = clock()

    def lap(self) -> float:
        """Returns the seconds since the previous lap."""
        now = self._clock()
        seconds, self._last = now - self._last, now
        return seconds
