"""The KV cache of one scene over compiled plans: what is held, and the decoding steps recorded for it."""

from __future__ import annotations

from collections.abc import Sequence

from penguin_engine.runtimes.base import PromptSegment
from penguin_engine.runtimes.exported import TOKENS_PER_STEP, ReservedCache, chunks
from penguin_engine.runtimes.tensorrt.gpu import CacheMemory, Gpu
from penguin_engine.runtimes.tensorrt.steps import DecoderSteps, RecordedStep
from penguin_models.types import Float32Array


class PlanCache(ReservedCache):
    """A `KVCache` in GPU memory that is reserved once."""

    def __init__(self, decoder: DecoderSteps, memory: CacheMemory, gpu: Gpu, max_length: int):
        super().__init__(max_length)
        self._decoder, self._gpu = decoder, gpu
        self._memory: CacheMemory | None = memory
        self._recorded: dict[int, RecordedStep] = {}

    def append(self, parts: Sequence[PromptSegment]) -> Float32Array:
        """Extends the cache; see `KVCache.append`."""
        new = self._count(parts)
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

    def close(self) -> None:
        """Frees the memory."""
        with self._gpu.active():
            for step in self._recorded.values():
                step.recorded.close()
            self._recorded.clear()
            self._memory = None
