"""Exercises that make a model look things up: a text to repeat, a picture to read cell by cell, a picture in words.

Every word of the answer stands at one known place of the prompt. A model that starts from nothing learns to find
things there long before it learns it from questions, each of which holds one such word. A picture in words has one
word where a picture has one visual token, so that boxes are found in both by the same steps. Not part of evaluation.
"""

from __future__ import annotations

import numpy as np

from penguin_models.grounding import Box, GroundedObject, format_grounding, format_object
from penguin_models.types import UInt8Array
from penguin_training.tabletop.catalogue import COLOURS, KINDS, WORDS
from penguin_training.tabletop.language import an, capital, pick
from penguin_training.tabletop.turns import Expected, Turn

Random = np.random.Generator
EMPTY = "table"
_COVERED = 0.3
"""A cell shows what covers at least this share of it; else it is empty."""
_SIDES = (2, 3, 4)
_WORDS_A_SIDE = (4, 8, 8, 8, 16)
_MOST_THINGS = 5
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


def picture_in_words(random: Random, most: int) -> list[Turn]:
    """A square of words, row by row, each naming what is there; and questions about where things are.

    Args:
        random: chooses the things, their places and the questions.
        most: turns.
    """
    side = _WORDS_A_SIDE[int(random.integers(len(_WORDS_A_SIDE)))]
    kinds = [kind for kind in KINDS if " " not in kind]
    names = (EMPTY, *(kinds[index] for index in random.permutation(len(kinds))[: random.integers(1, _MOST_THINGS + 1)]))
    cells = np.zeros((side, side), np.uint8)
    for number in range(1, len(names)):
        height, width = random.integers(1, side // 2 + 1, 2)
        top, left = random.integers(side - height + 1), random.integers(side - width + 1)
        cells[top : top + height, left : left + width] = number
    things = [GroundedObject(names[n], _box_of_cells(cells == n)) for n in range(1, len(names)) if (cells == n).any()]
    things.sort(key=lambda thing: (thing.box.x1, thing.box.y1))
    turns = [_ask_in_words(things, random) for _ in range(int(random.integers(2, max(2, most) + 1)))]
    if random.random() < 0.5:
        turns[-1] = read_cells(cells.repeat(60 // side, 0).repeat(60 // side, 1), names, random)
    first = turns[0]
    words = " ".join(names[cell] for cell in cells.ravel())
    turns[0] = Turn(first.task, f"A picture in words: {words}\n{first.question}", first.answer, first.expected)
    return turns


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


def _box_of_cells(shown: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> Box:
    (rows, columns), side = np.nonzero(shown), len(shown)
    edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return Box(*(round(1000 * int(edge) / side) for edge in edges))


def _shown(cell: UInt8Array, names: tuple[str, ...]) -> str:
    counts = np.bincount(cell.ravel(), minlength=len(names))
    counts[0] = 0
    best = int(counts.argmax())
    return names[best].removeprefix("any ") if counts[best] >= _COVERED * cell.size else EMPTY
