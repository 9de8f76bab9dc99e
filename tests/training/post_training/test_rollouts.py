"""Rollouts: sampled answers, the loss that they make, and that training on them raises the reward."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from penguin_engine.runtimes import torch_groups
from penguin_engine.runtimes.torch import TorchRuntime, TorchVisualTokens
from penguin_engine.runtimes.torch_groups import sample_groups
from penguin_models.checkpoint import load_pretrained
from penguin_models.errors import TrainingError
from penguin_training.model.blueprint import make_blueprint
from penguin_training.model.build_model import build_model
from penguin_training.post_training.answered_batch import WeightedAnswer, read_prompts, with_answers
from penguin_training.post_training.rollouts import Rollouts
from penguin_training.run.loop import train
from penguin_training.run.parallel import place
from penguin_training.run.saved_state import find_states

ASKED = ("What is it?", "How many are there of them, and where?", "Why?")


@pytest.fixture
def rewarded(values, drawn, conversation, tmp_path, monkeypatch):
    """A stage with rewards: questions about small images, three each and one alone, answered best with "eeee"."""
    rows = []
    for i in range(6):
        texts = [text for question in ASKED for text in (question, "It is here.")]
        turns = conversation(f"<image>\n{texts[0]}", *texts[1:])
        sample = {"id": f"{i}", "image": f"images/small-{i}.png", "conversations": turns, "independent_turns": True}
        rows.append(sample | {"wanted": "e"})
    alone = {"independent_turns": None, "conversations": conversation("What is it?\n<image>", "It is here.")}
    rows[-1] |= alone
    (drawn / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [
        "def wanted(question, answer): return answer.count(question.fields['wanted']) / 4",
        "def first(question, answer): return None if question.turn else float(answer[:1] == 'e')",
    ]
    (tmp_path / "letter_rewards.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    values["data"] |= {"files": [{"path": "asked.jsonl"}]}
    values["budgets"] = {"tokens": 256, "visual_tokens": 32, "micro_batches": 1}
    functions = [{"function": "letter_rewards:wanted"}, {"function": "letter_rewards:first", "weight": 0.5}]
    values["rewards"] = {"functions": functions, "group": 8, "max_new_tokens": 4, "kl": 0.1}
    return values


def greedy(probabilities, count, generator):
    return probabilities.argmax(-1, keepdim=True)


@pytest.mark.parametrize("visual", [11, 0])
def test_sampled_answers_are_those_of_the_runtime(checkpoint, monkeypatch, visual):
    """With the likeliest token in place of a random one, for questions of several lengths."""
    monkeypatch.setattr(torch_groups.torch, "multinomial", greedy)
    model, _ = load_pretrained(checkpoint, dtype="float32")
    images = torch.randn(visual, model.config.hidden_size, generator=torch.Generator().manual_seed(3))
    questions = [[5, 9, 300, 7], [20], [40, 41, 42, 43, 44, 45, 46, 47, 48]]
    runtime, expected = TorchRuntime(model), []
    for question in questions:
        cache = runtime.open_cache(64)
        logits = cache.append([TorchVisualTokens(images), question] if visual else [question])
        expected.append([int(logits.argmax())])
        while len(expected[-1]) < 12:
            expected[-1].append(int(cache.append([[expected[-1][-1]]]).argmax()))
    model.end_token_ids = (expected[0][5],)  # so that answers end at different lengths
    ended = [ids[: ids.index(expected[0][5]) + 1] if expected[0][5] in ids else ids for ids in expected]
    assert len({*map(len, ended)}) > 1
    found = sample_groups(model, images, questions, 2, 12, torch.Generator().manual_seed(0))
    assert found == [[ids, ids] for ids in ended]


def test_the_loss_computed_by_hand(rewarded, start, checkpoint):
    """-(advantage - kl * divergence) of each answer, its tokens averaged, over all answers; plain forward passes."""
    run = start(rewarded)
    model, _ = load_pretrained(checkpoint, dtype="float32")
    batch = next(run.batches)
    prompts = read_prompts(batch)
    assert len(batch.questions) == sum(len(prompt.questions) for prompt in prompts) >= 4
    answers = [[WeightedAnswer((7, 8, 9), 1.5, 2), WeightedAnswer((10,), -1.5, 1)] for _ in batch.questions]
    answered = with_answers(batch, prompts, answers)
    answered = replace(answered, reference=torch.full_like(answered.weights, -7.0))
    losses = run.model(answered)
    visual = model.vision_projector(model.vision_encoder(batch.patches, batch.frames))
    surrogate = divergences = torch.tensor(0.0)
    for prompt in prompts:
        shared = batch.ids[prompt.start : prompt.start + prompt.shared]
        own = [i for i, place in enumerate(batch.visual_positions.tolist()) if 0 <= place - prompt.start < len(shared)]
        for question in prompt.questions:
            for answer in answers[0]:
                ids = torch.cat((shared, torch.tensor([*question, *answer.ids])))[None]
                embeddings = model.embed_prompt(ids, visual[batch.visual_rows[own]])
                logits = model.language_model(inputs_embeds=embeddings).logits[0]
                first = ids.shape[1] - len(answer.ids)
                found = logits.log_softmax(-1)[range(first - 1, ids.shape[1] - 1), answer.ids]
                ratio = -7.0 - found
                surrogate = surrogate - answer.advantage * found.mean()
                divergences = divergences + answer.times * (ratio.exp() - ratio - 1).mean()
    torch.testing.assert_close(losses["cross_entropy"], surrogate, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(losses["kl"], divergences, atol=1e-3, rtol=1e-4)
    assert answered.shares.sum() == pytest.approx(3 * len(batch.questions))


def test_steps_raise_the_reward_and_a_resumed_run_takes_the_same_ones(rewarded, start, losses, tmp_path):
    rewarded["schedule"] = {"steps": 3, "warmup_share": 0.0, "end_share": 1.0}
    rewarded["learning_rates"] = {"llm": 0.1}
    rewarded["rewards"] |= {"group": 12, "kl": 0.01}
    rewarded["engine"]["save_every"] = 2
    whole = start(rewarded)
    train(whole)
    rewards = losses(whole, "reward")
    assert rewards[2] > 2 * rewards[0]
    assert losses(whole, "kl")[0] == pytest.approx(0, abs=1e-4) and losses(whole, "kl")[2] > 0.01
    for name in ("reward_first", "ended_share", "without_variance_share", "unjudged_share"):
        assert all(0 <= value <= 1 for value in losses(whole, name)), name
    assert losses(whole, "reward_wanted")[2] > losses(whole, "reward_wanted")[0]
    assert all(1 <= value <= 4 for value in losses(whole, "answer_length"))
    rewarded["output"] = str(tmp_path / "stopped")
    state = find_states(whole.output)[0]
    shutil.copytree(state, tmp_path / "stopped" / "checkpoints" / state.name)
    shutil.copy(whole.output / "metrics.jsonl", tmp_path / "stopped")
    resumed = start(rewarded, resume=True)
    train(resumed)
    for name in ("reward", "loss", "kl", "gradient_norm"):
        assert losses(resumed, name) == losses(whole, name)
    ours, expected = (load_file(run.output / "model.safetensors") for run in (resumed, whole))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.items())


def test_adapters_learn_and_the_reference_stays(rewarded, start, losses):
    rewarded |= {"learning_rates": {"lora": 2e-2}, "lora": {"rank": 4, "alpha": 8.0}, "schedule": {"steps": 2}}
    rewarded["engine"]["save_every"] = None
    run = start(rewarded)
    before = next(p for name, p in run.model.named_parameters() if name.endswith("q_proj.base_layer.weight")).clone()
    train(run)
    divergences = losses(run, "kl")
    assert divergences[0] == pytest.approx(0, abs=1e-4) and divergences[1] > 1e-3
    after = next(p for name, p in run.model.named_parameters() if name.endswith("q_proj.base_layer.weight"))
    assert torch.equal(before, after)


def test_questions_that_no_reward_applies_to_stop_the_run(rewarded, start):
    rewarded["rewards"]["functions"] = [{"function": "penguin_training.post_training.tabletop_rewards:boxes"}]
    with pytest.raises(TrainingError, match=r"none .* applies to any of \d+ questions, .* which has the fields id, "):
        train(start(rewarded))


def test_shards_give_the_same_losses(rewarded, start, parse):
    run = start(rewarded)
    batches = [next(run.batches)]
    answered = run.rollouts.answer(run.model, batches, 0)
    rewarded["engine"]["sharding"] = "fsdp2"
    settings = parse(rewarded)
    blueprint = make_blueprint(settings)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        alone = SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0)
        model = place(build_model(settings, blueprint, None), settings, alone)
        assert all(isinstance(p, DTensor) for p in model.parameters())
        sharded = Rollouts(settings, blueprint, alone).answer(model, batches, 0)
        for ours, expected in zip(sharded, answered, strict=True):
            assert torch.equal(ours.ids, expected.ids) and torch.equal(ours.weights, expected.weights)
            torch.testing.assert_close(ours.reference, expected.reference)
            for name, loss in model(ours).items():
                torch.testing.assert_close(loss, run.model(expected)[name])
    finally:
        dist.destroy_process_group()
