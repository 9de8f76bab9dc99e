"""A conversation whose questions do not lead to each other: each is answered as if it were the only one.

All see what is shown before the first question, which stands in the sequence once; none sees another. So an answer
cannot be copied from an earlier one, and the picture is paid for once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from penguin_models.chat import Message
from penguin_models.errors import DataError
from penguin_models.processor import Processor
from penguin_models.types import Int64Array


def turns_alone(messages: Sequence[Message]) -> list[list[Message]]:
    """Takes a conversation apart: one conversation for each question, which begins with all that is shown.

    Args:
        messages: as chat.py reads them; a system message stays before every question.

    Raises:
        DataError: a picture comes after the first question, or an answer before it.
    """
    asked = [i for i, message in enumerate(messages) if message["role"] == "user"]
    first = asked[0] if asked else len(messages)
    before = list(messages[:first])
    if any(message["role"] == "assistant" for message in before):
        raise DataError("its turns cannot stand apart: an answer comes before the first question")
    opening, rest = _split(messages[first]["content"])
    if any(_has_pictures(parts) for parts in (rest, *(messages[i]["content"] for i in asked[1:]))):
        raise DataError("its turns cannot stand apart: a picture comes after the first question")
    alone = []
    for start, end in pairwise((*asked, len(messages))):
        question = rest if start == first else _parts(messages[start]["content"])
        alone.append([*before, {"role": "user", "content": [*opening, *question]}, *messages[start + 1 : end]])
    return alone


def encode_independent_turns(
    processor: Processor, messages: Sequence[Message], visual_tokens: Sequence[int]
) -> tuple[Int64Array, Int64Array, tuple[int, ...]]:
    """Ids, labels and turns of a conversation taken apart.

    Args:
        processor: of the model.
        messages: with frames and times of videos filled in.
        visual_tokens: of each frame.

    Returns:
        ids int64 [tokens], first what all turns share, then turn after turn; labels as ids; tokens of each turn.

    Raises:
        DataError: see `turns_alone`.
        PenguinError: the conversation is malformed.
    """
    encoded = [processor.training_ids(alone, visual_tokens) for alone in turns_alone(messages)]
    shown = np.flatnonzero(encoded[0][0] == processor.image_token_id)
    shared = int(shown[-1]) + 1 if len(shown) else 0
    ids, labels = (
        np.concatenate([encoded[0][which][:shared], *(turn[which][shared:] for turn in encoded)]) for which in (0, 1)
    )
    return ids, labels, tuple(len(turn_ids) - shared for turn_ids, _ in encoded)


def positions(length: int, turns: Sequence[int]) -> Int64Array:
    """Positions of a sample's tokens, int64 [length]: each turn goes on where what is shared ends."""
    shared = length - sum(turns)
    return np.concatenate([np.arange(shared), *(shared + np.arange(turn) for turn in turns)])


def _split(content: Any) -> tuple[list[Any], list[Any]]:
    """What a first question shows before its words, and the rest."""
    parts = _parts(content)
    words = next((i for i, part in enumerate(parts) if part["type"] == "text"), len(parts))
    return parts[:words], parts[words:]


def _parts(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _has_pictures(content: Any) -> bool:
    return any(part["type"] != "text" for part in _parts(content))
