"""Answers in the form of the OpenAI API: one object, or a stream of server-sent events."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from penguin_engine.server.answering import Reply

DONE = "data: [DONE]\n\n"
Logprobs = Sequence[Mapping[str, Any]] | None


@dataclass(frozen=True)
class Completion:
    """What all parts of one answer have in common."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, reply: Reply, logprobs: Logprobs) -> dict[str, Any]:
        """Returns a complete answer, with the entries of its tokens (see logprobs.py), None if they are not wanted."""
        message = {"role": "assistant", "content": reply.text, "refusal": None, "grounding": _grounding(reply)}
        choice = {"index": 0, "message": message, "logprobs": _logprobs(logprobs), "finish_reason": _reason(reply)}
        return self._object("chat.completion", [choice], _usage(reply))

    def event(self, delta: Mapping[str, Any], reply: Reply | None = None, logprobs: Logprobs = None) -> str:
        """Returns a piece of an answer as an event; the last one has the reply."""
        delta = dict(delta) if reply is None else {**delta, "grounding": _grounding(reply)}
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": _logprobs(logprobs),
            "finish_reason": None if reply is None else _reason(reply),
        }
        return event(self._object("chat.completion.chunk", [choice], None))

    def usage_event(self, reply: Reply) -> str:
        """Returns the event with the number of tokens, which follows the last piece."""
        return event(self._object("chat.completion.chunk", [], _usage(reply)))

    def _object(self, kind: str, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
            "usage": usage,
        }


def event(value: Mapping[str, Any]) -> str:
    """Returns a server-sent event."""
    return f"data: {json.dumps(value, allow_nan=False)}\n\n"


def _reason(reply: Reply) -> str:
    return "length" if reply.ended_by == "length" else "stop"


def _logprobs(entries: Logprobs) -> dict[str, Any] | None:
    return None if entries is None else {"content": entries, "refusal": None}


def _usage(reply: Reply) -> dict[str, Any]:
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.generated_tokens,
        "total_tokens": reply.prompt_tokens + reply.generated_tokens,
        "prompt_tokens_details": {"image_tokens": reply.visual_tokens},
    }


def _grounding(reply: Reply) -> dict[str, Any]:
    return {"objects": list(reply.objects), "time_ranges": list(reply.time_ranges)}
