"""Writes clips of the simulated table-top as bags with questions and exact ground truth, ready for `evaluate bags`.

At two times in each clip, questions are asked about what is in view then (recent perception) and about what has
happened since the start (recall). Needs the extra `sim`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from penguin_models.types import Size
from penguin_ros.evaluation.question_file import (
    Expected,
    ExpectedAbsence,
    ExpectedChoice,
    ExpectedNumber,
    ExpectedObjects,
    ExpectedText,
    ExpectedTime,
    Question,
    write_questions,
)
from penguin_ros.evaluation.tabletop.depth_bag import write_depth_bag
from penguin_ros.evaluation.tabletop.truth_bag import CAMERA, TrueFrame, write_bag
from penguin_tabletop.clips.events import EventKind
from penguin_tabletop.clips.timeline import TabletopClip
from penguin_tabletop.conversations import clip_tasks
from penguin_tabletop.conversations.clip_tasks import ClipTruth
from penguin_tabletop.conversations.picture_tasks import picture_turns
from penguin_tabletop.conversations.turns import Turn
from penguin_tabletop.render.picture import SceneRenderer
from penguin_tabletop.seeds import Split, seeded_random
from penguin_tabletop.truth import View

QUESTIONS_FILE = "questions.jsonl"
_NOW_TASKS = (clip_tasks.count_at_end, clip_tasks.where_at_end)
_PAST_TASKS = (clip_tasks.when, clip_tasks.happens, clip_tasks.how_many_times)
_EVENT_WORDS: dict[str, EventKind] = {
    "appear": "appears",
    "moved": "moved",
    "fall": "falls",
    "leave": "leaves",
    "camera": "camera",
}
"""Word in a question -> kind of event that the question is about."""


def write_clips(
    folder: Path,
    clips: int,
    size: Size,
    seed: int = 0,
    seconds: float = 20.0,
    fps: float = 2.0,
    on_clip: Callable[[], None] = lambda: None,
    depth: bool = False,
) -> list[Path]:
    """Writes clips of the test split as bags in a folder, with one file of questions, and returns the bags' paths.

    With `depth`, each has a bag `...-depth` next to it, with what a depth camera sees.

    The seed selects clips within the split; `fps` is in images per second; `on_clip` is called after each clip.

    Raises:
        TabletopError: A setting is out of range, or PyBullet is not installed.
        EvaluationError: A bag exists already, or cannot be written.
    """
    renderer = SceneRenderer(size)
    bags: list[Path] = []
    questions: list[Question] = []
    for number in range(clips):
        clip = TabletopClip(Split.TEST.seed(number, seed), size, fps, seconds, calm=False)
        views = list(clip.frames(renderer))
        frames = (TrueFrame(v.stamp_s, v.picture.rgb, [item.grounded for item in v.truth.objects]) for v in views)
        bags.append(write_bag(folder / f"tabletop-{number}", frames))
        if depth:
            write_depth_bag(folder / f"tabletop-{number}-depth", views)
        questions += clip_questions(f"tabletop-{number}", clip, views)
        on_clip()
    write_questions(folder / QUESTIONS_FILE, questions)
    return bags


def clip_questions(bag: str, clip: TabletopClip, views: Sequence[View]) -> list[Question]:
    """Returns questions about a clip, asked after its middle and at its end while nothing happens."""
    random = seeded_random(clip.seed, "bag questions")
    questions: list[Question] = []
    for view in calm_views(clip, views):
        past = tuple(event for event in clip.events if event.end_s <= view.stamp_s)
        truth = ClipTruth(past, views[0].truth, view.truth)
        for turn, about_now in _turns(truth, random):
            expected = _expected(turn)
            if expected is None:
                continue
            questions.append(
                Question(
                    id=f"{bag}/{len(questions) + 1}-{turn.task}",
                    bag=bag,
                    camera=CAMERA,
                    time_s=view.stamp_s,
                    question=turn.question,
                    expected=[expected],
                    kind=turn.task,
                    evidence_s=_evidence(turn.question, expected, truth, view.stamp_s if about_now else None),
                )
            )
    return questions


def calm_views(clip: TabletopClip, views: Sequence[View]) -> list[View]:
    """Returns the first view after the middle and the last view, of those during which no event is going on.

    During an event it is ambiguous whether it has happened.
    """
    middle = len(views) // 2
    calm = [v for v in views[middle:] if not any(e.start_s <= v.stamp_s < e.end_s for e in clip.events)]
    return [calm[0], calm[-1]] if len(calm) > 1 else calm


def _evidence(question: str, expected: Expected, truth: ClipTruth, now_s: float | None) -> tuple[float, float] | None:
    """Returns when the evidence for an answer was visible: now, or during the first event of the kind in question.

    None if the evaluation derives it from the expected result (boxes, times), or if no such event happened: then the
    whole clip is the evidence.
    """
    if expected.type in ("objects", "time_range"):
        return None
    if now_s is not None:
        return now_s, now_s
    (kind,) = (kind for word, kind in _EVENT_WORDS.items() if word in question)
    return next(((event.start_s, event.end_s) for event in truth.events if event.kind == kind), None)


def _turns(truth: ClipTruth, random: np.random.Generator) -> Iterator[tuple[Turn, bool]]:
    """Yields questions, and whether they are about what is in view now."""
    for task in _PAST_TASKS:
        turn = task(truth, random)
        if turn is not None:
            yield turn, False
    if truth.last.is_clear:
        for task in _NOW_TASKS:
            turn = task(truth, random)
            if turn is not None:
                yield turn, True
        for turn in picture_turns(truth.last, random, most=3):
            yield turn, True


def _expected(turn: Turn) -> Expected | None:
    """Converts what a turn expects; None for answers that only tabletop/scores.py can score."""
    expected = turn.expected
    if expected.kind == "boxes" and not expected.objects:
        return ExpectedAbsence()
    if expected.kind == "boxes":
        objects = [{"label": o.label, "box": (o.box.x1, o.box.y1, o.box.x2, o.box.y2)} for o in expected.objects]
        return ExpectedObjects.model_validate({"objects": objects, "unit": "1000"})
    if expected.kind == "choice":
        options = list(expected.options)
        return ExpectedChoice(options=options, answer=chr(ord("A") + options.index(expected.answer)))
    if expected.kind == "number":
        return ExpectedNumber(value=expected.number)
    if expected.kind in ("label", "text"):
        return ExpectedText(accept=[expected.answer], metric="contains")
    if expected.kind == "span" and expected.span is not None:
        return ExpectedTime(accept=[(expected.span.start_s, expected.span.end_s)])
    return None
