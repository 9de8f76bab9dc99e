"""How sure the model was of a box: geometric mean of the probabilities of the tokens that its numbers are made of."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from penguin_models.grounding import GroundedObject


def box_scores(
    text: str, objects: Sequence[GroundedObject], ends: Sequence[int], probabilities: Sequence[float]
) -> tuple[float, ...]:
    """Scores of the objects of an answer.

    Args:
        text: as generated.
        objects: parsed from it, in its order.
        ends: length of the text after each token.
        probabilities: of each token when it was chosen.

    Returns:
        One score per object, 0 to 1; NaN where its numbers do not stand in the text as they were read.
    """
    scores, position = [], 0
    for item in objects:
        box = item.box
        numbers = r"\D{1,4}".join(rf"(?<!\d){number}(?!\d)" for number in (box.x1, box.y1, box.x2, box.y2))
        match = re.compile(numbers).search(text, position)
        if match is None:
            scores.append(math.nan)
            continue
        position = match.end()
        # A token that stands across the border of the numbers counts: it chose some of them.
        tokens = zip((0, *ends), ends, probabilities, strict=False)
        chosen = [p for begin, end, p in tokens if begin < match.end() and end > match.start()]
        scores.append(math.prod(chosen) ** (1 / len(chosen)) if chosen else math.nan)
    return tuple(scores)
