"""The prompt with which a model judges a condition: whether a statement holds in the newest frame that it has seen.

Training (a turn whose answer is "yes" or "no") and inference use the same text. The probability of "yes" is read with
`penguin_models.judge.yes_probability`.
"""

from __future__ import annotations

_INSTRUCTION = "Is this true now? Answer yes or no."


def watch_question(condition: str) -> str:
    """Returns the text of the user turn, after the frames, that asks whether a condition holds."""
    return f"{condition}\n{_INSTRUCTION}"
