"""The KV cache of one scene over compiled plans: what is held, and the decoding steps recorded for it."""

from __future__ import annotations

from collections.abc import Sequence

from penguin_engine.exported import TOKENS_PER_STEP, chunks
from penguin_engine.gpu import CacheMemory, Gpu
from penguin_engine.plan_steps import DecoderSteps, RecordedStep
from penguin_engine.runtime import Part, check_fits, part_length
from penguin_models.types import Float32Array


class PlanCache:
    """A `Cache` in GPU memory that is reserved once."""

    def __init__(self, decoder: DecoderSteps, memory: CacheMemory, gpu: Gpu, max_length: int):
        self._decoder, self._gpu, self._max_length = decoder, gpu, max_length
        self._memory: CacheMemory | None = memory
        self._recorded: dict[int, RecordedStep] = {}
        self._length = 0

    @property
    def length(self) -> int:
        """Tokens held."""
        return self._length

    def append(self, parts: Sequence[Part]) -> Float32Array:
        """Extends the cache; see `Cache.append`."""
        new = sum(part_length(part) for part in parts)
        check_fits(self._length + new, self._max_length, "the cache")
        assert new > 0, "nothing to append"
        assert self._memory is not None, "the cache is closed"
        with self._gpu.active():
            for chunk in chunks(parts, TOKENS_PER_STEP):
                part = chunk[0].part
                if new == 1 and isinstance(part, Sequence):
                    self._decoder.decode(int(part[0]), self._length, self._memory, self._recorded)
                    self._length += 1
                else:
                    self._length += self._decoder.prefill(chunk, self._length, self._memory)
            return self._decoder.logits()

    def truncate(self, length: int) -> None:
        """Forgets everything after the first `length` tokens."""
        assert 0 <= length <= self._length, f"cannot truncate {self._length} tokens to {length}"
        self._length = length

    def close(self) -> None:
        """Frees the memory."""
        with self._gpu.active():
            for step in self._recorded.values():
                step.recorded.close()
            self._recorded.clear()
            self._memory = None
