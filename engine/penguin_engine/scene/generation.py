"""Tokens one after the other: sampling, stop strings, streaming text, cancelling. The same for every runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from penguin_engine.runtimes.base import KVCache, PromptSegment
from penguin_engine.scene.answer import Answer, Clock
from penguin_engine.scene.box_confidence import box_scores
from penguin_models.errors import PromptError
from penguin_models.grounding import parse
from penguin_models.processor import Processor
from penguin_models.types import Float32Array


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        max_new_tokens: an answer ends after so many tokens.
        temperature: 0 takes the likeliest token.
        top_p: sample from the likeliest tokens that together have this probability.
        top_k: sample from so many likeliest tokens at most; 0 for all.
        seed: the same seed gives the same answer.
        stop: strings that end an answer; they are not part of it.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        limits = (
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature, self.temperature >= 0, "0 or above"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k, self.top_k >= 0, "0 or above"),
            ("stop", self.stop, all(self.stop), "strings that are not empty"),
        )
        for name, value, valid, wanted in limits:
            if not valid:
                raise PromptError(f"{name} is {value!r}, it must be {wanted}")


class Sampler:
    """Chooses tokens for one answer."""

    def __init__(self, sampling: Sampling):
        self._sampling = sampling
        self._random = np.random.default_rng(sampling.seed)

    def choose(self, logits: Float32Array) -> tuple[int, float]:
        """Next token given logits float32 [vocab], and the model's probability of it (at temperature 1)."""
        token = self._choose(logits)
        above = logits - logits.max()
        return token, float(np.exp(above[token]) / np.exp(above).sum(dtype=np.float64))

    def _choose(self, logits: Float32Array) -> int:
        s = self._sampling
        if s.temperature == 0:
            return int(logits.argmax())
        order = np.argsort(-logits, kind="stable")[: s.top_k or None]
        scaled = (logits[order] - logits[order[0]]).astype(np.float64) / s.temperature
        probabilities = np.exp(scaled)
        probabilities /= probabilities.sum()
        if s.top_p < 1:
            kept = int(np.searchsorted(np.cumsum(probabilities), s.top_p)) + 1
            order, probabilities = order[:kept], probabilities[:kept] / probabilities[:kept].sum()
        return int(self._random.choice(order, p=probabilities))


class TextStream:
    """Turns tokens into text as they come, and notices stop strings.

    Text is held back while it could still change (half a character) or be the beginning of a stop string.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()):
        self._decode = decode
        self._stop = stop
        self._ids: list[int] = []
        self._start = 0  # first token that is not behind text already given out
        self._context = 0  # decoding starts a little earlier: some tokenizers join tokens by spaces
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Adds a token; the text that is certain now."""
        self._ids.append(token)
        before = self._decode(self._ids[self._context : self._start])
        text = self._decode(self._ids[self._context :])
        if text.endswith("\N{REPLACEMENT CHARACTER}") and len(self._ids) - self._start < 4:
            return ""  # the token ends inside a character of up to four bytes
        self._context, self._start = self._start, len(self._ids)
        return self._release(text[len(before) :])

    def finish(self) -> str:
        """The text that was held back, when no more tokens come."""
        if self.stopped:
            return ""
        rest = self._decode(self._ids[self._context :])[len(self._decode(self._ids[self._context : self._start])) :]
        self._start = len(self._ids)
        text = self._release(rest)
        held, self._held = self._held, ""
        return text if self.stopped else text + held

    def _release(self, text: str) -> str:
        text = self._held + text
        found = [i for stop in self._stop if (i := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max((n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


@dataclass
class Generation:
    """What has been generated so far.

    Attributes:
        ids: tokens, the end token not among them.
        probabilities: of each token when it was chosen, without temperature.
        ends: length of the streamed text after each token.
        text: what has been streamed.
        ended_by: "end" (the model), "stop" (a stop string), "length", "cancelled", or "" while it goes on.
    """

    ids: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    text: str = ""
    ended_by: str = ""


def generate(
    cache: KVCache,
    logits: Float32Array,
    processor: Processor,
    sampling: Sampling,
    generation: Generation,
    cancelled: Callable[[], bool] = lambda: False,
    on_token: Callable[[int], None] = lambda count: None,
) -> Iterator[str]:
    """Continues a cache and yields pieces of text; their sum is the answer.

    Args:
        cache: holds the prompt; grows by the answer.
        logits: after the prompt, float32 [vocab].
        processor: decodes.
        sampling: how tokens are chosen and when to stop.
        generation: filled as the answer grows.
        cancelled: asked between two tokens.
        on_token: called after each token with their number.
    """
    sampler, stream = Sampler(sampling), TextStream(processor.decode, sampling.stop)

    def emit(piece: str) -> Iterator[str]:
        generation.text += piece
        if piece:
            yield piece

    while not generation.ended_by:
        token, probability = sampler.choose(logits)
        if token in processor.end_token_ids:
            generation.ended_by = "end"
            break
        generation.ids.append(token)
        on_token(len(generation.ids))
        generation.probabilities.append(probability)
        yield from emit(stream.push(token))
        generation.ends.append(len(generation.text))
        if stream.stopped:
            generation.ended_by = "stop"
        elif len(generation.ids) >= sampling.max_new_tokens:
            generation.ended_by = "length"
        elif cancelled():
            generation.ended_by = "cancelled"
        else:
            logits = cache.append([[token]])
    yield from emit(stream.finish())


def prefill_and_generate(
    answer: Answer,
    clock: Clock,
    cache: KVCache,
    parts: Sequence[PromptSegment],
    processor: Processor,
    sampling: Sampling,
    on_text: Callable[[str], None],
    cancelled: Callable[[], bool],
    on_token: Callable[[int], None] = lambda count: None,
) -> None:
    """Prefills the last parts of a prompt, generates, and fills in what the answer says and cost.

    Args:
        answer: its text, tokens and seconds of prefill and decode are set.
        clock: last read when the prefill begins.
        cache: holds the beginning of the prompt; grows by the parts and the answer.
        parts: rest of the prompt.
        processor: decodes.
        sampling: how tokens are chosen and when to stop.
        on_text: called with each piece of text as it comes.
        cancelled: asked between two tokens.
        on_token: called after each token with their number.
    """
    logits = cache.append(parts)
    answer.prompt_tokens = cache.length
    answer.seconds["prefill"] = clock.lap()
    generation = Generation()
    for piece in generate(cache, logits, processor, sampling, generation, cancelled, on_token):
        on_text(piece)
    answer.seconds["decode"] = clock.lap()
    answer.raw, answer.ended_by = generation.text, generation.ended_by
    answer.grounding = parse(generation.text)
    answer.scores = box_scores(generation.text, answer.grounding.objects, generation.ends, generation.probabilities)
    answer.generated_tokens = len(generation.ids)
