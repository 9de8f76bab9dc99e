"""Exercises that make a model look things up: a text to repeat, a picture to read cell by cell.

Every word of the answer stands at one known place of the prompt. A model that starts from nothing learns to find
things there long before it learns it from questions, each of which holds one such word. Not part of evaluation.
"""

from __future__ import annotations

import numpy as np

from penguin_models.types import UInt8Array
from penguin_training.tabletop.catalogue import COLOURS, KINDS, WORDS
from penguin_training.tabletop.language import pick
from penguin_training.tabletop.turns import Expected, Turn

Random = np.random.Generator
EMPTY = "table"
_COVERED = 0.3
"""A cell shows what covers at least this share of it; else it is empty."""
_SIDES = (2, 3, 4)
_WITHOUT_ORDER = 0.6


def repeat(text: str, random: Random) -> Turn:
    """Something to say again: words and numbers in no order, which cannot be guessed, or a few sentences of a text."""
    if random.random() < _WITHOUT_ORDER:
        items = [*COLOURS, *KINDS, *WORDS]
        count = int(random.integers(6, 25))
        chosen = " ".join(
            str(random.integers(1000)) if random.random() < 0.4 else pick(random, items) for _ in range(count)
        )
    else:
        sentences = [part for part in text.replace(". ", ".\n").split("\n") if part]
        count = int(random.integers(1, min(6, len(sentences)) + 1))
        start = int(random.integers(len(sentences) - count + 1))
        chosen = " ".join(sentences[start : start + count])
    opening = pick(random, ("Repeat:", "Say this again:", "Copy this:"))
    return Turn("repeat", f"{opening} {chosen}", chosen, Expected("words", answer=chosen))


def read_cells(classes: UInt8Array, names: tuple[str, ...], random: Random) -> Turn:
    """What is in every cell of a grid over the picture, row by row.

    Args:
        classes: uint8 [H, W], class of every pixel.
        names: of the classes; the first is nothing.
        random: chooses the grid and the words.
    """
    side = _SIDES[int(random.integers(len(_SIDES)))]
    rows = [
        ", ".join(_shown(cell, names) for cell in np.array_split(row, side, axis=1))
        for row in np.array_split(classes, side, axis=0)
    ]
    opening = pick(random, ("Read the picture", "Say what is where", "Go through the picture"))
    answer = "\n".join(rows)
    return Turn("cells", f"{opening} in {side} rows of {side} cells.", answer, Expected("words", answer=answer))


def _shown(cell: UInt8Array, names: tuple[str, ...]) -> str:
    counts = np.bincount(cell.ravel(), minlength=len(names))
    counts[0] = 0
    best = int(counts.argmax())
    return names[best].removeprefix("any ") if counts[best] >= _COVERED * cell.size else EMPTY
