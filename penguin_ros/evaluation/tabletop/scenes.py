"""`penguin-vl evaluate tabletop`, as a function: questions about scenes that nothing was trained on, scored.

Scenes are made while they are asked about, from seeds of the test split. Needs the extra `sim`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.generation import Sampling
from penguin_engine.scene.offline import ask_each
from penguin_models.errors import EvaluationError
from penguin_models.keyframe_policy import KeyframePolicy
from penguin_models.media import ClipFrame
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.processor import Processor
from penguin_models.reference_policy import ReferencePolicy
from penguin_models.types import Size
from penguin_ros.evaluation.metrics.statistics import Ratio, intervals, ratio
from penguin_ros.evaluation.tabletop.scores import QUESTION, TITLES, Scored, score_answer
from penguin_tabletop.dataset import Mixture, TabletopDataset, TabletopSettings
from penguin_tabletop.samples import Sample
from penguin_tabletop.seeds import Split

ASKED = ("image", "pair", "clip")
"""Families of samples that have questions about pictures."""
POLICIES: dict[str, Callable[[], KeyframePolicy]] = {"novelty": NoveltyPolicy, "reference": ReferencePolicy}


@dataclass(frozen=True)
class TabletopRun:
    """What is asked, and how.

    Attributes:
        seed: a family of scenes of its own in the test split.
        scenes: how many.
        mixture: of single pictures, pairs and clips; of nothing else.
        turns: most questions about a scene.
        size: of the pictures in pixels.
        fps: frames per second of clips.
        policy: labels the frames of clips: "novelty" or "reference".
        max_tokens: budget of visual tokens of a prompt; the checkpoint's if None.
        max_new_tokens: longest answer.
    """

    seed: int = 0
    scenes: int = 200
    mixture: Mixture = field(default_factory=lambda: Mixture(image=0.6, pair=0.1, clip=0.3, chart=0, text=0))
    turns: int = 8
    size: Size = field(default_factory=lambda: Size(168, 168))
    fps: float = 2.0
    policy: str = "novelty"
    max_tokens: int | None = None
    max_new_tokens: int = 160

    def __post_init__(self) -> None:
        others = [name for name in ("chart", "text") if getattr(self.mixture, name)]
        if others:
            raise EvaluationError(
                f"the mixture has {' and '.join(others)}, about which nothing is asked; give weights of "
                f"{', '.join(ASKED)}"
            )


@dataclass(frozen=True)
class AskedTurn:
    """A question with its answer: for people who want to see what went wrong."""

    scene: str
    task: str
    question: str
    wanted: str
    answer: str
    right: bool


@dataclass(frozen=True)
class Score:
    """A score with its 95 % interval over scenes; None where fewer than two scenes count.

    Attributes:
        title: for people.
        value: the score.
        low: of the interval.
        high: see low.
        answers: that count.
        parts: of every scene its part, for comparisons with other answers about the same scenes.
    """

    title: str
    value: float
    low: float | None
    high: float | None
    answers: int
    parts: tuple[Ratio, ...] = field(default=(), repr=False)


def evaluate_tabletop(
    runtime: Runtime,
    processor: Processor,
    run: TabletopRun,
    on_scene: Callable[[int], None] = lambda done: None,
    on_answers: Callable[[Sequence[AskedTurn]], None] = lambda asked: None,
) -> tuple[dict[str, Score], list[AskedTurn]]:
    """Asks about every scene and scores the answers.

    Args:
        runtime: runs the model.
        processor: of the same checkpoint.
        run: what is asked.
        on_scene: called with the number of scenes done.
        on_answers: called with the answers about a scene, before `on_scene`.

    Returns:
        Scores by name, in the order of tables; and every answer.

    Raises:
        PenguinError: the budget is too small for a scene, or the prompt too long for the model.
    """
    settings = TabletopSettings(Split.TEST, run.seed, run.size, run.turns, run.fps, mixture=run.mixture)
    dataset = TabletopDataset(settings)
    scored: list[list[Scored]] = []
    asked: list[AskedTurn] = []
    try:
        for number in range(run.scenes):
            sample = dataset[number]
            answers = _answers(runtime, processor, run, sample)
            scores = [score_answer(turn, raw) for turn, raw in zip(sample.turns, answers, strict=True)]
            of_scene = [
                AskedTurn(sample.id, turn.task, turn.question, turn.answer, raw, score.right)
                for turn, raw, score in zip(sample.turns, answers, scores, strict=True)
            ]
            asked += of_scene
            scored.append(scores)
            on_answers(of_scene)
            on_scene(number + 1)
    finally:
        dataset.close()
    return summarise(scored), asked


def summarise(scored: Sequence[Sequence[Scored]]) -> dict[str, Score]:
    """Scores of all answers; scenes are drawn for the intervals, as answers about one scene hang together.

    Args:
        scored: of every scene its answers.
    """
    found = {name for answers in scored for answer in answers for name in answer.parts}
    names = [name for name in TITLES if name in found] + sorted(name for name in found if name.startswith(QUESTION))
    columns = [[_of_scene(answers, name) for answers in scored] for name in names]
    scores = {}
    for name, column, interval in zip(names, columns, intervals(columns), strict=True):
        value = ratio(column)
        if value is None:
            continue
        low, high = interval or (None, None)
        answers = sum(name in answer.parts for of_scene in scored for answer in of_scene)
        scores[name] = Score(TITLES.get(name, name), value, low, high, answers, tuple(column))
    return scores


def to_dict(scores: dict[str, Score], run: TabletopRun) -> dict[str, Any]:
    """For programs."""
    found = {
        name: {"value": score.value, "low": score.low, "high": score.high, "answers": score.answers}
        for name, score in scores.items()
    }
    return {"seed": run.seed, "scenes": run.scenes, "scores": found}


def _answers(runtime: Runtime, processor: Processor, run: TabletopRun, sample: Sample) -> list[str]:
    """What the model says to each question of a scene, each asked as if it were the only one."""
    if not sample.turns:
        return []
    is_clip = sample.family == "clip"
    answers = ask_each(
        runtime,
        processor,
        [turn.question for turn in sample.turns],
        images=() if is_clip else sample.frames,
        clip=[ClipFrame(*item) for item in zip(sample.stamps_s, sample.frames, strict=True)] if is_clip else None,
        policy=POLICIES[run.policy](),
        max_tokens=run.max_tokens,
        sampling=Sampling(max_new_tokens=run.max_new_tokens),
    )
    return [answer.raw for answer in answers]


def _of_scene(answers: Sequence[Scored], name: str) -> Ratio:
    parts = [answer.parts[name] for answer in answers if name in answer.parts]
    return Ratio(sum(part.numerator for part in parts), sum(part.denominator for part in parts))
