"""Exercises that make a model look things up: a text to repeat, a picture to read patch by patch.

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
PATCH = 14
"""Side of a patch in pixels."""
_COVERED = 0.3
"""A patch shows what covers at least this share of it; else it is empty."""
_WITHOUT_ORDER = 0.6


def repeat(text: str, random: Random) -> Turn:
    """Something to say again: words in no order, which cannot be guessed, or a few sentences of a text."""
    if random.random() < _WITHOUT_ORDER:
        items = [*COLOURS, *KINDS, *WORDS]
        chosen = " ".join(pick(random, items) for _ in range(int(random.integers(4, 17))))
    else:
        sentences = [part for part in text.replace(". ", ".\n").split("\n") if part]
        count = int(random.integers(1, min(6, len(sentences)) + 1))
        start = int(random.integers(len(sentences) - count + 1))
        chosen = " ".join(sentences[start : start + count])
    opening = pick(random, ("Repeat:", "Say this again:", "Copy this:"))
    return Turn("repeat", f"{opening} {chosen}", chosen, Expected("words", answer=chosen))


def read_patches(classes: UInt8Array, names: tuple[str, ...], random: Random) -> Turn:
    """One word for every patch, row by row: its kind, or its colour.

    Args:
        classes: uint8 [H, W], class of every pixel.
        names: of the classes, a colour (or "any") and a kind; the first is nothing.
        random: chooses between kinds and colours.
    """
    rows, columns = classes.shape[0] // PATCH, classes.shape[1] // PATCH
    tiles = classes[: rows * PATCH, : columns * PATCH].reshape(rows, PATCH, columns, PATCH).swapaxes(1, 2)
    shown = np.array([_shown(tile, len(names)) for tile in tiles.reshape(-1, PATCH**2)])
    by_colour = bool(random.random() < 0.5)
    words = [_colour_word(names[index]) if by_colour else _kind_word(names[index]) for index in shown]
    return _read(words, "colours" if by_colour else "kinds")


def _read(words: list[str], what: str) -> Turn:
    answer = f"It shows {' '.join(words)}"
    return Turn("read", f"Read the picture by {what}.", answer, Expected("words", answer=answer))


def _shown(patch: UInt8Array, classes: int) -> int:
    counts = np.bincount(patch, minlength=classes)
    counts[0] = 0
    best = int(counts.argmax())
    return best if counts[best] >= _COVERED * patch.size else 0


def _kind_word(name: str) -> str:
    """One word for a kind: "shape" for an odd shape."""
    return name.rsplit(" ", 1)[-1] if name and name != "nothing" else EMPTY


def _colour_word(name: str) -> str:
    """The colour; the kind where it has none."""
    return _kind_word(name) if name.startswith("any ") or name == "nothing" else name.split(" ", 1)[0]
