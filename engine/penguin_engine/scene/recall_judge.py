"""The model judges pictures at the smallest size: the probability that each helps to answer a question."""

from __future__ import annotations

import math
from collections.abc import Sequence

from penguin_engine.runtimes.base import VisualTokens
from penguin_engine.scene.generation import AnswerHooks
from penguin_engine.scene.memory import HeldFrame
from penguin_engine.scene.pace import Pace
from penguin_engine.scene.paced_cache import append
from penguin_engine.scene.session import SceneSession
from penguin_models.errors import CancelledError
from penguin_models.judge import judge_segments, yes_probability
from penguin_models.processor import Processor

_AT_ONCE = 8
"""Most pictures that are encoded together."""


class Judge:
    """Judges pictures for one question."""

    def __init__(self, processor: Processor, session: SceneSession, question: str, hooks: AnswerHooks):
        """Prepares the prompt.

        Args:
            processor: Processor of the checkpoint that judges.
            session: Its encoder encodes the pictures, at the smallest size of its memory's ladder.
            question: Plain text.
            hooks: Its `cancelled` is polled and `on_token` called between pictures.
        """
        self._processor, self._session, self._hooks = processor, session, hooks
        self._before, self._after = judge_segments(processor, question)

    def cost_s(self, pace: Pace, frame: HeldFrame) -> tuple[float, float]:
        """Returns the predicted seconds for the question, and for each picture such as this."""
        memory = self._session.memory
        tokens = memory.tokens_of(memory.shrunk(frame.size, 0))
        encode_s = pace.encode_s(tokens * memory.config.merge_size**2)
        return pace.append_s(len(self._before)), encode_s + pace.append_s(tokens + len(self._after))

    def judge(self, frames: Sequence[HeldFrame], pace: Pace | None = None, end_s: float = math.inf) -> list[float]:
        """Returns the probability of each picture in turn, for as many as the time permits.

        Args:
            frames: The pictures.
            pace: The pace of the session; without one there is no end.
            end_s: When judging has to end, on the clock of the pace.

        Raises:
            CancelledError: Cancelled between two pictures.
        """
        if not frames:
            return []
        memory = self._session.memory
        sized = [(frame, memory.shrunk(frame.size, 0)) for frame in frames]
        largest = max(memory.tokens_of(size) for _, size in sized)
        cache = self._session.open_cache(len(self._before) + largest + len(self._after))
        probabilities: list[float] = []

        def judged(tokens: VisualTokens) -> float:
            if self._interrupted():
                raise CancelledError("cancelled while episodes were judged")
            logits = append(cache, [tokens, self._after], self._interrupted)
            cache.truncate(len(self._before))
            return yes_probability(self._processor, logits)

        try:
            append(cache, [self._before], self._interrupted)
            while len(probabilities) < len(frames):
                batch = sized[len(probabilities) :][:_AT_ONCE]
                if pace is not None:
                    picture_s = max(self.cost_s(pace, frames[0])[1], 1e-9)
                    at_once = min(_AT_ONCE, max(1.0, pace.config.max_step_s / picture_s))
                    batch = batch[: max(0, int(min((end_s - pace.clock()) / picture_s, at_once)))]
                if not batch:
                    break
                probabilities += map(judged, self._session.encoder.encode_at(batch))
        finally:
            cache.close()
        return probabilities

    def _interrupted(self) -> bool:
        self._hooks.on_token()
        return self._hooks.cancelled()
