"""Does a caption agree with the boxes of the same picture? Counts and names are compared, in English."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from penguin_models.grounding import Box, GroundedObject

_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NUMBERS = {word: number for number, word in enumerate(_WORDS)} | {"a": 1, "an": 1, "zero": 0}
_COUNTED = re.compile(rf"\b({'|'.join(_NUMBERS)}|\d{{1,3}})\s+((?:[a-z]+\s+){{0,3}}[a-z]+)", re.IGNORECASE)
_SAME_BOX = 0.9
"""Boxes of one label that overlap more than this (intersection over union) are one object."""


def distinct(objects: Sequence[GroundedObject]) -> list[GroundedObject]:
    """Returns the objects without those whose box repeats an earlier one of the same label."""
    kept: list[GroundedObject] = []
    for item in objects:
        if not any(item.label == other.label and overlap(item.box, other.box) > _SAME_BOX for other in kept):
            kept.append(item)
    return kept


def contradictions(caption: str, objects: Sequence[GroundedObject]) -> list[str]:
    """Returns what the caption says otherwise than the boxes, in sentences; empty if they agree.

    A label is compared by its last word, so that "a red cube" and "two cubes" concern boxes of "red cube" and "blue
    cube". Indefinite articles say nothing about a number. Objects that the caption counts without boxes are not judged.
    """
    boxes = Counter(_noun(item.label) for item in objects)
    found = []
    for noun, number in sorted(boxes.items()):
        stated = _stated(caption, noun)
        if not re.search(rf"\b{re.escape(noun)}(?:s|es)?\b", caption, re.IGNORECASE):
            found.append(f"the caption does not name the {noun} of a box")
        elif stated and number not in stated and number != sum(stated):
            listed = " and ".join(map(str, stated))
            found.append(f"the caption counts {listed} of the kind {noun}, there are {number} boxes")
    return found


def overlap(one: Box, other: Box) -> float:
    """Returns the intersection over union of two boxes."""
    width = min(one.x2, other.x2) - max(one.x1, other.x1)
    height = min(one.y2, other.y2) - max(one.y1, other.y1)
    common = max(0, width) * max(0, height)
    both = sum((box.x2 - box.x1) * (box.y2 - box.y1) for box in (one, other))
    return common / (both - common) if both > common else float(one == other)


def _noun(label: str) -> str:
    words = label.lower().split()
    return _singular(words[-1]) if words else ""


def _singular(word: str) -> str:
    if re.search(r"(?:s|x|z|ch|sh)es$", word):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _stated(caption: str, noun: str) -> list[int]:
    """Returns the numbers, without articles, that stand before a noun with at most three words between."""
    numbers = []
    for match in _COUNTED.finditer(caption):
        word = match[1].lower()
        nouns = [_singular(name) for name in match[2].lower().split()]
        if word not in ("a", "an") and noun in nouns:
            numbers.append(_NUMBERS[word] if word in _NUMBERS else int(word))
    return numbers
