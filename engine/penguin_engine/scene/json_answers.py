"""Answers that follow a JSON schema: at each step, only tokens that can continue a valid document are chosen."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from penguin_models.errors import PromptError
from penguin_models.processor import Processor
from penguin_models.quoting import quoted, shortened
from penguin_models.types import Float32Array

MAX_SCHEMA_CHARS = 65_536
_TOKENIZERS: WeakKeyDictionary[Processor, dict[int, Any]] = WeakKeyDictionary()
_COMPACT: Any = {"whitespace_flexible": False}  # a model could otherwise write spaces for ever


def json_grammar(schema: Mapping[str, Any]) -> str:
    """Returns a JSON schema in the form that `Sampling.grammar` takes; `{"type": "object"}` is any object.

    Raises:
        PromptError: llguidance is not installed, or the schema is too long, malformed, or has what it does not support.
    """
    if importlib.util.find_spec("llguidance") is None:
        raise PromptError("answers as JSON need llguidance: pip install 'penguin-vl[serve]'")
    from llguidance import LLMatcher

    text = json.dumps(schema)
    if len(text) > MAX_SCHEMA_CHARS:
        raise PromptError(f"the JSON schema has {len(text)} characters, the limit is {MAX_SCHEMA_CHARS}; shorten it")
    try:
        grammar: str = LLMatcher.grammar_from_json_schema(text, defaults=_COMPACT)
        fault: str = LLMatcher.validate_grammar(grammar)
    except ValueError as err:
        fault = str(err)
    if fault:
        raise PromptError(f"the JSON schema {quoted(text)} cannot be followed: {shortened(fault)}")
    return grammar


class GrammarState:
    """How far one answer has come in its grammar."""

    def __init__(self, processor: Processor, vocab_size: int, grammar: str):
        """Begins an answer.

        Args:
            processor: Its tokenizer and end tokens are those of the model.
            vocab_size: Length of the logits, which may exceed the tokenizer's vocabulary.
            grammar: From `json_grammar`.
        """
        import llguidance.numpy
        from llguidance import LLMatcher

        self._matcher = LLMatcher(_tokenizer(processor, vocab_size), grammar)
        self._masks = llguidance.numpy
        self._mask = llguidance.numpy.allocate_token_bitmask(1, vocab_size)
        self._check()

    @property
    def complete(self) -> bool:
        """Whether the document is complete and nothing can follow."""
        return bool(self._matcher.is_stopped())

    def restricted(self, logits: Float32Array) -> Float32Array:
        """Returns logits, float32 [vocab], with minus infinity for tokens that may not come next."""
        self._masks.fill_next_token_bitmask(self._matcher, self._mask)
        self._check()
        allowed = np.unpackbits(self._mask.view(np.uint8), bitorder="little")[: len(logits)].astype(bool)
        return np.where(allowed, logits, np.float32(-np.inf))

    def consume(self, token: int) -> None:
        """Takes over the token that was chosen."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise PromptError(f"the JSON schema cannot be followed: {shortened(self._matcher.get_error())}")


def _tokenizer(processor: Processor, vocab_size: int) -> Any:
    """Returns llguidance's view of a tokenizer, which takes a second to make for a large vocabulary."""
    from llguidance import LLTokenizer

    known = _TOKENIZERS.setdefault(processor, {})
    if vocab_size not in known:
        known[vocab_size] = LLTokenizer(
            processor.tokenizer.to_str(), vocab_size, list(processor.end_token_ids), LLTokenizer.json_slices()
        )
    return known[vocab_size]
