"""`penguin-vl evaluate watch` as a function: judges conditions about simulated scenes, and how far to trust that.

Each scene is observed as a camera, and conditions are judged on its newest frame as a watch of a node does. Calibration
is fitted to scenes of the validation split and scored on scenes of the test split. Needs the extra `sim`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from penguin_engine.runtimes.base import Runtime
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.requests import Request
from penguin_engine.scene.session import SceneSession
from penguin_models.errors import EvaluationError
from penguin_models.judge import yes_probability
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.processor import Processor
from penguin_models.types import BoolArray, Frame, Size
from penguin_models.watch import Calibration, logit
from penguin_tabletop.dataset import Mixture, Sample, TabletopDataset, TabletopSettings
from penguin_tabletop.seeds import Split

Float64Array = npt.NDArray[np.float64]
BINS = 10
_CONDITIONS = 8
"""Most conditions about a scene."""
_TOKEN_BUDGET = 512
_SECOND_NS = 1_000_000_000
_MOST_STEPS = 100
_SLOWEST = 1e-3
"""Smallest scale: a model whose judgements are worth nothing gets the share of conditions that hold."""


@dataclass(frozen=True)
class Judged:
    """Judgements of conditions."""

    probabilities: Float64Array  # the model's own probability that each holds, float64 [judgements]
    holds: BoolArray  # whether it does, bool [judgements]

    def calibrated(self, calibration: Calibration) -> Judged:
        """Returns the same judgements with calibrated probabilities."""
        return Judged(np.array([calibration.apply(p) for p in self.probabilities]), self.holds)

    @property
    def accuracy(self) -> float:
        """Share of conditions of which the more likely answer is right."""
        return float(((self.probabilities >= 0.5) == self.holds).mean())

    @property
    def calibration_error(self) -> float:
        """Expected calibration error over 10 bins with equally many judgements each.

        The sum over bins b of (n_b / n) * abs(mean probability in b - share of b that holds), as in Naeini et al.,
        "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015, with the bins of equal mass of
        Nguyen and O'Connor, "Posterior calibration and exploratory analysis for natural language processing models",
        EMNLP 2015. It depends on the order of equal probabilities, which is that of the judgements.
        """
        order = np.argsort(self.probabilities, kind="stable")
        bins = [part for part in np.array_split(order, BINS) if len(part)]
        gaps = [len(part) * abs(float(self.probabilities[part].mean() - self.holds[part].mean())) for part in bins]
        return sum(gaps) / len(order)


def judge_scenes(
    runtime: Runtime,
    processor: Processor,
    split: Split,
    scenes: int,
    size: Size,
    seed: int = 0,
    on_scene: Callable[[], None] = lambda: None,
) -> Judged:
    """Returns the model's own judgements of conditions about images and clips of a split.

    Args:
        runtime: Runs the model.
        processor: Processor of the same checkpoint.
        split: Where the scenes come from.
        scenes: Number of scenes.
        size: Size of the images in pixels.
        seed: Seed of the scenes within the split.
        on_scene: Called after each scene.

    Raises:
        TabletopError: The size is out of range, or PyBullet is not installed.
        EvaluationError: There is nothing to judge in these scenes.
    """
    mixture = Mixture(image=0.6, pair=0, clip=0.4, chart=0, text=0)
    dataset = TabletopDataset(TabletopSettings(split, seed, size, mixture=mixture, conditions=_CONDITIONS))
    judged: list[tuple[float, bool]] = []
    for number in range(scenes):
        judged += _judge(runtime, processor, dataset[number])
        on_scene()
    if not judged:
        raise EvaluationError(f"nothing can be judged in {scenes} scenes; take more")
    probabilities, holds = zip(*judged, strict=True)
    return Judged(np.array(probabilities), np.array(holds))


def _judge(runtime: Runtime, processor: Processor, sample: Sample) -> Iterator[tuple[float, bool]]:
    turns = [turn for turn in sample.turns if turn.task == "condition"]
    if not turns:
        return
    with closing(SceneSession(runtime, processor, NoveltyPolicy(), MemoryConfig(_TOKEN_BUDGET))) as session:
        for stamp_s, pixels in zip(sample.stamps_s or (0.0,), sample.frames, strict=True):
            session.observe(Frame(pixels, round((1 + stamp_s) * _SECOND_NS)))
        while session.prefill_pending():
            pass
        for turn in turns:
            logits = session.judge(Request.prepare(processor, turn.question).token_ids)
            yield yes_probability(processor, logits), turn.answer == "yes"


def fit(judged: Judged) -> Calibration:
    """Returns the Platt scaling with the largest likelihood, by Newton's method.

    The targets are those of Platt (1999): (N+ + 1) / (N+ + 2) for the N+ conditions that hold, and 1 / (N- + 2) for the
    others, so that separable judgements do not make the scale infinite.

    Raises:
        EvaluationError: All of the conditions hold, or none.
    """
    x = np.array([logit(p) for p in judged.probabilities])
    positive, negative = int(judged.holds.sum()), int((~judged.holds).sum())
    if not positive or not negative:
        raise EvaluationError(f"{positive} of {positive + negative} conditions hold, which fits nothing; take more")
    target = np.where(judged.holds, (positive + 1) / (positive + 2), 1 / (negative + 2))
    features = np.column_stack([x, np.ones_like(x)])  # [judgements, 2]
    weights = np.array([0.0, np.log(positive / negative)])

    def loss(candidate: Float64Array) -> float:
        value = features @ candidate
        return float((np.logaddexp(0, value) - target * value).sum())

    for _ in range(_MOST_STEPS):
        p = 1 / (1 + np.exp(-(features @ weights)))
        gradient = features.T @ (p - target)
        hessian = (features * (p * (1 - p))[:, None]).T @ features + 1e-9 * np.eye(2)
        step, share = np.linalg.solve(hessian, gradient), 1.0
        while share > 1e-6 and loss(weights - share * step) > loss(weights):
            share /= 2
        weights = weights - share * step
        if np.abs(share * step).max() < 1e-9:
            break
    return Calibration(max(float(weights[0]), _SLOWEST), float(weights[1]), len(x))


def summary(judged: Judged, calibration: Calibration) -> dict[str, float | int]:
    """Returns accuracy and expected calibration error, with and without a calibration."""
    calibrated = judged.calibrated(calibration)
    return {
        "judgements": len(judged.holds),
        "holds": float(judged.holds.mean()),
        "accuracy": calibrated.accuracy,
        "calibration_error": calibrated.calibration_error,
        "accuracy_uncalibrated": judged.accuracy,
        "calibration_error_uncalibrated": judged.calibration_error,
    }
