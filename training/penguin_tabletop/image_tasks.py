"""All tasks on one picture, and how often each is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from penguin_tabletop import captions, picture_questions, pointing
from penguin_tabletop.truth import SceneTruth
from penguin_tabletop.turns import Turn

Random = np.random.Generator
ImageTask = Callable[[SceneTruth, Random], Turn | None]

IMAGE_TASKS: dict[ImageTask, float] = {
    captions.caption_short: 2.0,
    captions.caption_medium: 1.0,
    captions.caption_detailed: 1.0,
    captions.caption_grounded: 2.0,
    captions.find_everything: 1.5,
    pointing.find_by_name: 3.0,
    pointing.find_by_place: 1.0,
    pointing.find_by_print: 0.7,
    pointing.find_all: 1.0,
    pointing.name_in_box: 3.0,
    pointing.list_boxes: 1.5,
    pointing.describe_box: 0.7,
    picture_questions.count_objects: 1.5,
    picture_questions.colour_of: 2.5,
    picture_questions.list_colours: 2.0,
    picture_questions.kind_of_colour: 2.5,
    picture_questions.relation_between: 1.2,
    picture_questions.relation_holds: 1.2,
    picture_questions.exists: 2.0,
    picture_questions.what_is_on: 2.0,
    picture_questions.larger_of: 2.0,
    picture_questions.side_of_picture: 0.8,
    picture_questions.table_of: 0.5,
    picture_questions.read_print: 2.5,
}
"""Weights; a task that does not fit a picture is not asked of it."""
_TRIES = 10
"""Questions that are thought of for each that is wanted."""

_FROM_TEXT = (
    pointing.find_by_name,
    pointing.find_all,
    pointing.name_in_box,
    picture_questions.count_objects,
    picture_questions.colour_of,
    picture_questions.kind_of_colour,
    picture_questions.relation_between,
    picture_questions.relation_holds,
    picture_questions.exists,
    picture_questions.what_is_on,
    picture_questions.side_of_picture,
    picture_questions.table_of,
    picture_questions.read_print,
)
TEXT_TASKS: dict[ImageTask, float] = {task: IMAGE_TASKS[task] for task in _FROM_TEXT}
"""Tasks that a full description of a picture answers as well as the picture."""


def turns_about(
    truth: SceneTruth, random: Random, most: int, tasks: Mapping[ImageTask, float] = IMAGE_TASKS
) -> list[Turn]:
    """Up to `most` questions about a picture, at least one, none twice.

    A task may come again, about something else.

    Args:
        truth: of a clear picture that shows something.
        random: chooses.
        most: turns.
        tasks: to choose from, with weights.
    """
    weights = np.array(list(tasks.values()))
    names = list(tasks)
    wanted = int(random.integers(1, most + 1))
    turns: dict[str, Turn] = {}
    for index in random.choice(len(tasks), _TRIES * most, p=weights / weights.sum()):
        turn = names[index](truth, random)
        if turn is not None:
            turns.setdefault(turn.question, turn)
        if len(turns) == wanted:
            break
    return list(turns.values())
