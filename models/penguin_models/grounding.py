"""Text with boxes and time ranges <-> objects.

The format we write and train with is a phrase in square brackets followed by its box in round ones. Coordinates are
integers in [0, 1000] relative to the image's width and height, origin top left, independent of the resolution (paper:
arXiv 2603.06569; the released model's box syntax is not documented):

    There is a [red cube](120,340,220,480) on the tray.

Time ranges are written as the released model does: "During the period 206.00 - 208.00 seconds."

The parser also reads the formats of other models: a bare [x1, y1, x2, y2] after a phrase, JSON lists with "bbox_2d",
and <box> tags. Malformed boxes are counted and never raise an error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from penguin_models.errors import PromptError
from penguin_models.types import Size

SCALE = 1000
"""Largest coordinate."""


@dataclass(frozen=True)
class Box:
    """A box in thousandths of the image's width and height: 0 <= x1 <= x2 <= 1000, 0 <= y1 <= y2 <= 1000."""

    x1: int
    y1: int
    x2: int
    y2: int

    def __post_init__(self) -> None:
        if not (0 <= self.x1 <= self.x2 <= SCALE and 0 <= self.y1 <= self.y2 <= SCALE):
            raise PromptError(f"box {self.x1, self.y1, self.x2, self.y2} must be ordered and within [0, {SCALE}]")

    def to_pixels(self, size: Size) -> tuple[float, float, float, float]:
        """Returns (x_min, y_min, x_max, y_max) in pixels of an image of this size."""
        x, y = size.width / SCALE, size.height / SCALE
        return self.x1 * x, self.y1 * y, self.x2 * x, self.y2 * y

    @classmethod
    def from_pixels(cls, x_min: float, y_min: float, x_max: float, y_max: float, size: Size) -> Box:
        """Returns the box of these pixels, rounded and clipped to the image."""
        x, y = SCALE / size.width, SCALE / size.height
        return cls(*(min(SCALE, max(0, round(v))) for v in (x_min * x, y_min * y, x_max * x, y_max * y)))


@dataclass(frozen=True)
class GroundedObject:
    """A phrase and the box it refers to."""

    label: str
    box: Box

    def __post_init__(self) -> None:
        words = self.label.split()
        if not words or self.label != " ".join(words) or re.search(r"[\[\]\x00-\x1f\x7f]", self.label):
            raise PromptError(f"label {self.label!r} must be words separated by single spaces, without [ or ]")


@dataclass(frozen=True)
class TimeRange:
    """A span of the video in seconds, written with two decimals."""

    start_s: float
    end_s: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start_s) and math.isfinite(self.end_s) and 0 <= self.start_s <= self.end_s):
            raise PromptError(f"time range {self.start_s} - {self.end_s} must be ordered and not negative")


@dataclass(frozen=True)
class Grounding:
    """A parsed text, with objects and time ranges in its order."""

    text: str  # for people, without boxes and brackets
    objects: tuple[GroundedObject, ...] = ()
    time_ranges: tuple[TimeRange, ...] = ()
    malformed: int = 0  # number of boxes and time ranges that could not be read


def format_object(item: GroundedObject) -> str:
    """Returns an object as the model writes it: [label](x1,y1,x2,y2)."""
    box = item.box
    return f"[{item.label}]({box.x1},{box.y1},{box.x2},{box.y2})"


def format_time_range(span: TimeRange) -> str:
    """Returns a span as the model writes it: During the period 206.00 - 208.00 seconds."""
    return f"During the period {span.start_s:.2f} - {span.end_s:.2f} seconds."


def format_grounding(objects: Sequence[GroundedObject], time_ranges: Sequence[TimeRange] = ()) -> str:
    """Returns a plain answer: the objects, comma-separated, then the spans."""
    listed = ", ".join(format_object(item) for item in objects)
    return " ".join(filter(None, (listed, *map(format_time_range, time_ranges))))


_NUMBER = r"-?\d+(?:\.\d+)?"
_FOUR = rf"\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*"
_LINK = re.compile(rf"\[([^\[\]]*)\]\({_FOUR}\)")
_BROKEN_LINK = re.compile(r"\[([^\[\]]*)\]\([\d\s,.\-]*(?:\)|$)")
_TAG = re.compile(r"(?:<ref>(?P<label>.*?)</ref>\s*)?<box>(?P<body>.*?)(?:</box>|$)", re.DOTALL)
# The length limits keep the search linear in the length of the text.
_BARE = re.compile(rf"(?<!\w)(?P<phrase>[^\[\].,:;!?\n]{{0,120}}[^\[\].,:;!?\s])[\s:]{{0,8}}\[{_FOUR}\]")
# Three or more numbers, because "[1]" and "[2, 3]" are references, years or lists.
_BARE_BROKEN = re.compile(rf"\[\s*{_NUMBER}(?:\s*,\s*{_NUMBER}){{2,}}\s*,?\s*(?:\]|$)")
_JSON_START = re.compile(r"(?:```(?:json)?\s*)?(?=[\[{])")
_JSON_END = re.compile(r"\s*```")
# An object with a box that is not valid JSON, or an object in which the text breaks off.
_BROKEN_JSON = re.compile(r"\{(?:[^{}]*\"bbox_2d\"[^{}]*(?:\}|$)|[^{}]*$)")
_TIME = re.compile(r"During the period\s+(\S+)\s+-\s+(\S+)\s+seconds", re.IGNORECASE)


