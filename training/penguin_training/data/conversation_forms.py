"""Conversations of annotation files, in the forms that are in use -> messages as chat.py reads them.

A turn has `from` and `value` (ShareGPT), or `role` and `content` (OpenAI). Its text shows the images and videos of the
sample at <image> and <video>. Content may also be a list of parts:
  {"type": "text", "text": text}
  {"type": "image", "image": path}, {"type": "image_url", "image_url": {"url": path or data: URI}}, and so with video;
  without a path, a part shows the next image or video of the sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from penguin_models.chat import Message
from penguin_models.errors import DataError
from penguin_training.data.media_reference import MediaReference, checked_unicode, read_reference

Shown: TypeAlias = MediaReference | str
"""What a conversation shows: media that a part names, or "<image>" or "<video>" for the next one of the sample."""
_ROLES = {
    **{"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"},
    "developer": "system",
}
_TURN_KEYS = (("role", "content"), ("from", "value"))
_NOT_LEARNT = ("tool_calls", "function_call", "tool_call_id", "weight")
_PLACEHOLDER = re.compile(r"(<image>|<video>)\n?")
_MEDIA_TYPES = ("image", "image_url", "video", "video_url")


def read_conversation(turns: Any, key: str, root: Path) -> tuple[tuple[Message, ...], list[Shown]]:
    """Returns the messages of the conversation in the field `key`, and what they show in order.

    Raises:
        DataError: It has another form, a role or content that is not supported, or no turn of the assistant.
    """
    if not isinstance(turns, list):
        raise DataError(f"{key} must be a list of turns, not {turns!r:.60}")
    messages: list[Message] = []
    shown: list[Shown] = []
    for turn in turns:
        role, content = _role_and_content(turn)
        parts = [*_parts(content, root)]
        if role == "assistant":
            if not isinstance(content, str) and any(part["type"] != "text" for part, _ in parts):
                raise DataError(f"an answer can hold text only: {content!r:.80}")
            text = content if isinstance(content, str) else "".join(part["text"] for part, _ in parts)
            messages.append({"role": role, "content": text})
            continue
        messages.append({"role": role, "content": [part for part, _ in parts]})
        shown += [what for _, what in parts if what is not None]
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError("the conversation has no turn of the assistant ('gpt'), so nothing can be learnt from it")
    return tuple(messages), shown


def embedded_media(turns: Any, root: Path) -> Iterator[MediaReference]:
    """Yields the media that content parts name, whatever else is wrong with a conversation."""
    for turn in turns if isinstance(turns, list) else []:
        content = turn.get("content") if isinstance(turn, Mapping) else None
        if isinstance(content, list):
            yield from (what for _, what in _parts(content, root) if isinstance(what, MediaReference))


def _role_and_content(turn: Any) -> tuple[str, Any]:
    keys = next((keys for keys in _TURN_KEYS if isinstance(turn, Mapping) and keys[0] in turn), None)
    role = _ROLES.get(str(turn[keys[0]])) if keys else None
    if keys and role is None:
        raise DataError(f"a turn has the role {turn[keys[0]]!r:.40}; supported are {', '.join(_ROLES)}")
    content = turn.get(keys[1]) if keys else None
    if role is None or not isinstance(content, str | list):
        raise DataError(
            "a turn must have 'from' and 'value', or 'role' and 'content', with a role among "
            f"{', '.join(_ROLES)}: {turn!r:.80}"
        )
    if used := [name for name in _NOT_LEARNT if turn.get(name) not in (None, [], 1)]:
        raise DataError(f"a turn has {', '.join(used)}, which training does not support; leave the sample out")
    return role, content


def _parts(content: str | list[Any], root: Path) -> Iterator[tuple[dict[str, Any], Shown | None]]:
    """Yields the parts of a turn as chat.py reads them, each with what it shows."""
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            for piece in _PLACEHOLDER.split(checked_unicode(part["text"], "a turn's text")):
                if piece in ("<image>", "<video>"):
                    yield {"type": piece[1:-1]}, piece
                elif piece:
                    yield {"type": "text", "text": piece}, None
        elif kind in _MEDIA_TYPES:
            name = str(kind).removesuffix("_url")
            value = next((part[key] for key in (kind, name, "path", "url") if part.get(key) is not None), None)
            if isinstance(value, Mapping):
                value = value.get("url", value.get("path"))
            yield {"type": name}, f"<{name}>" if value is None else read_reference(value, name, root, name == "video")
        else:
            raise DataError(f"a content part must be of type text, {', '.join(_MEDIA_TYPES)}: {part!r:.80}")
