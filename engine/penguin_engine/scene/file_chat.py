"""FileChat: a conversation about images or a clip, on any `Runtime`. Knows nothing of ROS.

The images are encoded and prefilled once. Turns stay in the KV cache after them, within the bounds of conversations.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penguin_engine.runtimes.base import PromptSegment, Runtime, check_fits, interleave, segment_length
from penguin_engine.scene.answer import Answer, LapTimer
from penguin_engine.scene.conversations import Conversations, fits_tokens
from penguin_engine.scene.generation import AnswerHooks, Sampling
from penguin_engine.scene.offline import Media, ShownMedia
from penguin_engine.scene.requests import RESERVED_TOKENS, Request
from penguin_engine.scene.session import system_ids
from penguin_engine.scene.suffix import Suffix
from penguin_models.chat import TURN_START
from penguin_models.processor import Processor

_ID = "chat"


class FileChat:
    """Questions about the same images, each after those before it."""

    def __init__(
        self,
        runtime: Runtime,
        processor: Processor,
        media: Sequence[Media] = (),
        max_tokens: int | None = None,
        size_rule: str = "strict",
        sampling: Sampling | None = None,
        system: str = "",
    ):
        """Encodes and prefills the images and clips; arguments are those of `ask_conversations`, and

        Args:
            system: The system prompt; empty for none.

        Raises:
            PromptError: The system prompt contains a reserved token.
            BudgetError: The budget is too small for the frames.
            ContextLengthError: The images exceed the context.
            MediaError: A clip cannot be read.
        """
        self._processor, self._sampling = processor, sampling or Sampling()
        self._timer = LapTimer()
        self._shown = ShownMedia(processor, media, self._timer, max_tokens, size_rule)
        before = system_ids(processor, system)
        if media:
            parts = [{"type": "image" if isinstance(item, np.ndarray) else "video"} for item in media]
            first, *texts = processor.prompt_segments(self._shown.with_times([{"role": "user", "content": parts}]))[:-1]
            texts = [[*before, *first], *texts]
        else:
            texts = [[*before, *processor.encode_text(f"{TURN_START}user")]]
        self._prefix = sum(map(len, texts)) + self._shown.visual_tokens
        context = runtime.info.context_length
        check_fits(self._prefix + self._sampling.max_new_tokens, context, "the images with an answer")
        self._room = min(RESERVED_TOKENS, context - self._prefix)
        tokens = self._shown.encode(runtime, self._timer, AnswerHooks())
        segments: list[PromptSegment] = interleave([*texts, []], tokens)[:-1] if media else [*texts]
        assert sum(map(segment_length, segments)) == self._prefix
        self._cache = runtime.open_cache(self._prefix + self._room)
        self._cache.append(segments)
        self._seconds = {**self._shown.seconds, "prefill": self._timer.lap()}
        self._suffix, self._conversations = Suffix(), Conversations(processor)

    def ask(self, question: str, hooks: AnswerHooks | None = None) -> Answer:
        """Answers a question after the earlier turns; the first answer's seconds include what the images took.

        Raises:
            PromptError: The question is empty, too long, not Unicode, or contains reserved tokens.
            ContextLengthError: Question and answer do not fit.
        """
        request = Request.prepare(self._processor, question, self._sampling, conversation_id=_ID)
        check_fits(len(request.token_ids) + self._sampling.max_new_tokens, self._room, "the question with its answer")
        fits = lambda request: fits_tokens(request, self._room)  # noqa: E731
        return self._conversations.answer(request, fits, lambda request: self._answer(request, hooks or AnswerHooks()))

    def close(self) -> None:
        """Frees the cache; the runtime stays open."""
        self._cache.close()

    def _answer(self, request: Request, hooks: AnswerHooks) -> Answer:
        self._timer.lap()
        answer = self._shown.new_answer(len(request.token_ids))
        self._suffix.answer(
            answer, self._timer, self._cache, self._prefix, request.token_ids, self._processor, request.sampling, hooks
        )
        for name, seconds in self._seconds.items():
            answer.seconds[name] = answer.seconds.get(name, 0.0) + seconds
        self._seconds = {}
        return answer
