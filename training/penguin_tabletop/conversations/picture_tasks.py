"""All tasks on one picture, with how often each is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from penguin_tabletop.conversations import captions, picture_questions, pointing
from penguin_tabletop.conversations.language import Random
from penguin_tabletop.conversations.turns import Turn
from penguin_tabletop.truth import SceneTruth

PictureTask = Callable[[SceneTruth, Random], Turn | None]

PICTURE_TASKS: dict[PictureTask, float] = {
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
"""Weights; a task returns None for a picture that it does not fit."""
_NEED_PICTURE = {
    captions.caption_short,
    captions.caption_medium,
    captions.caption_detailed,
    captions.caption_grounded,
    captions.find_everything,
    pointing.find_by_place,
    pointing.find_by_print,
    pointing.list_boxes,
    pointing.describe_box,
    picture_questions.list_colours,
    picture_questions.larger_of,
}
TEXT_TASKS = {task: weight for task, weight in PICTURE_TASKS.items() if task not in _NEED_PICTURE}
"""Tasks that a full description of a picture answers as well as the picture."""
_TRIES_PER_TURN = 10


def picture_turns(
    truth: SceneTruth, random: Random, most: int, tasks: Mapping[PictureTask, float] = PICTURE_TASKS
) -> list[Turn]:
    """Returns 1 to `most` different questions about a clear picture; a task may come again about something else."""
    weights = np.array(list(tasks.values()))
    makers = list(tasks)
    wanted = int(random.integers(1, most + 1))
    turns: dict[str, Turn] = {}
    for index in random.choice(len(tasks), _TRIES_PER_TURN * most, p=weights / weights.sum()):
        turn = makers[index](truth, random)
        if turn is not None:
            turns.setdefault(turn.question, turn)
        if len(turns) == wanted:
            break
    return list(turns.values())
