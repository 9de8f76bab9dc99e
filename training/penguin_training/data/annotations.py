"""Annotation files, JSON or JSONL, read sample by sample.

A sample has `id`, `image` and `video` (a path or a list of them, in the order of their placeholders), and one of
  `conversations`: [{"from": "human" | "gpt" | "system", "value": text with <image> and <video>}]
  `text`: a text without media, learnt as a whole
  neither (or an empty list): its media are only used by the reconstruction losses.
`"independent_turns": true` says that the questions of a conversation do not build on each other: each is learnt as if
it were the only one about the media that the first one shows. A null field counts as absent. Other fields are ignored,
but `only` can select samples by them. Opens no media and knows nothing of tokens.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from penguin_models.chat import Message
from penguin_models.errors import DataError
from penguin_models.media import ClipFrame
from penguin_models.types import Int64Array

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_PLACEHOLDER = re.compile(r"(<image>|<video>)\n?")


@dataclass(frozen=True)
class MediaReference:
    """An image or a clip that a sample refers to."""

    path: Path  # Its file or folder; only a name for messages if `frames` holds the pixels
    is_clip: bool  # Whether it is a clip
    # Decoded frames of media without a file; an image has one
    frames: tuple[ClipFrame, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Annotation:
    """One sample."""

    id: str
    media: tuple[MediaReference, ...]  # In the order in which the conversation shows them
    # The conversation as chat.py reads it, its video parts still without frame times; or None
    messages: tuple[Message, ...] | None
    text: str | None  # A text that is learnt as a whole, or None
    independent_turns: bool = False

    @property
    def has_text(self) -> bool:
        """Whether the decoder learns from it; otherwise only the encoder does."""
        return self.messages is not None or self.text is not None


def parse_annotation(raw: Any, root: Path, default_id: str) -> Annotation:
    """Checks one sample as decoded from JSON, with paths relative to `root`; raises DataError if it is malformed."""
    if isinstance(raw, DataError):
        raise raw
    if not isinstance(raw, Mapping):
        raise DataError(f"a sample must be an object, not {raw!r:.60}")
    name = sample_id(raw, default_id)
    paths = {"<image>": _paths(raw, "image", root), "<video>": _paths(raw, "video", root)}
    conversation, text = raw.get("conversations") or None, raw.get("text")
    if text is not None:
        if conversation is not None:
            raise DataError("a sample has either conversations or text, not both")
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"text must be a string that is not blank, not {text!r:.60}")
        if any(paths.values()):
            raise DataError("a sample with text cannot have media; use conversations to show them")
        return Annotation(name, (), None, _checked_unicode(text, "text"))
    if conversation is None:
        media = tuple(MediaReference(path, kind == "<video>") for kind in paths for path in paths[kind])
        if not media:
            raise DataError("the sample has neither media nor conversations nor text")
        return Annotation(name, media, None, None)
    independent_turns = raw.get("independent_turns")
    if not isinstance(independent_turns, bool | None):
        raise DataError(f"independent_turns must be true or false, not {independent_turns!r:.60}")
    messages, placeholders = _messages(conversation)
    return Annotation(name, _in_order(placeholders, paths), messages, None, bool(independent_turns))


def parse_line(line: str | bytes) -> Any:
    """Decodes a line of a JSONL file; returns a DataError, for `parse_annotation` to raise, if it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as err:
        return DataError(f"not JSON: {err}")


def sample_id(raw: Any, default: str) -> str:
    """Returns the id of a raw sample, well-formed or not; `default` if it has none."""
    found = raw.get("id") if isinstance(raw, Mapping) else None
    return default if found is None else str(found).encode(errors="backslashreplace").decode()


def is_selected(raw: Any, only: Mapping[str, Sequence[str]]) -> bool:
    """Returns whether each field in `only` has one of the values listed for it.

    Samples that are not objects are selected, so that parsing them reports the error.
    """
    return not isinstance(raw, Mapping) or all(raw.get(field) in values for field, values in only.items())


def without_conversation(raw: Any) -> Any:
    """Returns a raw sample whose media are only used by the reconstruction losses."""
    return {**raw, "conversations": [], "text": None} if isinstance(raw, Mapping) else raw


