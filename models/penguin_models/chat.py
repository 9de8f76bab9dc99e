"""Conversations as prompt text: the released chat template, and which parts of it are trained.

A conversation is a list of messages {"role": "system" | "user" | "assistant", "content": ...}; the content is a string
or a list of parts:
  {"type": "text", "text": str}
  {"type": "image", "time": seconds (optional)}
  {"type": "video", "num_frames": int, "timestamps": [seconds, ...] (may be empty)}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penguin_models.errors import PromptError
from penguin_models.quoting import quoted

Message = Mapping[str, Any]

IMAGE = "<image>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
THINK_START, THINK_END = "<think>\n", "\n</think>\n\n"
NO_THINKING = THINK_START + THINK_END
"""An empty thought, so that the model answers at once."""
USER_TURN = f"{TURN_START}user\n"
RESERVED = (IMAGE, TURN_START, TURN_END)
_ROLES = ("system", "user", "assistant")


def render(conversation: Sequence[Message], add_generation_prompt: bool = True, think: bool = False) -> str:
    """Returns the prompt text of a conversation, with one `<image>` per frame.

    As in the released template, earlier answers have no empty thought, although the released labels train with one. The
    node's conversations keep it in the KV cache, see conversations.py.

    Args:
        conversation: See the module's docstring. No system message is added.
        add_generation_prompt: Append the beginning of an answer.
        think: Let the model think before it answers.

    Raises:
        PromptError: A message is malformed, or a text contains a reserved token.
    """
    prompt = "".join(f"{TURN_START}{_role(message)}\n{_content(message)}{TURN_END}\n" for message in conversation)
    if add_generation_prompt:
        prompt += f"{TURN_START}assistant\n" + ("" if think else NO_THINKING)
    return prompt


def training_segments(conversation: Sequence[Message]) -> list[tuple[str, bool]]:
    """Splits the prompt text of a conversation into segments (text, trained).

    The assistant's words and the `<|im_end|>` after them are trained. An answer without thoughts gets the empty
    thought, which is not trained; an answer with thoughts is trained from after its opening `<think>`.

    Raises:
        PromptError: A message is malformed, or a text contains a reserved token.
    """
    segments = []
    for message in conversation:
        role, content = _role(message), _content(message)
        opening = f"{TURN_START}{role}\n"
        if role != "assistant":
            segments.append((f"{opening}{content}{TURN_END}\n", False))
            continue
        thinks = content.startswith(THINK_START)
        segments.append((opening + (THINK_START if thinks else NO_THINKING), False))
        segments.append((content.removeprefix(THINK_START) + TURN_END, True))
        segments.append(("\n", False))
    return segments


def video_time(time_s: float) -> str:
    """Returns the text that precedes a frame of a video."""
    return f"Time {time_s:.1f}s:"


def checked_text(text: Any) -> str:
    """Returns a text; raises PromptError if it is not a string or Unicode, or contains one of `RESERVED`."""
    if not isinstance(text, str):
        raise PromptError(f"a text must be a string, not {quoted(text)}")
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise PromptError(f"the question or message is not valid Unicode (character {err.start}); send UTF-8") from err
    for token in RESERVED:
        if token in text:
            raise PromptError(f"the text contains {token!r}, which has a meaning of its own to the model; leave it out")
    return text


def _role(message: Message) -> str:
    role = message.get("role") if isinstance(message, Mapping) else None
    if role not in _ROLES:
        raise PromptError(f"a message's role must be one of {', '.join(_ROLES)}, not {quoted(role)}")
    return str(role)


def _content(message: Message) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return checked_text(content)
    if not isinstance(content, Sequence):
        raise PromptError(f"a message's content must be a string or a list of parts, not {quoted(content)}")
    return "".join(_render_part(part) for part in content)


def _render_part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        return checked_text(part.get("text"))
    if kind == "image":
        time = part.get("time")
        return f"{IMAGE}\n" if time is None else f"{video_time(_seconds(time))} {IMAGE}\n"
    if kind == "video":
        frames, times = part.get("num_frames"), part.get("timestamps") or []
        if not isinstance(frames, int) or frames < 1:
            raise PromptError(f"a video part must have num_frames of at least 1, not {quoted(frames)}")
        if len(times) not in (0, frames):
            raise PromptError(f"a video of {frames} frames has {len(times)} timestamps; give one each, or none")
        labels = [video_time(_seconds(time)) for time in times] or [""] * frames
        return ",".join(label + IMAGE for label in labels) + "\n"
    raise PromptError(f"a content part must have type 'text', 'image' or 'video': {quoted(part)}")


def _seconds(time: Any) -> float:
    if not isinstance(time, int | float):
        raise PromptError(f"a time must be a number of seconds, not {quoted(time)}")
    return float(time)
