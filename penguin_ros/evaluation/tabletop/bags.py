"""Clips of the simulated table-top as bags with questions: everything that `evaluate bags` takes, with exact truth.

At each time of asking there are questions about what is in view then (recent perception) and about what has happened
since the beginning (recall). Needs the extra `sim`.
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
from penguin_ros.evaluation.tabletop.export import CAMERA, TrueFrame, write_bag
from penguin_tabletop.clips.events import EventKind
from penguin_tabletop.clips.timeline import ClipView, TabletopClip
from penguin_tabletop.conversations import clip_tasks
from penguin_tabletop.conversations.clip_tasks import ClipTruth
from penguin_tabletop.conversations.picture_tasks import picture_turns
from penguin_tabletop.conversations.turns import Turn
from penguin_tabletop.render.picture import SceneRenderer
from penguin_tabletop.seeds import Split, seeded_random

QUESTIONS_FILE = "questions.jsonl"
_NOW_TASKS = (clip_tasks.count_at_end, clip_tasks.where_at_end)
_PAST_TASKS = (clip_tasks.when, clip_tasks.happens, clip_tasks.how_many_times)
_KINDS: dict[str, EventKind] = {
    "appear": "appears",
    "moved": "moved",
    "fall": "falls",
    "leave": "leaves",
    "camera": "camera",
}
"""The word by which a question whether or how often something happens names a kind of event."""


def write_clips(
    folder: Path,
    clips: int,
    seed: int = 0,
    seconds: float = 20.0,
    fps: float = 2.0,
    size: Size = Size(168, 168),  # noqa: B008 - a tuple
    quality: int = 85,
    on_clip: Callable[[], None] = lambda: None,
) -> list[Path]:
    """Writes clips of the test split as bags, and one file of questions about all of them.

    Args:
        folder: of the bags and of `questions.jsonl`.
        clips: how many.
        seed: a family of clips of its own.
        seconds: length of each.
        fps: images per second.
        size: of the images in pixels.
        quality: of the JPEGs, 1 to 95.
        on_clip: called after each clip.

    Returns:
        The bags.

    Raises:
        TabletopError: a setting that makes no sense, or PyBullet is not installed.
        EvaluationError: a bag exists already, or cannot be written.
    """
    renderer = SceneRenderer(size)
    bags, questions = [], []
    try:
        for number in range(clips):
            clip = TabletopClip(Split.TEST.seed(number, seed), size, fps, seconds, calm=False)
            views = list(clip.frames(renderer))
            bags.append(write_bag(folder / f"tabletop-{number}", map(_true_frame, views), quality=quality))
            questions += clip_questions(f"tabletop-{number}", clip, views)
            on_clip()
    finally:
        renderer.close()
    write_questions(folder / QUESTIONS_FILE, questions)
    return bags


def _true_frame(view: ClipView) -> TrueFrame:
    return TrueFrame(view.stamp_s, view.picture.rgb, [item.grounded for item in view.truth.objects])


def clip_questions(bag: str, clip: TabletopClip, views: Sequence[ClipView]) -> list[Question]:
    """Questions about a clip, asked after its middle and at its end, while nothing is going on."""
    random = seeded_random(clip.seed, "bag questions")
    found: list[Question] = []
    for view in calm_views(clip, views):
        truth = ClipTruth(
            tuple(event for event in clip.events if event.end_s <= view.stamp_s), views[0].truth, view.truth
        )
        for turn, now in _turns(truth, random):
            expected = _expected(turn)
            if expected is None:
                continue
            found.append(
                Question(
                    id=f"{bag}/{len(found) + 1}-{turn.task}",
                    bag=bag,
                    camera=CAMERA,
                    time_s=view.stamp_s,
                    question=turn.question,
                    expected=[expected],
                    kind=turn.task,
                    evidence_s=_evidence(turn.question, expected, truth, view.stamp_s if now else None),
                )
            )
    return found


def _evidence(question: str, expected: Expected, truth: ClipTruth, now_s: float | None) -> tuple[float, float] | None:
    """When what a question needs was to be seen: now, or with the first event of the kind that it asks about.

    None where that follows from what is expected (boxes, times), and where nothing of the kind has happened: then the
    whole clip is the evidence.
    """
    if expected.type in ("objects", "time_range"):
        return None
    if now_s is not None:
        return now_s, now_s
    (kind,) = (kind for word, kind in _KINDS.items() if word in question)
    return next(((event.start_s, event.end_s) for event in truth.events if event.kind == kind), None)


def calm_views(clip: TabletopClip, views: Sequence[ClipView]) -> list[ClipView]:
    """The first view after the middle and the last of all, of those during which nothing happens.

    While something happens, whether it has happened is a matter of opinion.
    """
    middle = len(views) // 2
    calm = [v for v in views[middle:] if not any(e.start_s <= v.stamp_s < e.end_s for e in clip.events)]
    return [calm[0], calm[-1]] if len(calm) > 1 else calm


def _turns(truth: ClipTruth, random: np.random.Generator) -> Iterator[tuple[Turn, bool]]:
    """Questions, and whether they are about what is in view now."""
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
    """What an evaluation expects; None for answers that only the table-top's own reader understands."""
    wanted = turn.expected
    if wanted.kind == "boxes" and not wanted.objects:
        return ExpectedAbsence()
    if wanted.kind == "boxes":
        objects = [{"label": o.label, "box": (o.box.x1, o.box.y1, o.box.x2, o.box.y2)} for o in wanted.objects]
        return ExpectedObjects.model_validate({"objects": objects, "unit": "1000"})
    if wanted.kind == "choice":
        options = list(wanted.options)
        return ExpectedChoice(options=options, answer=chr(ord("A") + options.index(wanted.answer)))
    if wanted.kind == "number":
        return ExpectedNumber(value=wanted.number)
    if wanted.kind in ("label", "text"):
        return ExpectedText(accept=[wanted.answer], metric="contains")
    if wanted.kind == "span" and wanted.span is not None:
        return ExpectedTime(accept=[(wanted.span.start_s, wanted.span.end_s)])
    return None
