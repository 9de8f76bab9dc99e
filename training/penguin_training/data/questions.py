"""The questions of a sample as a reward function gets them, with whatever its annotation holds to check answers by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from penguin_models.errors import DataError
from penguin_training.data.annotations import Annotation


@dataclass(frozen=True)
class Question:
    """A question about a sample's images."""

    id: str  # Id of the sample
    turn: int  # Number of the question in the sample, from 0
    text: str  # The question, without what it shows
    reference: str  # The annotated answer
    fields: Mapping[str, Any]  # Fields of the annotation besides media and conversation


def questions_of(annotation: Annotation) -> tuple[Question, ...]:
    """Returns the questions of a sample whose questions do not build on each other.

    Raises:
        DataError: They do, or the sample has no conversation.
    """
    if annotation.messages is None:
        raise DataError("it has no conversation, and a stage with rewards needs questions; leave it out")
    turns: list[list[str]] = []
    for message in annotation.messages:
        if message["role"] == "user":
            turns.append([_text(message["content"]), ""])
        elif message["role"] == "assistant" and turns:
            turns[-1][1] += _text(message["content"])
    if len(turns) > 1 and not annotation.independent_turns:
        raise DataError(
            f"its {len(turns)} questions build on each other, but a stage with rewards samples each answer by itself; "
            'set "independent_turns": true if they do not, or split the sample'
        )
    return tuple(
        Question(annotation.id, number, question, reference, annotation.fields)
        for number, (question, reference) in enumerate(turns)
    )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")
