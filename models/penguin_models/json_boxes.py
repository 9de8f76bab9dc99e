"""Boxes in the JSON that other models write: which values are boxes, what they are called, and what is left.

A box is a list of four numbers under one of `BOX_KEYS`, corners in the order x1, y1, x2, y2. Gemini writes
[y1, x1, y2, x2] under "box_2d"; models built on Qwen, whose answers are parsed here, write x first under every key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

BOX_KEYS = ("bbox_2d", "box_2d", "bbox", "box", "bounding_box")
LABEL_KEYS = ("label", "name", "category", "class", "object", "phrase", "text_content", "text")
_NOTHING: tuple[Any, ...] = (None, "", [], {})


def find_boxes(value: Any, label: str = "object") -> Iterator[tuple[str, list[str]]]:
    """Yields label and numbers of every box in a decoded JSON value, at any depth.

    A box without a label gets the key of the object that holds it, or `label`. Under "bbox_2d" and "box_2d" everything
    counts as a box, so that the caller can count what cannot be read.
    """
    if isinstance(value, list):
        for item in value:
            yield from find_boxes(item)
    elif isinstance(value, Mapping):
        key, label_key = _keys(value)
        if key is not None:
            for numbers in _number_lists(value[key]):
                yield (str(value[label_key]) if label_key else label), numbers
        for name, item in value.items():
            if name != key:
                yield from find_boxes(item, name)


def without_boxes(value: Any) -> Any:
    """Returns what a decoded JSON value holds besides boxes and their labels; None if nothing is left."""
    if next(find_boxes(value), None) is None:
        return None if value in _NOTHING else value
    if isinstance(value, list):
        return [left for item in value if (left := without_boxes(item)) is not None] or None
    used = _keys(value)
    items = ((name, without_boxes(item)) for name, item in value.items() if name not in used)
    return {name: left for name, left in items if left is not None} or None


def _keys(value: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Returns the keys of an object's box and of its label; None if it has none."""
    key = next((key for key in BOX_KEYS if key in value and (key.endswith("_2d") or _is_box(value[key]))), None)
    if key is None:
        return None, None
    return key, next((name for name in LABEL_KEYS if type(value.get(name)) in (str, int) and value[name] != ""), None)


def _is_box(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(
        isinstance(box, list) and len(box) == 4 and all(type(number) in (int, float) for number in box)
        for box in (value if isinstance(value[0], list) else [value])
    )


def _number_lists(value: Any) -> list[list[str]]:
    """Returns one list of numbers, as text, for each box of a value; an empty one if it is not a list."""
    if not isinstance(value, list):
        return [[]]
    boxes = value if value and all(isinstance(item, list) for item in value) else [value]
    return [[str(number) for number in box] for box in boxes]
