"""All tasks on one picture, with how often each is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from penguin_tabletop.conversations import captions, picture_questions, pointing
from penguin_tabletop.conversations.turns import Turn
from penguin_tabletop.seeds import Random, choose_weighted
from penguin_tabletop.truth import SceneTruth

PictureTask = Callable[[SceneTruth, Random], Turn | None]
"""Returns None for a picture that it does not fit."""

# Each task with its weight, and whether a full description of a picture answers it as well as the picture.
_TASKS: tuple[tuple[PictureTask, float, bool], ...] = (
    (captions.caption_short, 2.0, False),
    (captions.caption_medium, 1.0, False),
    (captions.caption_detailed, 1.0, False),
    (captions.caption_grounded, 2.0, False),
    (captions.find_everything, 1.5, False),
    (pointing.find_by_name, 3.0, True),
    (pointing.find_by_place, 1.0, False),
    (pointing.find_by_print, 0.7, False),
    (pointing.find_all, 1.0, True),
    (pointing.name_in_box, 3.0, True),
    (pointing.list_boxes, 1.5, False),
    (pointing.describe_box, 0.7, False),
    (picture_questions.count_objects, 1.5, True),
    (picture_questions.colour_of, 2.5, True),
    (picture_questions.list_colours, 2.0, False),
    (picture_questions.kind_of_colour, 2.5, True),
    (picture_questions.relation_between, 1.2, True),
    (picture_questions.relation_holds, 1.2, True),
    (picture_questions.exists, 2.0, True),
    (picture_questions.what_is_on, 2.0, True),
    (picture_questions.larger_of, 2.0, False),
    (picture_questions.side_of_picture, 0.8, True),
    (picture_questions.table_of, 0.5, True),
    (picture_questions.read_print, 2.5, True),
)
PICTURE_TASKS = {task: weight for task, weight, _ in _TASKS}
TEXT_TASKS = {task: weight for task, weight, from_text in _TASKS if from_text}
_TRIES_PER_TURN = 10


def picture_turns(
    truth: SceneTruth, random: Random, most: int, tasks: Mapping[PictureTask, float] = PICTURE_TASKS
) -> list[Turn]:
    """Returns 1 to `most` different questions about a clear picture; a task may come again about something else."""
    wanted = int(random.integers(1, most + 1))
    turns: dict[str, Turn] = {}
    for task in choose_weighted(random, tasks, _TRIES_PER_TURN * most):
        turn = task(truth, random)
        if turn is not None:
            turns.setdefault(turn.question, turn)
        if len(turns) == wanted:
            break
    return list(turns.values())
