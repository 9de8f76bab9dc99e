"""`penguin-vl evaluate tabletop` as a function: asks about simulated scenes of the test split and scores the answers.

Scenes are rendered when they are asked about. Needs the extra `sim`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
from penguin_ros.evaluation.metrics.statistics import intervals, ratio, sum_ratios
from penguin_ros.evaluation.tabletop.positions import PositionErrors
from penguin_ros.evaluation.tabletop.scores import QUESTION, TITLES, Score, Scored, score_answer
from penguin_tabletop.dataset import Mixture, Sample, TabletopDataset, TabletopSettings
from penguin_tabletop.seeds import Split

_POLICIES: dict[str, Callable[[], KeyframePolicy]] = {"novelty": NoveltyPolicy, "reference": ReferencePolicy}


@dataclass(frozen=True)
class TabletopRun:
    """Which scenes are asked about, and how."""

    seed: int = 0  # seed of the scenes within the test split
    scenes: int = 200
    # weights of single images, pairs and clips; nothing is asked about charts and texts
    mixture: Mixture = field(default_factory=lambda: Mixture(image=0.6, pair=0.1, clip=0.3, chart=0, text=0))
    size: Size = field(default_factory=lambda: Size(168, 168))  # of the images in pixels
    policy: str = "novelty"  # keyframe policy for clips: "novelty" or "reference"
    max_tokens: int | None = None  # visual token budget of a prompt; None for the checkpoint's

    def __post_init__(self) -> None:
        for family in ("chart", "text"):
            if getattr(self.mixture, family):
                raise EvaluationError(f"no questions are asked about the family {family}; use image, pair and clip")


@dataclass(frozen=True)
class AskedTurn:
    """A question and its answer, for inspection of errors."""

    scene: str
    task: str
    question: str
    wanted: str
    answer: str
    right: bool


def evaluate_tabletop(
    runtime: Runtime,
    processor: Processor,
    run: TabletopRun,
    on_answers: Callable[[Sequence[AskedTurn]], None] = lambda asked: None,
    positions: PositionErrors | None = None,
) -> dict[str, Score]:
    """Asks about every scene and returns the scores by name, in the order of tables.

    After each scene, `on_answers` gets the answers about it. `positions` measures where the boxes of the answers are in
    space, and with it the scores end with the position errors.

    Raises:
        PenguinError: The token budget is too small for a scene, or the prompt is too long for the model.
    """
    settings = TabletopSettings(Split.TEST, run.seed, run.size, turns=8, fps=2.0, mixture=run.mixture)
    scored: list[list[Scored]] = []
    dataset = TabletopDataset(settings)
    for number in range(run.scenes):
        sample, asked = dataset[number], []
        scored.append([])
        answers = _answer_turns(runtime, processor, run, sample)
        if positions is not None:
            positions.add_scene(sample, answers)
        for turn, raw in zip(sample.turns, answers, strict=True):
            score = score_answer(turn, raw)
            scored[-1].append(score)
            asked.append(AskedTurn(sample.id, turn.task, turn.question, turn.answer, raw, score.right))
        on_answers(asked)
    return summarise(scored) | (positions.scores() if positions is not None else {})


def summarise(scored: Sequence[Sequence[Scored]]) -> dict[str, Score]:
    """Returns the scores of the answers of each scene.

    Intervals are over scenes, because answers about one scene are correlated.
    """
    present = {name for answers in scored for answer in answers for name in answer.parts}
    names = [name for name in TITLES if name in present] + sorted(n for n in present if n.startswith(QUESTION))
    columns = [
        [sum_ratios([answer.parts[name] for answer in answers if name in answer.parts]) for answers in scored]
        for name in names
    ]
    scores = {}
    for name, column, interval in zip(names, columns, intervals(columns), strict=True):
        value = ratio(column)
        if value is None:
            continue
        low, high = interval or (None, None)
        count = sum(name in answer.parts for answers in scored for answer in answers)
        scores[name] = Score(TITLES.get(name, name), value, low, high, count, tuple(column))
    return scores


def _answer_turns(runtime: Runtime, processor: Processor, run: TabletopRun, sample: Sample) -> list[str]:
    """Returns the model's answer to each question of a scene; the questions are independent of each other."""
    if not sample.turns:
        return []
    is_clip = sample.family == "clip"
    answers = ask_each(
        runtime,
        processor,
        [turn.question for turn in sample.turns],
        images=() if is_clip else sample.frames,
        clip=[ClipFrame(*item) for item in zip(sample.stamps_s, sample.frames, strict=True)] if is_clip else None,
        policy=_POLICIES[run.policy](),
        max_tokens=run.max_tokens,
        sampling=Sampling(max_new_tokens=160),
    )
    return [answer.raw for answer in answers]
