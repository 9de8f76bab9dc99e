"""Suffix: the end of a prompt and its answer, in a KV cache after a prefix that stays.

It is kept after the answer: if the next prompt begins in the same way, as the next turn of a conversation does, only
the rest is prefilled.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from penguin_engine.runtimes.base import KVCache
from penguin_engine.scene.answer import Answer, LapTimer
from penguin_engine.scene.generation import AnswerHooks, Sampling, prefill_and_generate
from penguin_engine.scene.paced_cache import PacedCache
from penguin_models.processor import Processor


class Suffix:
    """Which tokens a cache holds after its prefix. Its owner clears it when it truncates the cache to the prefix."""

    def __init__(self) -> None:
        self._ids: Sequence[int] = ()

    def clear(self) -> None:
        """Notes that the cache holds the prefix alone."""
        self._ids = ()

    def shared(self, token_ids: Sequence[int]) -> int:
        """Returns how many of the first tokens of a prompt's end are in the cache; the last one never counts."""
        pairs = zip(self._ids, token_ids[:-1], strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def answer(
        self,
        answer: Answer,
        timer: LapTimer,
        cache: KVCache | PacedCache,
        prefix: int,
        token_ids: Sequence[int],
        processor: Processor,
        sampling: Sampling,
        hooks: AnswerHooks,
    ) -> None:
        """Prefills what the cache does not hold of a prompt's end, and generates.

        Arguments, and what it raises, are those of `prefill_and_generate`, and

        Args:
            prefix: Length of the prefix in tokens; after an error the cache holds it alone.
            token_ids: The end of the prompt.
        """
        shared = self.shared(token_ids)
        self.clear()
        cache.truncate(prefix + shared)
        try:
            prefill_and_generate(answer, timer, cache, [token_ids[shared:]], processor, sampling, hooks)
        except BaseException:
            cache.truncate(min(prefix, cache.length))
            raise
        # The last token of an answer is not appended if no other one follows.
        self._ids = (*token_ids, *answer.token_ids)[: cache.length - prefix]
