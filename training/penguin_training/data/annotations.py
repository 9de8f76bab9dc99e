"""Annotation files, JSON or JSONL, read sample by sample.

A sample has `id`, `image` and `video` (or `images` and `videos`; a path or a list of them, in the order of their
placeholders), and one of
  `conversations`: [{"from": "human" | "gpt" | "system", "value": text with <image> and <video>}]
  `messages`: [{"role": "user" | "assistant" | "system", "content": text or parts}], see conversation_forms.py
  `text`: a text without media, learnt as a whole
  none of them (or an empty list): its media are only used by the reconstruction losses.
`"independent_turns": true` says that the questions of a conversation do not build on each other: each is learnt as if
it were the only one about the media that the first one shows. A null field counts as absent. Other fields are ignored,
but `only` can select samples by them. Opens no media and knows nothing of tokens.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from penguin_models.chat import Message
from penguin_models.errors import DataError
from penguin_models.types import Int64Array
from penguin_training.data.conversation_forms import Shown, embedded_media, read_conversation
from penguin_training.data.media_reference import MediaReference, checked_unicode, read_reference

_OTHER_FORMS = {
    *("instruction", "input", "output", "prompt", "completion", "question", "query", "answer", "response", "chosen"),
    *("rejected", "dialog", "dialogue", "conversation", "turns", "caption", "texts"),
}
"""Fields in which other forms of training data hold what is learnt."""
_READ_FIELDS = ("image", "images", "video", "videos", "conversations", "messages")
FORMS = "`conversations` (from and value), `messages` (role and content) or `text`"
"""Fields that hold what is learnt."""


@dataclass(frozen=True)
class Annotation:
    """One sample."""

    id: str
    media: tuple[MediaReference, ...]  # In the order in which the conversation shows them
    # The conversation as chat.py reads it, its video parts still without frame times; or None
    messages: tuple[Message, ...] | None
    text: str | None  # A text that is learnt as a whole, or None
    independent_turns: bool = False
    keys: tuple[str, ...] = ()  # Names of its fields that are not null
    dropped_turns: int = 0  # Questions left out, because they name times that the memory no longer holds
    fields: Mapping[str, Any] = field(default_factory=dict)  # Its other fields, besides media and conversation

    @property
    def has_text(self) -> bool:
        """Whether the decoder learns from it; otherwise only the encoder does."""
        return self.messages is not None or self.text is not None


def parse_annotation(raw: Any, root: Path, default_id: str, conversations: bool = True) -> Annotation:
    """Checks one sample as decoded from JSON, with paths relative to `root`; raises DataError if it is malformed.

    Without `conversations`, only its media are read, for the reconstruction losses.
    """
    try:
        return _parse(raw, root, default_id, conversations)
    except RecursionError as err:  # a message quotes a value
        raise DataError("the sample is malformed, and its values are nested too deeply to be shown") from err


def _parse(raw: Any, root: Path, default_id: str, conversations: bool) -> Annotation:
    if isinstance(raw, DataError):
        raise raw
    if not isinstance(raw, Mapping):
        raise DataError(f"a sample must be an object, not {raw!r:.60}")
    name = sample_id(raw, default_id)
    keys = tuple(key for key, value in raw.items() if value is not None)
    media = {"<image>": _media(raw, "image", root), "<video>": _media(raw, "video", root)}
    forms = [key for key in ("conversations", "messages", "text") if raw.get(key) not in (None, [])]
    if not conversations:
        embedded = (found for key in forms for found in embedded_media(raw[key], root))
        return _media_only(name, [*media["<image>"], *media["<video>"], *embedded], keys, "media")
    if not forms:
        if "conversations" not in keys and "messages" not in keys and _OTHER_FORMS.intersection(keys):
            alone = (
                ", or set `conversations: false` for the file to learn from its media alone"
                if any(media.values())
                else ""
            )
            raise DataError(f"the sample has only {_names(keys)}, but training reads {FORMS}: convert it{alone}")
        return _media_only(name, [*media["<image>"], *media["<video>"]], keys, f"media, {FORMS}")
    if len(forms) > 1:
        raise DataError(f"a sample has either conversations, messages or text, not {' and '.join(forms)}")
    (form,) = forms
    if form == "text":
        text = raw["text"]
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"text must be a string that is not blank, not {text!r:.60}")
        if any(media.values()):
            raise DataError("a sample with text cannot have media; use conversations to show them")
        return Annotation(name, (), None, checked_unicode(text, "text"), keys=keys)
    independent_turns = raw.get("independent_turns")
    if not isinstance(independent_turns, bool | None):
        raise DataError(f"independent_turns must be true or false, not {independent_turns!r:.60}")
    if raw.get("tools"):
        raise DataError("the sample has tools, which training does not support; leave it out")
    messages, shown = read_conversation(raw[form], form, root)
    fields = {key: raw[key] for key in keys if key not in _READ_FIELDS}
    return Annotation(name, _in_order(shown, media), messages, None, bool(independent_turns), keys, fields=fields)


def parse_line(line: str | bytes) -> Any:
    """Decodes a line of a JSONL file; returns a DataError, for `parse_annotation` to raise, if it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as err:
        return DataError(f"not JSON: {err}")


def sample_id(raw: Any, default: str) -> str:
    """Returns the id of a raw sample, well-formed or not; `default` if it has none, neither a string nor a number."""
    found = raw.get("id") if isinstance(raw, Mapping) else None
    return _printable(str(found)) if isinstance(found, str | int | float) else default


def _names(keys: Sequence[str]) -> str:
    return ", ".join(map(_printable, keys[:10])) + (", ..." if len(keys) > 10 else "")


def _printable(text: str) -> str:
    return text[:200].encode(errors="backslashreplace").decode()


def is_selected(raw: Any, only: Mapping[str, Sequence[str]]) -> bool:
    """Returns whether each field in `only` has one of the values listed for it.

    Samples that are not objects are selected, so that parsing them reports the error.
    """
    return not isinstance(raw, Mapping) or all(raw.get(field) in values for field, values in only.items())


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
        return parse_annotation(self.raw(row), self.root, self._place(row), self.conversations)

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
        values = json.loads(path.read_text(encoding="utf-8-sig"))
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


def _media(raw: Mapping[str, Any], key: str, root: Path) -> list[MediaReference]:
    """Reads the images or videos of a sample, from the field `key` or its plural."""
    named = {name: value for name in (key, f"{key}s") if (value := raw.get(name)) is not None}
    if len(named) > 1:
        raise DataError(f"a sample has either {' or '.join(named)}, not both")
    return [
        read_reference(item, name, root, key == "video")
        for name, value in named.items()
        for item in (value if isinstance(value, list) else [value])
    ]


def _media_only(name: str, media: Sequence[MediaReference], keys: tuple[str, ...], wanted: str) -> Annotation:
    if not media:
        raise DataError(f"the sample has none of {wanted}, only {_names(keys) or 'null fields'}; convert it")
    return Annotation(name, tuple(media), None, None, keys=keys)


def _in_order(shown: Sequence[Shown], media: Mapping[str, list[MediaReference]]) -> tuple[MediaReference, ...]:
    """Returns the media in the order in which a conversation shows them; placeholders take the sample's."""
    for placeholder, listed in media.items():
        if shown.count(placeholder) != len(listed):
            raise DataError(
                f"the conversation has {shown.count(placeholder)} {placeholder} but the sample names {len(listed)}"
            )
    remaining = {placeholder: iter(listed) for placeholder, listed in media.items()}
    return tuple(next(remaining[what]) if isinstance(what, str) else what for what in shown)
