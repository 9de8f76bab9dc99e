"""Confidence of a box: the geometric mean of the probabilities of the tokens that its numbers are made of."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from penguin_models.grounding import GroundedObject


def box_scores(
    text: str, objects: Sequence[GroundedObject], ends: Sequence[int], probabilities: Sequence[float]
) -> tuple[float, ...]:
    """Returns the confidence of each object's box.

    Args:
        text: The answer as generated.
        objects: Objects parsed from it, in order.
        ends: Length of the text after each token.
        probabilities: Probability of each token when it was chosen.

    Returns:
        One score per object, 0 to 1; NaN if its numbers do not appear in the text as parsed.
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
        # A token that extends beyond the numbers counts as well: it determined some of their digits.
        tokens = zip((0, *ends), ends, probabilities, strict=False)
        chosen = [p for begin, end, p in tokens if begin < match.end() and end > match.start()]
        scores.append(math.prod(chosen) ** (1 / len(chosen)) if chosen else math.nan)
    return tuple(scores)
