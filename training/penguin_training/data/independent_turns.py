"""Conversations whose questions do not build on each other: each is learnt as if it were the only one.

Every question sees the media, which are in the sequence once, but no other question. So no answer can be copied from an
earlier one, and the media are encoded once.
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


def split_turns(messages: Sequence[Message]) -> list[list[Message]]:
    """Splits a conversation into one for each question, all of which begin with the system message and the media."""
    asked = [i for i, message in enumerate(messages) if message["role"] == "user"]
    first = asked[0] if asked else len(messages)
    before = list(messages[:first])
    if any(message["role"] == "assistant" for message in before):
        raise DataError("its turns cannot be independent: an answer comes before the first question")
    opening = _parts(messages[first]["content"])
    media_end = next((i for i, part in enumerate(opening) if part["type"] == "text"), len(opening))
    media, first_question = opening[:media_end], opening[media_end:]
    questions = [first_question, *(_parts(messages[i]["content"]) for i in asked[1:])]
    if any(part["type"] != "text" for question in questions for part in question):
        raise DataError("its turns cannot be independent: an image or video comes after the first question")
    return [
        [*before, {"role": "user", "content": [*media, *question]}, *messages[start + 1 : end]]
        for question, (start, end) in zip(questions, pairwise((*asked, len(messages))), strict=True)
    ]


def encode_independent_turns(
    processor: Processor, turns: Sequence[Sequence[Message]], visual_tokens: Sequence[int]
) -> tuple[Int64Array, Int64Array, tuple[int, ...]]:
    """Encodes turns that are independent, as `split_turns` returns them, given the visual tokens of each frame.

    Returns ids [tokens], first what all turns share, then each turn; labels, like ids; and the tokens of each turn.
    """
    encoded = [processor.training_ids(turn, visual_tokens) for turn in turns]
    visual = np.flatnonzero(encoded[0][0] == processor.image_token_id)
    shared = int(visual[-1]) + 1 if len(visual) else 0
    ids, labels = (
        np.concatenate([encoded[0][which][:shared], *(turn[which][shared:] for turn in encoded)]) for which in (0, 1)
    )
    return ids, labels, tuple(len(turn_ids) - shared for turn_ids, _ in encoded)


def turn_positions(length: int, turns: Sequence[int]) -> Int64Array:
    """Returns the positions of a sample's tokens, int64 [length]: each turn continues from the shared tokens."""
    shared = length - sum(turns)
    return np.concatenate([np.arange(shared), *(shared + np.arange(turn) for turn in turns)])


def _parts(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
