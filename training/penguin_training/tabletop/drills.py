"""Exercises that make a model look things up: a text to repeat, a picture to read patch by patch, a picture in words.

Every word of the answer stands at one known place of the prompt. A model that starts from nothing learns to find
things there long before it learns it from questions, each of which holds one such word. A picture in words has one
word where a picture has one visual token, so that boxes are found in both by the same steps. Not part of evaluation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from penguin_models.grounding import Box, GroundedObject, format_grounding, format_object
from penguin_models.types import UInt8Array
from penguin_training.tabletop.catalogue import COLOURS, KINDS, WORDS
from penguin_training.tabletop.language import an, capital, pick
from penguin_training.tabletop.turns import Expected, Turn

Random = np.random.Generator
EMPTY = "table"
PATCH = 14
"""Side of a patch in pixels."""
_COVERED = 0.3
"""A patch shows what covers at least this share of it; else it is empty."""
_SIDE = 12
"""Of pictures in words, that of 168 pixels. One for all: a decoder reads from left to right, and could not tell which
row a word stands in before it has seen how many there are."""
_MOST_THINGS = 5
_READ_FIRST = 0.15
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


def picture_in_words(random: Random, most: int) -> list[Turn]:
    """A square of words, row by row, each naming what is there; and questions about where things are.

    Args:
        random: chooses the things, their places and the questions.
        most: turns.
    """
    side, kinds = _SIDE, list(KINDS)
    labels = ("", *(kinds[index] for index in random.permutation(len(kinds))[: random.integers(1, _MOST_THINGS + 1)]))
    cells = np.zeros((side, side), np.uint8)
    for number in range(1, len(labels)):
        height, width = random.integers(1, side // 2 + 1, 2)
        top, left = random.integers(side - height + 1), random.integers(side - width + 1)
        cells[top : top + height, left : left + width] = number
    things = [GroundedObject(labels[n], _box_of_cells(cells == n)) for n in range(1, len(labels)) if (cells == n).any()]
    things.sort(key=lambda thing: (thing.box.x1 + thing.box.x2, thing.box.y1))
    words = [_kind_word(labels[cell]) for cell in cells.ravel()]
    turns = [_read(words, "kinds")] if random.random() < _READ_FIRST else []
    turns += [_ask_in_words(things, random) for _ in range(int(random.integers(2, max(2, most) + 1)))]
    first = turns[0]
    # The words stand where the visual tokens of a picture would.
    turns[0] = Turn(first.task, f" {' '.join(words)}\n{first.question}", first.answer, first.expected)
    return turns


def _read(words: list[str], what: str) -> Turn:
    answer = f"It shows {' '.join(words)}"
    return Turn("read", f"Read the picture by {what}.", answer, Expected("words", answer=answer))


def _ask_in_words(things: list[GroundedObject], random: Random) -> Turn:
    thing = things[int(random.integers(len(things)))]
    box = "({},{},{},{})".format(*(round(edge) for edge in vars(thing.box).values()))
    draw = random.random()
    if draw < 0.45:
        question = pick(random, ("Where is the {}?", "Find the {}.", "In which box is the {}?")).format(thing.label)
        return Turn("words_find", question, format_object(thing), Expected("boxes", (thing,)))
    if draw < 0.7:
        question = pick(random, ("What is at {}?", "What is in {}?", "Which object is in {}?")).format(box)
        return Turn("words_name", question, f"{capital(an(thing.label))}.", Expected("label", answer=thing.label))
    question = pick(random, ("List all objects with their boxes.", "What is where?", "Where are the objects?"))
    return Turn("words_everything", question, format_grounding(things), Expected("boxes", tuple(things)))


def _box_of_cells(shown: npt.NDArray[np.bool_]) -> Box:
    (rows, columns), side = np.nonzero(shown), len(shown)
    edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return Box(*(round(1000 * int(edge) / side) for edge in edges))


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
