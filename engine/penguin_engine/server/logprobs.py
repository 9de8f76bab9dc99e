"""Log probabilities of an answer's tokens in the OpenAI API: the model's own, before temperature and top_p."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from penguin_models.processor import Processor
from penguin_models.types import Float32Array

MAX_TOP = 20
"""Most tokens that are listed for a place of an answer."""
_IMPOSSIBLE = -9999.0
"""Stands for minus infinity, which JSON does not have; the OpenAI API uses the same number."""


class TokenLog:
    """Entries for the tokens of one answer, taken out together with the text that they begin in."""

    def __init__(self, top: int):
        """Starts an empty log; `top` is the number of likeliest tokens in each entry, from 0 to `MAX_TOP`."""
        self._top = top
        self._entries: deque[tuple[int, dict[str, Any]]] = deque()  # first byte of the token's text, entry
        self._recorded = self._released = 0  # bytes of text: of all tokens, and of the pieces that were taken

    def record(self, processor: Processor, token: int, logits: Float32Array) -> None:
        """Adds a token of the answer, chosen from the model's logits, float32 [vocab]."""
        above = logits - logits.max()
        total = float(np.log(np.exp(above).sum(dtype=np.float64)))

        def described(number: int) -> dict[str, Any]:
            return _described(processor, number) | {"logprob": max(float(above[number]) - total, _IMPOSSIBLE)}

        entry = described(token) | {"top_logprobs": [described(number) for number in _likeliest(above, self._top)]}
        self._entries.append((self._recorded, entry))
        self._recorded += len(entry["bytes"] or ())

    def take(self, piece: str) -> list[dict[str, Any]]:
        """Returns the entries of tokens that begin in the next piece of the answer's text or before it."""
        self._released += len(piece.encode())
        taken = []
        while self._entries and self._entries[0][0] < self._released:
            taken.append(self._entries.popleft()[1])
        return taken

    def take_rest(self) -> list[dict[str, Any]]:
        """Returns all other entries: those of tokens at the end that have no text."""
        taken = [entry for _, entry in self._entries]
        self._entries.clear()
        return taken


def _likeliest(logits: Float32Array, count: int) -> list[int]:
    """Returns the ids of the largest logits, the largest first; the smaller id first if they are equal."""
    count = min(count, len(logits))
    if not count:
        return []
    least = np.partition(logits, len(logits) - count)[len(logits) - count]
    candidates = np.flatnonzero(logits >= least)
    order = np.argsort(-logits[candidates], kind="stable")
    return [int(number) for number in candidates[order[:count]]]


def _described(processor: Processor, token: int) -> dict[str, Any]:
    """Returns the text of a token, and its bytes: None if it is no part of an answer's text."""
    text = str(processor.tokenizer.decode([token], skip_special_tokens=False))
    content: bytes | None = text.encode()
    if not processor.decode([token]):
        content = None
    elif "\N{REPLACEMENT CHARACTER}" in text:  # a part of a character
        name = processor.tokenizer.id_to_token(token) or ""
        content = bytes(_BYTES[letter] for letter in name) if all(letter in _BYTES for letter in name) else None
    return {"token": text, "bytes": None if content is None else list(content)}


def _byte_letters() -> dict[str, int]:
    """Returns the bytes by the letters that stand for them in byte-level vocabularies (GPT-2, Qwen).

    Printable characters of Latin-1 stand for themselves; letters from U+0100 on for the other bytes, in order.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTES = _byte_letters()
