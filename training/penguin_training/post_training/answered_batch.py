"""A micro-batch with sampled answers in place of the annotated ones: packed as it was, with a turn for each answer.

The images stay in the sequence once, and each answer sees them and its own question only, as independent turns do.
Axes are those of data/batch.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from penguin_models.types import Int64Array
from penguin_training.data.batch import Batch
from penguin_training.data.independent_turns import turn_positions


class WeightedAnswer(NamedTuple):
    """An answer that was sampled once or several times."""

    ids: tuple[int, ...]  # With its end token, if it has one
    advantage: float  # Sum over the times that it was sampled
    times: int  # How often it was sampled


@dataclass(frozen=True, eq=False)
class Prompts:
    """The questions of one sample."""

    start: int  # Place of the sample in the sequence
    shared: int  # Tokens that its questions begin with: the images, and what is before them
    questions: list[list[int]]  # Token ids of the rest of each prompt, up to where its answer begins


def read_prompts(batch: Batch) -> list[Prompts]:
    """Returns the questions of each sample of a micro-batch of independent turns; none for a filler."""
    ids, found, start = batch.ids.tolist(), list[Prompts](), 0
    learnt = np.zeros(len(ids) + 1, bool)
    learnt[batch.predict_from.numpy() + 1] = True
    for length, turns in zip(batch.lengths, batch.turns, strict=True):
        shared = length - sum(turns)
        questions, begin = [], start + shared
        for turn in turns:
            answer = begin + int(np.argmax(learnt[begin : begin + turn]))
            questions.append(ids[begin:answer])
            begin += turn
        found.append(Prompts(start, shared, questions))
        start += length
    return found


def with_answers(batch: Batch, prompts: Sequence[Prompts], answers: Sequence[Sequence[WeightedAnswer]]) -> Batch:
    """Returns a micro-batch that learns from answers to each question, in the order of the prompts.

    Each of the T tokens of an answer has the share 1 / T, times how often it was sampled, and its weight is that of its
    advantage. So the weighted cross-entropy is the objective of GRPO, negated, for a single update after sampling, up
    to a constant (DeepSeekMath, arXiv 2402.03300, equation 3 with the old policy equal to the current one).
    """
    remaining = iter(answers)
    ids: list[int] = []
    places: list[Int64Array] = []
    lengths, turns = list[int](), list[tuple[int, ...]]()
    predict_from, targets, weights, shares = list[int](), list[int](), list[float](), list[float]()
    for prompt in prompts:
        places.append(np.arange(len(ids), len(ids) + prompt.shared))
        ids += batch.ids[prompt.start : prompt.start + prompt.shared].tolist()
        sizes = []
        for question in prompt.questions:
            for answer in next(remaining):
                ids += question
                predict_from += range(len(ids) - 1, len(ids) - 1 + len(answer.ids))
                targets += answer.ids
                weights += [answer.advantage / len(answer.ids)] * len(answer.ids)
                shares += [answer.times / len(answer.ids)] * len(answer.ids)
                ids += answer.ids
                sizes.append(len(question) + len(answer.ids))
        lengths.append(prompt.shared + sum(sizes))
        turns.append(tuple(sizes))
    before = np.concatenate([np.arange(p.start, p.start + p.shared) for p in prompts])
    is_visual = np.isin(before, batch.visual_positions.numpy())
    return replace(
        batch,
        ids=torch.tensor(ids),
        positions=torch.from_numpy(np.concatenate([*map(turn_positions, lengths, turns)])),
        lengths=tuple(lengths),
        turns=tuple(turns),
        visual_positions=torch.from_numpy(np.concatenate(places)[is_visual]),
        predict_from=torch.tensor(predict_from, dtype=torch.int64),
        targets=torch.tensor(targets, dtype=torch.int64),
        weights=torch.tensor(weights, dtype=torch.float32),
        shares=torch.tensor(shares, dtype=torch.float32),
        size=len(ids) if batch.samples else 0,
    )
