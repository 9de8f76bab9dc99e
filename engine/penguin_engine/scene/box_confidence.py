"""Confidence of a box: the geometric mean of the probabilities of the tokens that its numbers are made of."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from penguin_models.grounding import COORDINATE, Box, GroundedObject, read_box

_BETWEEN = r"[^\w.]{1,40}"
# In a lookahead, because a box may begin with the second of four numbers.
_FOUR = re.compile(
    rf"(?<![\d.])(?=({COORDINATE}){_BETWEEN}({COORDINATE}){_BETWEEN}({COORDINATE}){_BETWEEN}({COORDINATE}))"
)


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
        match = next((match for match in _FOUR.finditer(text, position) if _is(item.box, match)), None)
        if match is None:
            scores.append(math.nan)
            continue
        position = match.end(4)
        # A token that extends beyond the numbers counts as well: it determined some of their digits.
        tokens = zip((0, *ends), ends, probabilities, strict=False)
        chosen = [p for begin, end, p in tokens if begin < match.end(4) and end > match.start(1)]
        scores.append(math.prod(chosen) ** (1 / len(chosen)) if chosen else math.nan)
    return tuple(scores)


def _is(box: Box, match: re.Match[str]) -> bool:
    try:
        return read_box(match.groups()) == box
    except (ValueError, OverflowError):
        return False
