"""PacedCache: a KV cache that is extended in chunks, measures them, and can be interrupted between two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from penguin_engine.runtimes.base import KVCache, PromptSegment, part_of, segment_length
from penguin_engine.scene.pace import Pace
from penguin_models.errors import CancelledError
from penguin_models.types import Float32Array


def never() -> bool:
    """Returns false."""
    return False


class PacedCache:
    """Wraps a KV cache; what it does not mention behaves as there."""

    def __init__(self, cache: KVCache, pace: Pace):
        self._cache, self._pace = cache, pace
        self.truncate, self.close = cache.truncate, cache.close

    @property
    def length(self) -> int:
        """Number of cached tokens."""
        return self._cache.length

    def append(self, segments: Sequence[PromptSegment], interrupted: Callable[[], bool] = never) -> Float32Array:
        """See `KVCache.append`.

        Raises:
            CancelledError: `interrupted`, which is called before each chunk, was true; nothing was appended.
        """
        before = self.length
        single = len(segments) == 1 and segment_length(segments[0]) == 1  # a step of decoding
        try:
            for chunk in [segments] if single else chunks(segments, self._pace.chunk_tokens):
                if interrupted():
                    raise CancelledError("interrupted during the prefill")
                start_s, length = self._pace.clock(), self.length
                logits = self._cache.append(chunk)
                self._pace.append.observe(self.length - length, self._pace.clock() - start_s)
        except BaseException:
            self._cache.truncate(before)
            raise
        return logits


def append(
    cache: KVCache | PacedCache, segments: Sequence[PromptSegment], interrupted: Callable[[], bool] = never
) -> Float32Array:
    """Appends to a cache; only one that keeps a pace can be interrupted."""
    return cache.append(segments, interrupted) if isinstance(cache, PacedCache) else cache.append(segments)


def chunks(segments: Sequence[PromptSegment], size: int) -> Iterator[list[PromptSegment]]:
    """Cuts the segments of a prompt into chunks of at most `size` tokens."""
    chunk: list[PromptSegment] = []
    room = size
    for segment in segments:
        start, length = 0, segment_length(segment)
        while start < length:
            stop = min(length, start + room)
            chunk.append(part_of(segment, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield chunk
                chunk, room = [], size
    if chunk:
        yield chunk
