"""Reward functions: what a stage file names as `module:function` judges a sampled answer.

A reward function takes a `Question` and the text of an answer, with box syntax, and returns a number, more for a
better answer. It returns None for questions that it does not apply to, whatever the answer is. Functions must be
deterministic, or a resumed run differs from one that was never stopped.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from penguin_models.errors import SettingError, TrainingError
from penguin_training.data.questions import Question
from penguin_training.settings.rewards import RewardFunction

Judge = Callable[[Question, str], float | None]
_NO_SPREAD = 1e-6
"""Rewards whose standard deviation is below this are equal but for rounding."""


@dataclass(frozen=True)
class Reward:
    """A loaded reward function."""

    settings: RewardFunction
    judge: Judge

    def of(self, question: Question, answer: str) -> float | None:
        """Returns what the function says; raises TrainingError if it fails or returns no finite number."""
        try:
            value = self.judge(question, answer)
        except Exception as err:
            raise TrainingError(f"{self._failure(question)} raised {type(err).__name__}: {err}"[:400]) from err
        if value is None:
            return None
        if not isinstance(value, int | float | np.number) or not math.isfinite(value):
            raise TrainingError(f"{self._failure(question)} returned {value!r:.60}; it must return a number or None")
        return float(value)

    def _failure(self, question: Question) -> str:
        return f"the reward {self.settings.function}, for an answer to question {question.turn} of {question.id},"


def load_rewards(functions: Sequence[RewardFunction]) -> list[Reward]:
    """Imports the reward functions of a stage; raises SettingError if one cannot be imported."""
    return [Reward(settings, _import(settings.function)) for settings in functions]


def _import(function: str) -> Judge:
    module_name, _, name = function.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as err:  # whatever the module does
        reason = f"{type(err).__name__}: {err}"[:200]
        raise SettingError(
            f"rewards.functions names {function}, but its module cannot be imported ({reason}); "
            "install what it needs, or put its folder on PYTHONPATH"
        ) from err
    judge = getattr(module, name, None)
    if not callable(judge):
        missing = "has no such function" if judge is None else f"has a {type(judge).__name__} of this name"
        raise SettingError(f"rewards.functions names {function}, but the module {missing}")
    return judge  # type: ignore[no-any-return]


def group_advantages(rewards: Sequence[float]) -> list[float]:
    """Returns how much better each answer of a group is than the others: (reward - mean) / standard deviation.

    0 for all if their rewards are equal. The standard deviation is that of the group itself, not the estimate for what
    it was drawn from (GRPO: DeepSeekMath, arXiv 2402.03300, section 4.1.2).
    """
    values = np.asarray(rewards, np.float64)
    spread = values.std()
    return [0.0] * len(values) if spread < _NO_SPREAD else ((values - values.mean()) / spread).tolist()
