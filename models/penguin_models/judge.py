"""Whether a picture helps to answer a question: the model's own judgement, as a probability of "yes".

The question comes first, so that all pictures that are judged for it share a prefix: each then costs its visual tokens
and the few tokens of the end of the turn. Training (a conversation whose answer is "yes" or "no") and inference use the
same prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from penguin_models.errors import RemoteServerError
from penguin_models.processor import Processor
from penguin_models.types import Float32Array

_INSTRUCTION = "Does this picture help to answer the question? Answer yes or no."
_YES, _NO = ("yes", "Yes"), ("no", "No")


def judge_conversation(question: str) -> list[dict[str, Any]]:
    """Returns the conversation in which one picture is judged: a user turn with the question and one video frame.

    The frame is encoded as a frame of a video (its merge size) and has no time.
    """
    text = {"type": "text", "text": f"{question}\n{_INSTRUCTION}"}
    return [{"role": "user", "content": [text, {"type": "video", "num_frames": 1}]}]


def judge_segments(processor: Processor, question: str) -> tuple[list[int], list[int]]:
    """Returns the token ids before and after the visual tokens of the picture.

    Raises:
        PromptError: The question contains a reserved token.
    """
    before, after = processor.prompt_segments(judge_conversation(question))
    return before, after


def yes_probability(processor: Processor, logits: Float32Array) -> float:
    """Returns P(yes) / (P(yes) + P(no)) over the spellings with and without a capital, from logits float32 [vocab]."""
    yes, no = (sorted({processor.encode_text(word)[0] for word in words}) for words in (_YES, _NO))
    above = np.exp(logits.astype(np.float64) - logits[[*yes, *no]].max())
    return float(above[yes].sum() / (above[yes].sum() + above[no].sum()))


def yes_share(log_probabilities: Mapping[str, float]) -> float:
    """Returns what `yes_probability` does, from the log probabilities of the likeliest tokens by their text.

    Raises:
        RemoteServerError: Neither yes nor no is among them.
    """
    yes, no = (sum(math.exp(log_probabilities.get(word, -math.inf)) for word in words) for words in (_YES, _NO))
    if not yes + no:
        raise RemoteServerError("the server's model answers neither yes nor no to a condition: was it trained for it?")
    return yes / (yes + no)
