"""A runtime with scripted answers and delays: no real model answers with a chosen text at a chosen speed.

Its delays release the GIL, as real runtimes do.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from penguin_engine.runtimes.base import KVCache, RuntimeInfo, check_fits

BOX_ANSWER = "A [red cube](100,200,300,400). During the period 0.50 - 1.00 seconds."


@dataclass(frozen=True)
class ScriptedTokens:
    length: int

    def part(self, start, stop):
        return ScriptedTokens(stop - start)


class ScriptedRuntime:
    """Answers every prompt with the same text.

    Attributes:
        text: Answer to every question; "" repeats the question, "boom" raises an error instead, "nan" makes logits NaN.
        token_s: Duration of every `append` in seconds.
        encode_s: Duration of the encoding of one image in seconds.
        pause_s: Maximum additional duration of the third token of an answer in seconds.
        pause_ends: Event that ends this pause, and later ones.
        fails_at: Number of the token at which the runtime raises an error; 0 for never.
        open_caches: Number of caches that are open.
    """

    def __init__(
        self, processor, text=BOX_ANSWER, token_s=0.0, encode_s=0.0, pause_s=0.0, fails_at=0, context_length=65_536
    ):
        self.info = RuntimeInfo("scripted", "cpu", "float32", context_length, max(processor.end_token_ids) + 1)
        self.text, self.token_s, self.encode_s, self.pause_s = text, token_s, encode_s, pause_s
        self.fails_at = fails_at
        self.pause_ends = threading.Event()
        self.open_caches = 0
        self._processor = processor

    def encode(self, images):
        time.sleep(self.encode_s * len(images))
        return [ScriptedTokens(image.grid.area // image.merge_size**2) for image in images]

    def open_cache(self, max_length):
        check_fits(max_length, self.info.context_length, "the cache")
        self.open_caches += 1
        return ScriptedCache(self, max_length)

    def synchronize(self):
        pass

    def close(self):
        assert self.open_caches == 0

    def answer_tokens(self, question):
        ends = self._processor.end_token_ids
        answer = self._processor.encode_text(self.text) if self.text else takewhile(lambda t: t not in ends, question)
        return [*answer, next(iter(ends))]


class ScriptedCache(KVCache):
    def __init__(self, runtime, max_length):
        super().__init__(max_length, runtime.info.dtype)
        self._runtime, self._generated, self._question = runtime, 0, []
        self._faulty = False  # faults begin with the first image, so that a node can be configured

    def _extend(self, segments, new):
        self._faulty |= any(isinstance(segment, ScriptedTokens) for segment in segments)
        if self._runtime.text == "boom" and self._faulty:
            raise RuntimeError("boom")
        time.sleep(self._runtime.token_s)
        self.length += new
        self._generated = self._generated + 1 if new == 1 else 0
        if self._generated == 0 and not isinstance(segments[-1], ScriptedTokens):
            self._question = segments[-1]
        if self._generated == 3:
            self._runtime.pause_ends.wait(self._runtime.pause_s)
        if self._faulty and 0 < self._runtime.fails_at == self._generated:
            raise RuntimeError("boom")
        answer = self._runtime.answer_tokens(self._question)
        value = np.nan if self._runtime.text == "nan" and self._faulty else 0
        logits = np.full(self._runtime.info.vocab_size, value, np.float32)
        logits[answer[min(self._generated, len(answer) - 1)]] = 1
        return logits

    def _free(self):
        self._runtime.open_caches -= 1
