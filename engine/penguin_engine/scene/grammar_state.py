"""GrammarState: which tokens may come next in an answer that follows a JSON schema.

An answer is complete when its tokens run out: before every token, the shortest way to complete the document is known,
and a token after which it would no longer fit is replaced by the first one of that way. A little earlier, strings,
lists and objects are closed as soon as they may be, so that the model still chooses the values that have to follow.
"""

from __future__ import annotations

import re
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from penguin_models.errors import PromptError
from penguin_models.processor import Processor
from penguin_models.quoting import shortened
from penguin_models.types import BoolArray, Float32Array

_CLOSING_TOKENS = 16
"""Tokens for the values that the model chooses while it closes a document; at most a quarter of the answer."""
_LITERALS = ("null", "true", "false")
_CONSIDERED = 32
"""Most tokens among which the next is chosen if none of the short ones may follow."""
_VOCABULARIES: WeakKeyDictionary[Processor, dict[int, _Vocabulary]] = WeakKeyDictionary()


class GrammarState:
    """How far one answer has come in its grammar.

    Attributes:
        is_cut: Whether the answer would have been longer if it had more tokens.
    """

    def __init__(self, processor: Processor, vocab_size: int, grammar: str, max_new_tokens: int):
        """Begins an answer.

        Args:
            processor: Its tokenizer and end tokens are those of the model.
            vocab_size: Length of the logits, which may differ from that of the tokenizer's vocabulary.
            grammar: From `json_grammar`.
            max_new_tokens: Maximum length of the answer in tokens.

        Raises:
            PromptError: The grammar is too complex, or no document that follows it is so short.
        """
        self.is_cut = False
        self._end, self._left = processor.end_token_ids[0], max_new_tokens
        self._closing_tokens = min(_CLOSING_TOKENS, max_new_tokens // 4)
        self._place = _Place.begin(processor, vocab_size, grammar)
        self._rest = self._place.shortest_answer(max_new_tokens)

    @property
    def complete(self) -> bool:
        """Whether the document is complete and nothing can follow."""
        return self._place.complete

    def restricted(self, logits: Float32Array) -> Float32Array:
        """Returns logits, float32 [vocab], with minus infinity for tokens that may not come next."""
        allowed = self._place.allowed()
        restricted = np.where(allowed, logits, np.float32(-np.inf))
        if len(self._rest) + self._closing_tokens < self._left:
            return restricted
        closing = self._place.closing(allowed)
        if not len(closing):
            return restricted
        closed = np.full_like(restricted, -np.inf)
        closed[closing] = restricted[closing]
        self.is_cut |= bool(restricted.argmax() not in closing)
        return closed

    def consume(self, token: int) -> int:
        """Takes over the token that was chosen, or another one if the document would not fit; returns it."""
        if token in self._place.end_token_ids:
            return token
        after = self._place.after(token)
        rest = self._rest_after(after, self._left - 1)
        if rest is None:
            self.is_cut = True
            if not self._rest:
                return self._end
            token, rest = self._rest[0], self._rest[1:]
            after = self._place.after(token)
        self._place, self._rest, self._left = after, rest, self._left - 1
        return token

    def _rest_after(self, after: _Place, limit: int) -> list[int] | None:
        """Returns the shortest way to the end after a token; mostly the one before it still leads there."""
        for known in (self._rest[1:], self._rest):
            if len(known) <= limit and after.is_completed_by(known):
                return known
        return after.shortest_rest(limit)


def shortest_answer(processor: Processor, vocab_size: int, grammar: str, max_new_tokens: int) -> int:
    """Returns the length in tokens of a short answer; arguments and errors are those of `GrammarState`."""
    return len(_Place.begin(processor, vocab_size, grammar).shortest_answer(max_new_tokens))


class _Vocabulary:
    """The tokens of a model as llguidance sees them, and those that close something, in order of preference."""

    def __init__(self, processor: Processor, size: int):
        from llguidance import LLTokenizer

        ends = self.end_token_ids = processor.end_token_ids
        self.size, text = size, processor.tokenizer.to_str()
        everything = max(size, processor.tokenizer.get_vocab_size())
        self.tokenizer = LLTokenizer(text, everything, list(ends), LLTokenizer.json_slices())
        self.texts = [processor.tokenizer.id_to_token(number) or "" for number in range(size)]
        # The shortest way to the end takes tokens of one character, which are bytes, and literals.
        self.short = np.array([n for n, text in enumerate(self.texts) if len(text) == 1 or text in _LITERALS])
        self.detours = {n: _detour(self.texts[n]) for n in range(size)}
        self.closing_strings = self._matching(r'"[\]}]*')
        self.closing_others = self._matching(r"[\]}]+")

    @classmethod
    def of(cls, processor: Processor, size: int) -> _Vocabulary:
        """Returns the vocabulary of a model, which takes a second to make if it is large, and is kept."""
        known = _VOCABULARIES.setdefault(processor, {})
        if size not in known:
            known[size] = cls(processor, size)
        return known[size]

    def _matching(self, pattern: str) -> Any:
        """Returns the ids of tokens that match a pattern, the longest first."""
        found = [n for n, text in enumerate(self.texts) if text[:1] in '"]}' and re.fullmatch(pattern, text)]
        return np.array(sorted(found, key=lambda n: -len(self.texts[n])), dtype=np.int64)


def _detour(text: str) -> int:
    """Returns how far a token leads away from the end: what opens has to close, a number may go on."""
    return 2 if text[:1] in "[{-+.eE" else 1 if text[:1].isdigit() else 0


class _Place:
    """A place in a document."""

    def __init__(self, vocabulary: _Vocabulary, matcher: Any, in_string: bool = False, escaped: bool = False):
        self._vocabulary, self._matcher = vocabulary, matcher
        self._in_string, self._escaped = in_string, escaped
        self.end_token_ids = vocabulary.end_token_ids

    @classmethod
    def begin(cls, processor: Processor, vocab_size: int, grammar: str) -> _Place:
        from llguidance import LLMatcher

        vocabulary = _Vocabulary.of(processor, vocab_size)
        place = cls(vocabulary, LLMatcher(vocabulary.tokenizer, grammar))
        place._check()
        return place

    @property
    def complete(self) -> bool:
        return bool(self._matcher.is_stopped())

    def allowed(self) -> BoolArray:
        """Returns which tokens may come next, bool [vocab]."""
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(mask, count=self._vocabulary.size, bitorder="little").astype(bool)

    def closing(self, allowed: BoolArray) -> Any:
        """Returns the ids of allowed tokens that close the string, or else the list or object, the best first."""
        vocabulary = self._vocabulary
        ids = vocabulary.closing_strings if self._in_string else vocabulary.closing_others
        return ids[allowed[ids]]

    def after(self, token: int) -> _Place:
        """Returns the place after a token that is allowed."""
        matcher, in_string, escaped = self._matcher.deep_copy(), self._in_string, self._escaped
        matcher.consume_token(token)
        for character in self._vocabulary.texts[token]:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = in_string
            elif character == '"':
                in_string = not in_string
        place = _Place(self._vocabulary, matcher, in_string, escaped)
        place._check()
        return place

    def is_completed_by(self, tokens: list[int]) -> bool:
        """Returns whether some tokens complete the document."""
        matcher = self._matcher.deep_copy()
        return matcher.try_consume_tokens(tokens) == len(tokens) and bool(matcher.is_accepting())

    def shortest_answer(self, max_new_tokens: int) -> list[int]:
        """Returns `shortest_rest`; raises PromptError if there is none."""
        rest = self.shortest_rest(max_new_tokens)
        if rest is None:
            raise PromptError(
                f"an answer that follows the JSON schema does not fit into max_new_tokens, which is {max_new_tokens}; "
                "raise it, or require less"
            )
        return rest

    def shortest_rest(self, limit: int) -> list[int] | None:
        """Returns tokens that complete the document from here; None if more than `limit` are needed."""
        place, tokens = self, list[int]()
        while not place._matcher.is_accepting():
            step = place._matcher.compute_ff_tokens() or [place._next(tokens)]
            tokens += step
            if len(tokens) > limit:
                return None
            for token in step:
                place = place.after(token)
        return tokens

    def _next(self, before: list[int]) -> int:
        """Returns the token that leads to the end, if possible one that was not used before: a pattern goes round."""
        allowed, vocabulary = self.allowed(), self._vocabulary
        closing = self.closing(allowed)
        if len(closing):
            return int(closing[0])
        short = vocabulary.short[allowed[vocabulary.short]].tolist() or allowed.nonzero()[0][:_CONSIDERED].tolist()
        return int(min(short, key=lambda number: (vocabulary.detours[number], before.count(number))))

    def _check(self) -> None:
        if self._matcher.is_error():
            raise PromptError(f"the JSON schema cannot be followed: {shortened(self._matcher.get_error())}")
