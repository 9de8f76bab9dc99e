"""Token-by-token generation: sampling, stop strings, streaming text, cancelling. The same for every runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from penguin_engine.runtimes.base import KVCache, PromptSegment
from penguin_engine.scene.answer import Answer, LapTimer
from penguin_engine.scene.box_confidence import box_scores
from penguin_engine.scene.grammar_state import GrammarState
from penguin_engine.scene.paced_cache import PacedCache, append
from penguin_models.errors import PromptError
from penguin_models.grounding import parse
from penguin_models.processor import Processor
from penguin_models.quoting import quoted
from penguin_models.types import Float32Array


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    max_new_tokens: int = 256  # maximum length of the answer in tokens
    temperature: float = 0.0  # 0 takes the most likely token
    top_p: float = 1.0  # sample from the smallest set of tokens with at least this total probability
    seed: int = 0  # the same seed gives the same answer
    stop: tuple[str, ...] = ()  # strings that end the answer; they are not part of it
    grammar: str | None = None  # what the answer must follow, from `json_grammar`; None for free text

    def __post_init__(self) -> None:
        limits = (
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1"),
            ("temperature", self.temperature, self.temperature >= 0, "0 or above"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("stop", self.stop, all(self.stop), "a list of non-empty strings"),
        )
        for name, value, valid, wanted in limits:
            if not valid:
                raise PromptError(f"{name} is {quoted(value)}, it must be {wanted}")
        if self.stop and self.grammar is not None:
            raise PromptError(
                "stop could end an answer that follows a JSON schema in its middle; leave out one of them"
            )


@dataclass(frozen=True)
class AnswerHooks:
    """Callbacks for streamed text and cancellation."""

    # Called with each piece of text and the number of tokens generated so far
    on_text: Callable[[str, int], None] = lambda piece, tokens: None
    # Polled between tokens and between the frames prefilled for a question; true ends the answer
    cancelled: Callable[[], bool] = lambda: False
    # Called after each token, and between chunks of a prefill; frames may be observed from it
    on_token: Callable[[], None] = lambda: None
    # Called with each token of the answer and the model's logits that it was chosen from, float32 [vocab]
    on_choice: Callable[[int, Float32Array], None] = lambda token, logits: None


class Sampler:
    """Chooses the tokens of one answer; `state` is how far it has come in its grammar, None for free text."""

    def __init__(self, sampling: Sampling, state: GrammarState | None = None):
        self._sampling, self._state = sampling, state
        self._random = np.random.default_rng(sampling.seed)

    def choose(self, logits: Float32Array) -> tuple[int, float]:
        """Returns the next token given logits float32 [vocab], and its probability at temperature 1."""
        if self._state is not None:
            logits = self._state.restricted(logits)
        token = self._choose(logits)
        if self._state is not None:
            token = self._state.consume(token)
        above = logits - logits.max()
        return token, float(np.exp(above[token]) / np.exp(above).sum(dtype=np.float64))

    def _choose(self, logits: Float32Array) -> int:
        s = self._sampling
        if s.temperature == 0:
            return int(logits.argmax())
        order = np.argsort(-logits, kind="stable")
        scaled = (logits[order] - logits[order[0]]).astype(np.float64) / s.temperature
        probabilities = np.exp(scaled)
        probabilities /= probabilities.sum()
        if s.top_p < 1:
            kept = int(np.searchsorted(np.cumsum(probabilities), s.top_p)) + 1
            order, probabilities = order[:kept], probabilities[:kept] / probabilities[:kept].sum()
        return int(self._random.choice(order, p=probabilities))


class TextStream:
    """Turns tokens into text as they arrive, and detects stop strings; the pieces add up to the text of all tokens.

    Text is held back while it could still change (half a character) or could be the beginning of a stop string.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()):
        self._decode = decode
        self._stop = stop
        # Decoded tokens: those that end with the last whole character, and a few before, because some tokenizers join
        # tokens with spaces.
        self._ids: list[int] = []
        self._boundary = 0  # number of these tokens up to the last whole character
        self._released = 0  # length of their text that was released
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Adds a token and returns the text that can no longer change."""
        self._ids.append(token)
        text = self._decode(self._ids)
        # A character whose bytes are not complete is decoded as replacement characters.
        whole = text.rstrip("\N{REPLACEMENT CHARACTER}")
        if len(whole) <= self._released:
            return ""
        piece = whole[self._released :]
        self._released = len(whole)
        if whole == text:
            del self._ids[: self._boundary]
            self._boundary = len(self._ids)
            self._released = len(self._decode(self._ids))
        return self._release(piece)

    def finish(self) -> str:
        """Returns the text still held back, when no more tokens follow."""
        if self.stopped:
            return ""
        text = self._release(self._decode(self._ids)[self._released :])
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
    """What has been generated so far."""

    ids: list[int] = field(default_factory=list)  # generated tokens, without the end token
    probabilities: list[float] = field(default_factory=list)  # probability of each token at temperature 1
    ends: list[int] = field(default_factory=list)  # length of the streamed text after each token
    text: str = ""  # text streamed so far
    ended_by: str = ""  # "end" (end token), "stop" (stop string), "length", "cancelled", or "" while it continues


def generate(
    cache: KVCache | PacedCache,
    logits: Float32Array,
    processor: Processor,
    sampling: Sampling,
    generation: Generation,
    hooks: AnswerHooks | None = None,
) -> Iterator[str]:
    """Continues a KV cache and yields pieces of text, which concatenate to the answer.

    Args:
        cache: Holds the prompt; grows by the answer.
        logits: Logits after the prompt, float32 [vocab].
        processor: Decodes tokens.
        sampling: How tokens are chosen and when to stop.
        generation: Updated as the answer grows.
        hooks: Its `cancelled` is polled, `on_choice` and `on_token` are called between tokens.
    """
    hooks = hooks or AnswerHooks()
    state = None
    if sampling.grammar is not None:
        state = GrammarState(processor, len(logits), sampling.grammar, sampling.max_new_tokens)
    sampler, stream = Sampler(sampling, state), TextStream(processor.decode, sampling.stop)

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
        hooks.on_choice(token, logits)
        hooks.on_token()
        generation.probabilities.append(probability)
        yield from emit(stream.push(token))
        generation.ends.append(len(generation.text))
        if stream.stopped:
            generation.ended_by = "stop"
        elif state is not None and state.complete:
            generation.ended_by = "end"
        elif len(generation.ids) >= sampling.max_new_tokens:
            generation.ended_by = "length"
        elif hooks.cancelled():
            generation.ended_by = "cancelled"
        else:
            logits = cache.append([[token]])
    if state is not None and state.is_cut and generation.ended_by == "end":
        generation.ended_by = "length"
    yield from emit(stream.finish())


def prefill_and_generate(
    answer: Answer,
    timer: LapTimer,
    cache: KVCache | PacedCache,
    segments: Sequence[PromptSegment],
    processor: Processor,
    sampling: Sampling,
    hooks: AnswerHooks,
) -> None:
    """Prefills the last segments of a prompt, generates, and fills in what the answer says and cost.

    Args:
        answer: Its text, token counts and seconds of prefill and decode are set.
        timer: Its current lap is the prefill.
        cache: Holds the beginning of the prompt; grows by the segments and the answer.
        segments: The rest of the prompt.
        processor: Decodes tokens.
        sampling: How tokens are chosen and when to stop.
        hooks: Callbacks for streamed text and cancellation.

    Raises:
        CancelledError: Cancelled between two chunks of the prefill, which only a paced cache has.
    """

    def interrupted() -> bool:
        hooks.on_token()
        return hooks.cancelled()

    logits = append(cache, segments, interrupted)
    answer.prompt_tokens = cache.length
    answer.seconds["prefill"] = timer.lap()
    generation = Generation()
    for piece in generate(cache, logits, processor, sampling, generation, hooks):
        hooks.on_text(piece, len(generation.ids))
    answer.seconds["decode"] = timer.lap()
    answer.raw, answer.ended_by = generation.text, generation.ended_by
    answer.grounding = parse(generation.text)
    if sampling.grammar is not None:
        answer.grounding = replace(answer.grounding, text=generation.text)  # which programs parse
    answer.token_ids = tuple(generation.ids)
    answer.scores = box_scores(generation.text, answer.grounding.objects, generation.ends, generation.probabilities)
    answer.generated_tokens = len(generation.ids)
