"""Samples groups of answers to the questions of micro-batches, and rewards them: what GRPO learns from.

Answers come from a copy of the weights as a checkpoint would hold them (shards gathered, adapters merged); without
either, in float32, it shares its memory with the trained ones. What is random depends on the seed, the step and the
place of the micro-batch in it, not on the number of processes or on interruptions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from penguin_engine.runtimes.torch_groups import sample_groups
from penguin_models.errors import TrainingError
from penguin_models.vlm import PenguinVL
from penguin_training.data.batch import Batch
from penguin_training.data.questions import Question
from penguin_training.model.blueprint import Blueprint
from penguin_training.model.build_model import build_model
from penguin_training.post_training.answered_batch import Prompts, WeightedAnswer, read_prompts, with_answers
from penguin_training.post_training.rewards import group_advantages, load_rewards
from penguin_training.run.checkpoint import assemble, gather_weights
from penguin_training.run.parallel import place_frozen
from penguin_training.settings.stage import StageSettings

_SUMS = ("answers", "groups", "reward", "length", "ended", "without_variance", "unjudged")


class Rollouts:
    """Samples and rewards answers for one run."""

    def __init__(self, settings: StageSettings, blueprint: Blueprint, accelerator: Accelerator):
        """Loads the reward functions, and unless `rewards.kl` is 0 the weights that training starts from."""
        assert settings.rewards is not None
        self._settings, self._blueprint, self._accelerator = settings, blueprint, accelerator
        self._options = settings.rewards
        self._rewards = load_rewards(settings.rewards.functions)
        self._reference: nn.Module | None = None
        if self._options.kl:
            self._reference = place_frozen(build_model(settings, blueprint, None), settings, accelerator)

    def answer(self, model: nn.Module, batches: Sequence[Batch], step: int) -> list[Batch]:
        """Returns the micro-batches of a step with sampled answers in place of the annotated ones.

        Every process must call this. Raises TrainingError if a reward function fails, or none applies to any question.
        """
        device, world = self._accelerator.device, self._accelerator.num_processes
        dtype = torch.float32 if self._settings.engine.precision == "float32" else torch.bfloat16
        policy = assemble(gather_weights(model, everywhere=True), self._settings, self._blueprint, dtype).to(device)
        answered = []
        for number, batch in enumerate(batches):
            place = number * world + self._accelerator.process_index
            seed = np.random.SeedSequence([self._settings.engine.seed, step, place]).generate_state(1)
            random = torch.Generator(device).manual_seed(int(seed[0]))
            answered.append(self._with_reference(self._sample(policy, batch, random)))
        if (groups := sum(batch.sums["groups"] for batch in answered)) == sum(b.sums["unjudged"] for b in answered) > 0:
            example = next(question for batch in answered for question in batch.questions)
            raise TrainingError(
                f"none of rewards.functions applies to any of {groups:.0f} questions, for example question "
                f"{example.turn} of {example.id}, which has the fields {', '.join(example.fields)}; name one that does"
            )
        return answered

    def _sample(self, policy: PenguinVL, batch: Batch, random: torch.Generator) -> Batch:
        prompts = read_prompts(batch)
        embeddings = _embed(policy, batch)
        kinds = [reward.settings.name for reward in self._rewards]
        sums = dict.fromkeys([*_SUMS, *(f"{part} {kind}" for kind in kinds for part in ("sum", "of"))], 0.0)
        answers: list[list[WeightedAnswer]] = []
        questions = iter(batch.questions)
        for prompt in prompts if batch.questions else ():
            shared = embeddings[prompt.start : prompt.start + prompt.shared]
            options = self._options.group, self._options.max_new_tokens, random
            for group in sample_groups(policy, shared, prompt.questions, *options):
                answers.append(self._weigh(next(questions), group, sums))
        return replace(with_answers(batch, prompts, answers), sums=sums)

    def _weigh(
        self, question: Question, group: Sequence[Sequence[int]], sums: dict[str, float]
    ) -> list[WeightedAnswer]:
        """Rewards the answers to a question; equal answers become one, which leaves every sum as it is."""
        decode, ends = self._blueprint.processor.decode, self._blueprint.processor.end_token_ids
        judged = [self._reward(question, decode(ids), sums) for ids in group]
        rewards = [reward or 0.0 for reward in judged]
        advantages = group_advantages(rewards)
        sums["answers"] += len(group)
        sums["groups"] += 1
        sums["reward"] += sum(rewards)
        sums["length"] += sum(map(len, group))
        sums["ended"] += sum(ids[-1] in ends for ids in group)
        sums["without_variance"] += not any(advantages)
        sums["unjudged"] += all(reward is None for reward in judged)
        counts = Counter(map(tuple, group))
        totals: dict[tuple[int, ...], float] = dict.fromkeys(counts, 0.0)
        for ids, advantage in zip(group, advantages, strict=True):
            totals[tuple(ids)] += advantage
        return [WeightedAnswer(ids, totals[ids], count) for ids, count in counts.items()]

    def _reward(self, question: Question, answer: str, sums: dict[str, float]) -> float | None:
        total = None
        for reward in self._rewards:
            value = reward.of(question, answer)
            if value is not None:
                total = (total or 0.0) + reward.settings.weight * value
                sums[f"sum {reward.settings.name}"] += value
                sums[f"of {reward.settings.name}"] += 1
        return total

    @torch.no_grad()
    def _with_reference(self, batch: Batch) -> Batch:
        if self._reference is None:
            return batch
        on_device = batch.to(self._accelerator.device)
        found = self._reference(on_device, as_reference=True)["log_probabilities"]
        return replace(batch, reference=found.to("cpu"))


def reward_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    """Returns the metrics of sums over sampled answers: the mean reward and length, and shares."""
    answers, groups = max(1.0, sums["answers"]), max(1.0, sums["groups"])
    kinds = [name.removeprefix("of ") for name, count in sums.items() if name.startswith("of ") and count]
    return {
        "reward": sums["reward"] / answers,
        **{f"reward_{kind}": sums[f"sum {kind}"] / sums[f"of {kind}"] for kind in kinds},
        "answer_length": sums["length"] / answers,
        "ended_share": sums["ended"] / answers,
        "without_variance_share": sums["without_variance"] / groups,
        "unjudged_share": sums["unjudged"] / groups,
    }


def longest_batch(batch: Batch, settings: StageSettings) -> Batch:
    """Returns the largest micro-batch that sampled answers to these questions can make, for estimates of memory."""
    assert settings.rewards is not None
    prompts: list[Prompts] = read_prompts(batch)
    answer = WeightedAnswer((0,) * settings.rewards.max_new_tokens, 0.0, 1)
    longest = with_answers(batch, prompts, [[answer] * settings.rewards.group] * len(batch.questions))
    return replace(longest, reference=torch.zeros_like(longest.weights) if settings.rewards.kl else None)


@torch.inference_mode()
def _embed(policy: PenguinVL, batch: Batch) -> torch.Tensor:
    """Returns the embeddings of the whole sequence, [T, hidden]."""
    device = policy.device
    embeddings = policy.embed_tokens(batch.ids.to(device))
    visual = policy.vision_projector(policy.vision_encoder(batch.patches.to(device), batch.frames))
    return embeddings.index_copy(
        0, batch.visual_positions.to(device), visual[batch.visual_rows.to(device)].to(embeddings.dtype)
    )