class AnnotationFile:
    """A JSON file (a list, read at once) or JSONL file (a sample per line) whose samples are parsed on access.

    Paths in samples are relative to `root`, by default the file's folder. `only` selects samples as `is_selected` does.
    """

    def __init__(
        self,
        path: Path,
        root: Path | None = None,
        only: Mapping[str, Sequence[str]] | None = None,
        conversations: bool = True,
    ):
        """Finds the samples; raises DataError if the file is missing, empty or not JSON."""
        self.path = path
        self.root = path.parent if root is None else root
        self.only = dict(only or {})
        self.conversations = conversations
        try:
            self._samples = _read_list(path) if path.suffix == ".json" else None
            self._offsets = _line_offsets(path) if self._samples is None else np.arange(len(self._samples))
        except OSError as err:
            raise DataError(f"annotation file {path} cannot be read: {err.strerror}") from err
        self._numbers = np.arange(len(self._offsets))  # position in the file of each selected sample
        if self.only:
            selected = [row for row in range(len(self)) if is_selected(self.raw(row), self.only)]
            self._numbers = np.array(selected, np.int64)
        if not len(self):
            raise DataError(f"annotation file {path} has no samples" + (f" with {self.only}" if self.only else ""))

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, row: int) -> Annotation:
        """Parses one sample; raises DataError if it is not JSON or not valid."""
        raw = self.raw(row)
        return parse_annotation(raw if self.conversations else without_conversation(raw), self.root, self._place(row))

    def raw(self, row: int) -> Any:
        """Returns a sample as decoded from JSON; a DataError if it is not JSON."""
        number = int(self._numbers[row])
        if self._samples is not None:
            return self._samples[number]
        with self.path.open("rb") as file:
            file.seek(int(self._offsets[number]))
            return parse_line(file.readline())

    def name(self, row: int) -> str:
        """Returns the id of a sample; its place in the file if it has none, or is not JSON."""
        return sample_id(self.raw(row), self._place(row))

    def _place(self, row: int) -> str:
        return f"{self.path.name}:{self._numbers[row] + 1}"


def _read_list(path: Path) -> list[Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as err:
        raise DataError(f"annotation file {path} is not JSON: {err}") from err
    if not isinstance(values, list):
        raise DataError(f"annotation file {path} holds a {type(values).__name__}, not a list of samples")
    return values


def _line_offsets(path: Path) -> Int64Array:
    """Returns where each line that is not blank begins, in bytes."""
    offsets, position = array("q"), 0
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                offsets.append(position)
            position += len(line)
    return np.array(offsets, np.int64)


def _checked_unicode(text: str, what: str) -> str:
    """Returns the text; JSON can hold halves of a surrogate pair (`\\udc80`), which cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise DataError(f"{what} is not valid Unicode (character {err.start}: {text[err.start]!r}); fix it") from err
    return text


def _paths(raw: Mapping[str, Any], key: str, root: Path) -> list[Path]:
    value = raw.get(key)
    if value is None:
        return []
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise DataError(f"{key} must be a path or a list of paths, not {value!r:.60}")
    return [root / _checked_unicode(path, key) for path in paths]


def _messages(conversation: Any) -> tuple[tuple[Message, ...], list[str]]:
    """Returns the messages of a conversation, and its placeholders in order."""
    if not isinstance(conversation, list):
        raise DataError(f"conversations must be a list of turns, not {conversation!r:.60}")
    messages: list[Message] = []
    placeholders: list[str] = []
    for turn in conversation:
        role = _ROLES.get(str(turn.get("from"))) if isinstance(turn, Mapping) else None
        if role is None or not isinstance(turn.get("value"), str):
            raise DataError(f"a turn must have a 'from' among {', '.join(_ROLES)} and a 'value': {turn!r:.80}")
        text = _checked_unicode(turn["value"], "a turn's value")
        if role == "assistant":
            messages.append({"role": role, "content": text})
            continue
        parts: list[dict[str, Any]] = []
        for piece in _PLACEHOLDER.split(text):
            if piece in ("<image>", "<video>"):
                placeholders.append(piece)
                parts.append({"type": piece[1:-1]})
            elif piece:
                parts.append({"type": "text", "text": piece})
        messages.append({"role": role, "content": parts})
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError("the conversation has no turn from 'gpt', so nothing can be learnt from it")
    return tuple(messages), placeholders


def _in_order(placeholders: list[str], paths: Mapping[str, list[Path]]) -> tuple[MediaReference, ...]:
    for kind in paths:
        if placeholders.count(kind) != len(paths[kind]):
            raise DataError(
                f"the conversation has {placeholders.count(kind)} {kind} but the sample names {len(paths[kind])}"
            )
    remaining = {kind: iter(paths[kind]) for kind in paths}
    return tuple(MediaReference(next(remaining[kind]), kind == "<video>") for kind in placeholders)
