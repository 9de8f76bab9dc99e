"""Exercises that make a model look things up: texts to repeat.

Every word of the answer stands at one known place of the prompt. A model that starts from nothing learns to find
things there long before it learns it from questions, each of which holds one such word. Not part of evaluation.
"""

from __future__ import annotations

import numpy as np

from penguin_tabletop.catalogue import COLOURS, KINDS, WORDS
from penguin_tabletop.language import pick
from penguin_tabletop.turns import Expected, Turn

Random = np.random.Generator
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
