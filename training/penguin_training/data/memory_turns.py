"""Conversations about clips as a robot is asked: what it has seen first, and times in seconds since its first frame."""

from __future__ import annotations

import re
from typing import Any

from penguin_models.chat import Message
from penguin_models.errors import DataError, PromptError
from penguin_models.grounding import shift_time_ranges, without_time_ranges

_OTHER_TIMES = re.compile(r"\d\s*(?:s|secs?|seconds?|mins?|minutes?|h|hours?)\b|\d:\d\d", re.IGNORECASE)
"""Times in forms that are not shifted."""


def as_asked(messages: tuple[Message, ...], start_s: float, independent: bool) -> tuple[tuple[Message, ...], int]:
    """Returns a conversation with its clip first and times since `start_s`, and the number of turns left out.

    Turns that name an earlier time are left out, and those with times in another form than `grounding.py` writes. If
    turns build on each other (not `independent`), all after the first one that is left out go as well.

    Raises:
        DataError: It begins with a system message or an answer.
    """
    if messages[0]["role"] != "user":
        raise DataError(
            f"its first message is of the {messages[0]['role']}, which a robot's prompt does not have; remove it"
        )
    shown, turns = _split(messages)
    left: list[Message] = []
    dropped = 0
    for number, turn in enumerate(turns):
        try:
            shifted = [_shift(message, start_s) for message in turn]
        except PromptError:
            if not independent:
                dropped = len(turns) - number
                break
            dropped += 1
            continue
        if not left:
            shifted[0] = {**shifted[0], "content": [*shown, *shifted[0]["content"]]}
        left += shifted
    return tuple(left), dropped


def _split(messages: tuple[Message, ...]) -> tuple[list[Any], list[list[Message]]]:
    """Returns the clip's part, and the turns without it: a question, and what follows up to the next one."""
    shown: list[Any] = []
    turns: list[list[Message]] = []
    for message in messages:
        if message["role"] == "user":
            turns.append([])
        if isinstance(message["content"], str):
            turns[-1].append(message)
            continue
        media = [part for part in message["content"] if part["type"] != "text"]
        texts = [part for part in message["content"] if part["type"] == "text"]
        if texts and media and message["content"][-1] in media:  # the question comes before the clip
            texts[-1] = {**texts[-1], "text": texts[-1]["text"].rstrip()}
        shown += media
        turns[-1].append({**message, "content": texts})
    return shown, turns


def _shift(message: Message, start_s: float) -> Message:
    """Returns a message with times since `start_s`; raises PromptError if it names others."""
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": _shift_text(content, start_s)}
    return {**message, "content": [{**part, "text": _shift_text(part["text"], start_s)} for part in content]}


def _shift_text(text: str, start_s: float) -> str:
    if start_s == 0:
        return text
    if found := _OTHER_TIMES.search(without_time_ranges(text)):
        raise PromptError(f"{found[0]!r} is a time in a form that cannot be shifted")
    return shift_time_ranges(text, -start_s)
