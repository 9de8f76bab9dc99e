"""Text with boxes and time ranges <-> objects.

The format we write and train with is a phrase in square brackets followed by its box in round ones. Coordinates are
integers in [0, 1000] relative to the image's width and height, origin top left, independent of the resolution (paper:
arXiv 2603.06569; the released model's box syntax is not documented):

    There is a [red cube](120,340,220,480) on the tray.

Time ranges are written as the released model does: "During the period 206.00 - 208.00 seconds."

The parser also reads the formats of other models: a bare [x1, y1, x2, y2] after a phrase, JSON with boxes
(json_boxes.py), and <box> tags. Coordinates up to 1 of which one has a decimal point, as in (0.0, 0.5, 1, 1), are
fractions of width and height; those with % are per cent; all others are thousandths. Malformed boxes are counted and
never raise an error. JSON and code without boxes stay in the text as they are.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from penguin_models.errors import PromptError
from penguin_models.json_boxes import find_boxes, without_boxes
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


_NUMBER = r"-?(?:\d+(?:\.\d*)?|\.\d+)"
COORDINATE = rf"{_NUMBER}(?:\s?%)?"
"""Pattern of one coordinate as `read_box` accepts it."""
_FOUR = rf"\s*({COORDINATE})\s*,\s*({COORDINATE})\s*,\s*({COORDINATE})\s*,\s*({COORDINATE})\s*"
_LINK = re.compile(rf"\[([^\[\]]*)\]\({_FOUR}\)")
_BROKEN_LINK = re.compile(r"\[([^\[\]]*)\]\([\d\s,.%\-]*(?:\)|$)")
_TAG = re.compile(r"(?:<ref>(?P<label>[^<]*)</ref>\s*)?<box>(?P<body>[\d\s,.%()\[\]\-]*)(?:</box>|$)")
# Characters of a phrase before a bare box; quotes, braces and "=" are those of code. The length limits keep the search
# linear in the length of the text.
_WORDS = r"""[^\[\]{}"`=.,:;!?\n\x00]"""
_BARE = re.compile(rf"(?<!\w)(?P<phrase>{_WORDS}{{0,120}}(?!['\s]){_WORDS})[\s:]{{0,8}}\[{_FOUR}\]")
# Three or more numbers, because "[1]" and "[2, 3]" are references, years or lists.
_BARE_BROKEN = re.compile(rf"(?!['\s]){_WORDS}[\s:]{{0,8}}\[\s*{_NUMBER}(?:\s*,\s*{_NUMBER}){{2,}}\s*,?\s*(?:\]|$)")
_JSON_START = re.compile(r"(?P<fence>```(?:json)?\s*)?(?=[\[{])")
_JSON_END = re.compile(r"\s*```")
_JSON_KEY = r"""\"(?:b?box_2d\"|(?:bbox|box|bounding_box)\"\s*:\s*\[)"""
# An object with a box that is not valid JSON; or, next to other boxes, an object in which the text breaks off.
_BROKEN_JSON = re.compile(rf"\{{[^{{}}]*{_JSON_KEY}[^{{}}]*(?:\}}|$)")
_CUT_JSON = re.compile(r"\{[^{}]*$")
_MARK = re.compile("(?P<space>[ \t]*)\x00(?P<number>\\d+)\x00")
_TIME = re.compile(r"During the period\s+(\S+)\s+-\s+(\S+)\s+seconds", re.IGNORECASE)


def shift_time_ranges(text: str, seconds: float) -> str:
    """Returns the text with its time ranges moved by some seconds; raises PromptError if one would begin before 0."""

    def shifted(match: re.Match[str]) -> str:
        try:
            start_s, end_s = float(match[1]), float(match[2])
        except ValueError:
            return match[0]
        span = TimeRange(*(round(value + seconds, 2) + 0.0 for value in (start_s, end_s)))
        return f"{match[0][: match.start(1) - match.start()]}{span.start_s:.2f} - {span.end_s:.2f} seconds"

    return _TIME.sub(shifted, text)


def without_time_ranges(text: str) -> str:
    """Returns the text without its time ranges."""
    return _TIME.sub("", text)


def parse(text: str) -> Grounding:
    """Reads the objects and time ranges of a text; `parse(format_grounding(x, y))` returns x and y."""
    parser = _Parser()
    text = text.replace("\x00", "")
    spans = [span for match in _TIME.finditer(text) if (span := parser.time(match))]
    text = _LINK.sub(parser.link, text)
    text = _TAG.sub(parser.tag, text)
    text = parser.json(text)
    text = _BROKEN_LINK.sub(parser.broken_link, text)
    text = _BARE.sub(parser.bare, text)
    text = _BARE_BROKEN.sub(parser.broken_bare, text)
    clean, objects = parser.resolve(text)
    return Grounding(clean, objects, tuple(spans), parser.malformed)


def read_box(numbers: Sequence[str]) -> Box:
    """Returns the box of four coordinates, each as a model writes it, see the module's docstring.

    Raises:
        ValueError, OverflowError: They are not four numbers, or out of range or order.
    """
    x1, y1, x2, y2 = (float(number.rstrip("% ")) for number in numbers)
    factor = 1.0
    if any(number.endswith("%") for number in numbers):
        factor = SCALE / 100
    elif any(not number.lstrip("-").isdigit() for number in numbers) and all(abs(v) < 2 for v in (x1, y1, x2, y2)):
        factor = SCALE  # up to 2, so that 1.01 is out of range instead of one thousandth
    return Box(*(round(factor * value) for value in (x1, y1, x2, y2)))


class _Parser:
    """Collects objects and replaces their syntax with marks, which keep the order of the text."""

    def __init__(self) -> None:
        self.malformed = 0
        self._marked: list[tuple[GroundedObject | None, str]] = []  # object, if any, and the text to show

    def link(self, match: re.Match[str]) -> str:
        return self._add(match[1], match.groups()[1:], shown=True)

    def tag(self, match: re.Match[str]) -> str:
        numbers = re.findall(COORDINATE, match["body"])
        return self._add(match["label"] or "object", numbers, shown=match["label"] is not None)

    def bare(self, match: re.Match[str]) -> str:
        phrase = match["phrase"]
        label = re.sub(r"^\s*(?:(?:and|or|the|a|an)\s+)*", "", phrase, flags=re.IGNORECASE) or phrase.strip()
        mark = self._add(label, match.groups()[1:], shown=False)
        return phrase + mark if mark else self._mark(None, match[0])

    def broken_link(self, match: re.Match[str]) -> str:
        """Counts a malformed box and returns its label."""
        self.malformed += 1
        return match[1]

    def broken_bare(self, match: re.Match[str]) -> str:
        """Counts a list that may be a malformed box, and keeps it in the text, because it may as well be none."""
        self.malformed += 1
        return match[0]

    def json(self, text: str) -> str:
        """Replaces JSON values; one with boxes by its labels and what else it holds, others by marks that keep them."""
        boxed = re.search(_JSON_KEY, text) is not None
        if boxed:
            text = re.sub(r",(?=\s*[}\]])", "", text)  # a comma after the last item, which JSON does not allow
        pieces, position = [], 0
        while (start := _JSON_START.search(text, position)) is not None:
            try:
                # Not strict, because marks in strings are control characters.
                value, end = json.JSONDecoder(strict=False).raw_decode(text, start.end())
                boxes, rest = list(find_boxes(value)), without_boxes(value)
            except (json.JSONDecodeError, RecursionError):
                piece, position = self._broken_json(text, position, start, boxed)
                pieces.append(piece)
                continue
            if close := _JSON_END.match(text, end):
                end = close.end()
            pieces.append(text[position : start.start()])
            original, position = text[start.start() : end], end
            if boxes:
                shown = ", ".join(filter(None, (self._add(label, numbers, shown=True) for label, numbers in boxes)))
                kept = "" if rest is None else self._mark(None, self._dumped(rest))
                pieces.append(" ".join(filter(None, (shown, kept))))
            elif start["fence"] or isinstance(value, dict) or any(isinstance(item, list | dict) for item in value):
                pieces.append(self._mark(None, original))
            else:
                pieces.append(original)  # a flat list may be a bare box
        return "".join(pieces) + text[position:]

    def _broken_json(self, text: str, position: int, start: re.Match[str], boxed: bool) -> tuple[str, int]:
        """Returns the text up to something that is not valid JSON, and where to continue."""
        broken = boxed and (_BROKEN_JSON.match(text, start.end()) or _CUT_JSON.match(text, start.end()))
        if broken:
            self.malformed += 1
            return text[position : start.start()].rstrip(", \n"), broken.end()
        opens_items = boxed and re.match(r"\[\s*\{", text[start.end() :]) is not None
        return text[position : start.start() if opens_items else start.end() + 1], start.end() + 1

    def _dumped(self, value: Any) -> str:
        """Returns a value as JSON in which the marks of its strings are marks again."""

        def restored(match: re.Match[str]) -> str:
            return f"\x00{match[1]}\x00" if int(match[1]) < len(self._marked) else match[0]

        return re.sub(r"\\u0000(\d{1,6})\\u0000", restored, json.dumps(value, ensure_ascii=False))

    def time(self, match: re.Match[str]) -> TimeRange | None:
        try:
            return TimeRange(float(match[1]), float(match[2]))
        except ValueError:  # not numbers, or not ordered
            self.malformed += 1
            return None

    def resolve(self, text: str) -> tuple[str, tuple[GroundedObject, ...]]:
        """Replaces the marks with what they show; returns the clean text and the objects in its order."""
        objects = []

        def show(match: re.Match[str]) -> str:
            item, shown = self._marked[int(match["number"])]
            if item is not None:
                objects.append(item)
            return match["space"] + _MARK.sub(show, shown) if shown else ""

        return _MARK.sub(show, text).strip(), tuple(objects)

    def _add(self, label: str, numbers: Sequence[str], shown: bool) -> str:
        label = label.replace("\x00", " ")
        try:
            item = GroundedObject(" ".join(label.split()), read_box(numbers))
        except (ValueError, OverflowError):  # not four numbers, out of range or order, or an unusable label
            self.malformed += 1
            return label if shown else ""
        return self._mark(item, item.label if shown else "")

    def _mark(self, item: GroundedObject | None, shown: str) -> str:
        self._marked.append((item, shown))
        return f"\x00{len(self._marked) - 1}\x00"
