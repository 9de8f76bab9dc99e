"""Short forms of what somebody sent, for messages: an error about a megabyte of text must not be a megabyte long."""

from __future__ import annotations

from reprlib import Repr

QUOTED_CHARS = 200
"""Maximum number of characters that a message quotes."""
_REPR = Repr()
_REPR.maxstring = _REPR.maxother = QUOTED_CHARS


def quoted(value: object) -> str:
    """Returns the representation of a value as Python writes it, with at most 200 characters."""
    try:
        return _cut(_REPR.repr(value))
    except ValueError:  # Python does not write integers of more than 4,300 digits
        return f"a value of type {type(value).__name__}"


def shortened(text: str) -> str:
    """Returns a text with at most 200 characters, without line breaks and control characters."""
    text = text[: QUOTED_CHARS + 1]
    return _cut(text if text.isprintable() else repr(text)[1:-1])


def _cut(text: str) -> str:
    return text if len(text) <= QUOTED_CHARS else f"{text[: QUOTED_CHARS - 3]}..."