def parse(text: str) -> Grounding:
    """Reads the objects and time ranges of a text; `parse(format_grounding(x, y))` returns x and y."""
    parser = _Parser()
    text = _LINK.sub(parser.link, text.replace("\x00", ""))
    if '"bbox_2d"' in text:
        text = parser.json(text)
    text = _BROKEN_LINK.sub(parser.broken, text)
    text = _TAG.sub(parser.tag, text)
    text = _BARE.sub(parser.bare, text)
    text = _BARE_BROKEN.sub(parser.broken, text)
    spans = [span for match in _TIME.finditer(text) if (span := parser.time(match))]
    clean, objects = parser.resolve(text)
    return Grounding(clean, objects, tuple(spans), parser.malformed)


class _Parser:
    """Collects objects and replaces their syntax with marks, which keep the order of the text."""

    def __init__(self) -> None:
        self.malformed = 0
        self._found: list[tuple[GroundedObject, bool]] = []

    def link(self, match: re.Match[str]) -> str:
        return self._add(match[1], match.groups()[1:], shown=True)

    def tag(self, match: re.Match[str]) -> str:
        numbers = re.findall(_NUMBER, match["body"])
        return self._add(match["label"] or "object", numbers, shown=match["label"] is not None)

    def bare(self, match: re.Match[str]) -> str:
        phrase = match["phrase"]
        label = re.sub(r"^\s*(?:(?:and|or|the|a|an)\s+)*", "", phrase, flags=re.IGNORECASE) or phrase.strip()
        return phrase + self._add(label, match.groups()[1:], shown=False)

    def broken(self, match: re.Match[str]) -> str:
        """Counts a malformed box; returns its label, if the syntax has one."""
        self.malformed += 1
        return "".join(match.groups())

    def json(self, text: str) -> str:
        """Replaces JSON values with a "bbox_2d" at any depth; a list that breaks off keeps its complete items."""
        pieces, position = [], 0
        while (start := _JSON_START.search(text, position)) is not None:
            try:
                value, end = json.JSONDecoder().raw_decode(text, start.end())
            except (json.JSONDecodeError, RecursionError):
                if broken := _BROKEN_JSON.match(text, start.end()):
                    self.malformed += 1
                    pieces.append(text[position : start.start()].rstrip(", \n"))
                    position = broken.end()
                    continue
                opens_items = re.match(r"\[\s*\{", text[start.end() :]) is not None
                pieces.append(text[position : start.start() if opens_items else start.end() + 1])
                position = start.end() + 1
                continue
            if close := _JSON_END.match(text, end):
                end = close.end()
            if marks := self._json_boxes(value):
                pieces += [text[position : start.start()], ", ".join(filter(None, marks))]
            else:
                pieces.append(text[position:end])
            position = end
        return "".join(pieces) + text[position:]

    def _json_boxes(self, value: Any) -> list[str]:
        if isinstance(value, dict) and "bbox_2d" in value:
            box = value["bbox_2d"]
            numbers = [str(number) for number in box] if isinstance(box, list) else []
            return [self._add(str(value.get("label", "object")), numbers, shown=True)]
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return [mark for item in items for mark in self._json_boxes(item)]

    def time(self, match: re.Match[str]) -> TimeRange | None:
        try:
            return TimeRange(float(match[1]), float(match[2]))
        except ValueError:  # not numbers, or not ordered
            self.malformed += 1
            return None

    def resolve(self, text: str) -> tuple[str, tuple[GroundedObject, ...]]:
        """Replaces the marks with labels; returns the clean text and the objects in its order."""
        objects = []

        def label(match: re.Match[str]) -> str:
            item, shown = self._found[int(match[1])]
            objects.append(item)
            return item.label if shown else ""

        clean = re.sub("\x00(\\d+)\x00", label, text)
        return re.sub(r"[ \t]{2,}", " ", clean).strip(), tuple(objects)

    def _add(self, label: str, numbers: Sequence[str], shown: bool) -> str:
        try:
            x1, y1, x2, y2 = (round(float(number)) for number in numbers)
            item = GroundedObject(" ".join(label.split()), Box(x1, y1, x2, y2))
        except (ValueError, OverflowError):  # not four numbers, out of range or order, or an unusable label
            self.malformed += 1
            return label if shown else ""
        self._found.append((item, shown))
        return f"\x00{len(self._found) - 1}\x00"
