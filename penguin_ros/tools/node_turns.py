"""The turns of clients of the OpenAI API, which send all of them each time, as conversations that a node keeps."""

from __future__ import annotations

import json
import secrets
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from penguin_models.errors import PromptError

_MAX_KNOWN = 1024
"""Answers after which a client may go on; of more, the oldest are forgotten."""


class NodeTurns:
    """Which conversation of the node the turns before a question are. One thread."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, str] = OrderedDict()  # of conversations, by all their turns

    @contextmanager
    def continued(self, messages: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, list[str]]]:
        """Finds the conversation that some messages continue; it stays as it was if the body raises.

        The system prompt comes before the first question, because a node has one of its own.

        Args:
            messages: Messages of text as in chat.py; the last one is the question.

        Yields:
            The question, the name of its conversation, and a list for the answer, in each form that a client may have.

        Raises:
            PromptError: The node does not know the earlier turns.
        """
        turns = [(message["role"], _text(message["content"])) for message in messages]
        *before, (_, question) = turns
        system = [text for role, text in before if role == "system"]
        if len(system) < len(before):
            name = self._names.get(_key(before))
            if name is None:
                raise PromptError(
                    "the earlier turns are not known to the robot, which can only go on after its latest answer: "
                    "send the turns as they were, or the question alone"
                )
        else:
            name, question = f"serve-{secrets.token_hex(8)}", "\n\n".join([*system, question])
        answers: list[str] = []
        yield question, name, answers
        for key in [key for key, each in self._names.items() if each == name]:
            del self._names[key]
        self._names |= {_key([*turns, ("assistant", answer)]): name for answer in answers}
        while len(self._names) > _MAX_KNOWN:
            self._names.popitem(last=False)


def _key(turns: Sequence[tuple[str, str]]) -> str:
    return json.dumps(turns)


def _text(content: str | Sequence[Mapping[str, str]]) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)
