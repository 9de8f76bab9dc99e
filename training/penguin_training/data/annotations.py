"""Annotation files, JSON or JSONL, read sample by sample.

A sample has `id`, `image` and `video` (a path or a list of them, in the order of their placeholders), and one of
  `conversations`: [{"from": "human" | "gpt" | "system", "value": text with <image> and <video>}]
  `text`: a text without pictures, learnt as a whole
  neither (or an empty list): its pictures feed the reconstruction losses alone.
`"independent_turns": true` next to `conversations` says that its questions do not lead to each other: each is learnt as
if it were the only one about what the first one shows. A field that is null counts as absent. Other fields are left
alone; `only` chooses samples by them. Reads no pictures and knows nothing of tokens.
"""

from __future__ import annotations

import json
import re
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
_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class Picture:
    """An image or a clip of a sample.

    Attributes:
        path: where it lies, or what it is called in messages.
        is_clip: whether it is a clip.
        frames: of the clip, or the image as the only one, where it lies in no file.
    """

    path: Path
    is_clip: bool
    frames: tuple[ClipFrame, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class Annotation:
    """One sample.

    Attributes:
        id: names it in reports.
        pictures: in the order in which the conversation shows them.
        messages: the conversation as chat.py reads it; its video parts lack frames and times. None where there is
            no conversation.
        text: a text that is learnt as a whole, or None.
        independent_turns: whether each question of the conversation stands alone.
    """

    id: str
    pictures: tuple[Picture, ...]
    messages: tuple[Message, ...] | None
    text: str | None
    independent_turns: bool = False

    @property
    def has_text(self) -> bool:
        """Whether the decoder learns from it; otherwise only the encoder does."""
        return self.messages is not None or self.text is not None


def parse_annotation(raw: Any, root: Path, default_id: str) -> Annotation:
    """Checks one sample of an annotation file.

    Args:
        raw: as JSON has it.
        root: folder that its paths are relative to.
        default_id: where the sample has none.

    Raises:
        DataError: the sample does not have the form that the module's docstring says.
    """
    if not isinstance(raw, Mapping):
        raise DataError(f"a sample must be an object, not {raw!r:.60}")
    name = sample_id(raw, default_id)
    paths = {"<image>": _paths(raw, "image", root), "<video>": _paths(raw, "video", root)}
    conversation, text = raw.get("conversations"), raw.get("text")
    conversation = None if conversation == [] else conversation
    if conversation is not None and text is not None:
        raise DataError("a sample has either conversations or text, not both")
    if text is not None and (not isinstance(text, str) or not text.strip()):
        raise DataError(f"text must be a string with something in it, not {text!r:.60}")
    if text is not None:
        _check_unicode(text, "text")
    if text is not None and any(paths.values()):
        raise DataError("a sample with text has no pictures; a conversation can show them")
    if conversation is None:
        pictures = tuple(
            Picture(path, kind == "<video>") for kind, of_kind in paths.items() for path in of_kind
        )  # in any order: nothing shows them
        if text is None and not pictures:
            raise DataError("the sample has neither pictures nor conversations nor text")
        return Annotation(name, pictures, None, text)
    independent_turns = raw.get("independent_turns")
    if not isinstance(independent_turns, bool | None):
        raise DataError(f"independent_turns must be true or false, not {independent_turns!r:.60}")
    messages, shown = _messages(conversation)
    return Annotation(name, _in_order(shown, paths), messages, None, bool(independent_turns))


def sample_id(raw: Any, default: str) -> str:
    """What a sample is called, whether or not it has the form of one; `default` where it has no id."""
    found = raw.get("id") if isinstance(raw, Mapping) else None
    return default if found is None else str(found).encode(errors="backslashreplace").decode()


def wanted(raw: Any, only: Mapping[str, Sequence[str]]) -> bool:
    """Whether a sample has, in each field that `only` names, one of the values given there.

    What is no object is wanted, so that it is named when it is parsed.
    """
    return not isinstance(raw, Mapping) or all(raw.get(field) in values for field, values in only.items())


def pictures_of(raw: Any) -> Any:
    """A sample without its conversation or text: its pictures feed the reconstruction losses alone."""
    return {**raw, "conversations": [], "text": None} if isinstance(raw, Mapping) else raw


class AnnotationFile:
    """A JSON or JSONL file whose samples are read when they are asked for; can be sent to worker processes."""

    def __init__(
        self,
        path: Path,
        root: Path | None = None,
        only: Mapping[str, Sequence[str]] | None = None,
        conversations: bool = True,
    ):
        """Finds where the samples lie.

        Args:
            path: `.json` (a list, read at once) or `.jsonl` (one sample a line, read line by line).
            root: folder that paths in samples are relative to; the file's own folder if None.
            only: see `wanted`; the rest is as if it were not there.
            conversations: false leaves them out, see `pictures_of`.

        Raises:
            DataError: the file is missing, empty or not JSON.
        """
        self.path = path
        self.root = path.parent if root is None else root
        self.only = dict(only or {})
        self.conversations = conversations
        self._samples: list[Any] | None = None
        self._offsets: Int64Array = np.empty(0, np.int64)
        try:
            if path.suffix == ".json":
                self._samples = self._read_list()
            else:
                self._offsets = _line_offsets(path)
        except OSError as err:
            raise DataError(f"annotation file {path} cannot be read: {err.strerror}") from err
        self._rows = np.arange(self._stored())
        if self.only:
            self._rows = np.array([row for row in self._rows if self._is_wanted(row)], np.int64)
        if not len(self):
            raise DataError(f"annotation file {path} has no samples" + (f" with {self.only}" if self.only else ""))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Annotation:
        """Reads one sample.

        Raises:
            DataError: it is not JSON, or not of the form of a sample.
        """
        raw = self.raw(row)
        return parse_annotation(raw if self.conversations else pictures_of(raw), self.root, self._place(row))

    def raw(self, row: int) -> Any:
        """A sample as JSON has it.

        Raises:
            DataError: it is not JSON.
        """
        return self._raw(int(self._rows[row]))

    def name(self, row: int) -> str:
        """What a sample is called: its id; its place where it has none, or is not JSON."""
        try:
            return sample_id(self.raw(row), self._place(row))
        except DataError:
            return self._place(row)

    def _place(self, row: int) -> str:
        return f"{self.path.name}:{self._rows[row] + 1}"

    def _stored(self) -> int:
        return len(self._offsets) if self._samples is None else len(self._samples)

    def _raw(self, stored: int) -> Any:
        if self._samples is not None:
            return self._samples[stored]
        with self.path.open("rb") as file:
            file.seek(int(self._offsets[stored]))
            line = file.readline()
        try:
            return json.loads(line)
        except (ValueError, RecursionError) as err:
            raise DataError(f"not JSON: {err}") from err

    def _is_wanted(self, stored: int) -> bool:
        try:
            return wanted(self._raw(stored), self.only)
        except DataError:
            return True  # it is named when it is read

    def _read_list(self) -> list[Any]:
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as err:
            raise DataError(f"annotation file {self.path} is not JSON: {err}") from err
        if not isinstance(values, list):
            raise DataError(f"annotation file {self.path} holds a {type(values).__name__}, not a list of samples")
        return values


def _line_offsets(path: Path) -> Int64Array:
    """Where each line that is not blank begins, in bytes; holds one block of the file at a time."""
    starts: list[Int64Array] = []
    position, line_start, blank = 0, 0, True
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            data = np.frombuffer(block, np.uint8)
            visible = np.flatnonzero(data > ord(" "))
            ends = np.flatnonzero(data == ord("\n"))
            # A line is blank where nothing visible lies between its beginning and its end.
            begins = np.concatenate(([line_start - position], ends + 1))
            first = np.searchsorted(visible, np.maximum(begins, 0))
            last = np.searchsorted(visible, np.concatenate((ends, [len(data)])))
            filled = last > first
            filled[0] |= not blank
            whole = begins[:-1][filled[:-1]]
            starts.append(whole.astype(np.int64) + position)
            line_start, blank = int(begins[-1]) + position, not bool(filled[-1])
            position += len(data)
    if not blank:
        starts.append(np.array([line_start], np.int64))
    return np.concatenate(starts) if starts else np.empty(0, np.int64)


def _check_unicode(text: str, what: str) -> None:
    """JSON can name halves of a character (`\\udc80`), which nothing can encode."""
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise DataError(f"{what} is not valid Unicode (character {err.start}: {text[err.start]!r}); mend it") from err


def _paths(raw: Mapping[str, Any], key: str, root: Path) -> list[Path]:
    given = raw.get(key)
    if given is None:
        return []
    paths = [given] if isinstance(given, str) else given
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise DataError(f"{key} must be a path or a list of paths, not {given!r:.60}")
    for path in paths:
        _check_unicode(path, key)
    return [root / path for path in paths]


def _messages(conversation: Any) -> tuple[tuple[Message, ...], list[str]]:
    """Messages of a conversation, and the placeholders in their order."""
    if not isinstance(conversation, list):
        raise DataError(f"conversations must be a list of turns, not {conversation!r:.60}")
    messages: list[Message] = []
    shown: list[str] = []
    for turn in conversation:
        role = _ROLES.get(str(turn.get("from"))) if isinstance(turn, Mapping) else None
        if role is None or not isinstance(turn.get("value"), str):
            raise DataError(f"a turn must have a 'from' among {', '.join(_ROLES)} and a 'value': {turn!r:.80}")
        _check_unicode(turn["value"], "a turn's value")
        if role == "assistant":
            messages.append({"role": role, "content": turn["value"]})
            continue
        parts: list[dict[str, Any]] = []
        for piece in _PLACEHOLDER.split(turn["value"]):
            if piece in ("<image>", "<video>"):
                shown.append(piece)
                parts.append({"type": piece[1:-1]})
            elif piece:
                parts.append({"type": "text", "text": piece})
        messages.append({"role": role, "content": parts})
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError("the conversation has no turn from 'gpt': nothing can be learnt from it")
    return tuple(messages), shown


def _in_order(shown: list[str], paths: Mapping[str, list[Path]]) -> tuple[Picture, ...]:
    for kind, of_kind in paths.items():
        if shown.count(kind) != len(of_kind):
            raise DataError(
                f"the conversation has {shown.count(kind)} {kind} but the sample names {len(of_kind)} of them"
            )
    rest = {kind: iter(of_kind) for kind, of_kind in paths.items()}
    return tuple(Picture(next(rest[kind]), kind == "<video>") for kind in shown)
