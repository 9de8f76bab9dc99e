"""A runtime that does nothing and takes time on a clock of its own: no real one is as fast or slow as a test wants."""

from __future__ import annotations

import numpy as np
from scripted_runtime import ScriptedTokens

from penguin_engine.runtimes.base import KVCache, RuntimeInfo, check_fits


class Clock:
    """A clock that only stands or is advanced."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


class TimedRuntime:
    """Costs of an operation are fixed seconds, and seconds per patch or token.

    Attributes:
        steps: Seconds of each operation.
    """

    def __init__(self, processor, clock, fixed_s, patch_s, token_s):
        self.info = RuntimeInfo("timed", "cpu", "float32", 65_536, max(processor.end_token_ids) + 1)
        self.clock, self.fixed_s, self.patch_s, self.token_s = clock, fixed_s, patch_s, token_s
        self.steps = []
        self.answer = [*processor.encode_text("yes"), next(iter(processor.end_token_ids))]

    def work(self, seconds):
        self.clock.now_s += seconds
        self.steps.append(seconds)

    def encode(self, images):
        self.work(self.fixed_s + self.patch_s * sum(image.grid.area for image in images))
        return [ScriptedTokens(image.grid.area // image.merge_size**2) for image in images]

    def open_cache(self, max_length):
        check_fits(max_length, self.info.context_length, "the cache")
        return TimedCache(self, max_length)

    def synchronize(self):
        pass

    def close(self):
        pass


class TimedCache(KVCache):
    def __init__(self, runtime, max_length):
        super().__init__(max_length, "float32")
        self._runtime, self._generated = runtime, 0

    def _extend(self, segments, new):
        self._runtime.work(self._runtime.fixed_s + self._runtime.token_s * new)
        self.length += new
        self._generated = self._generated + 1 if new == 1 else 0
        logits = np.zeros(self._runtime.info.vocab_size, np.float32)
        logits[self._runtime.answer[min(self._generated, len(self._runtime.answer) - 1)]] = 1
        return logits

    def _free(self):
        pass
