"""Rewards: functions that stage files name, and how the answers of a group compare."""

from __future__ import annotations

import pytest
import torch

from penguin_models.errors import SettingError, TrainingError
from penguin_training.data.annotations import parse_annotation
from penguin_training.data.questions import Question, questions_of
from penguin_training.model.losses import divergence
from penguin_training.post_training.rewards import group_advantages, load_rewards
from penguin_training.settings.rewards import RewardFunction

QUESTION = Question("scene-3", 1, "How many?", "Two.", {"answers": [4, 2]})


@pytest.fixture
def own_rewards(tmp_path, monkeypatch):
    """A module outside the project that is named in stage files."""
    lines = [
        "def exact(question, answer): return float(answer == str(question.fields['answers'][question.turn]))",
        "def fails(question, answer): return 1 / 0",
        "def text(question, answer): return 'good'",
        "def infinite(question, answer): return float('inf')",
        "def never(question, answer): return None",
        "number = 3",
    ]
    (tmp_path / "own_rewards.py").write_text("\n".join(lines))
    (tmp_path / "broken_rewards.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)


def loaded(function):
    (reward,) = load_rewards([RewardFunction(function)])
    return reward


@pytest.mark.parametrize(
    ("rewards", "advantages"),
    [
        ([1, 0, 0, 1], [1, -1, -1, 1]),
        ([0, 1, 2], [-(1.5**0.5), 0, 1.5**0.5]),
        ([0.3, 0.3, 0.3], [0, 0, 0]),
        ([0.1 + 0.2, 0.3], [0, 0]),  # equal but for rounding
        ([3, 0, 0, 0], [3**0.5, -(3**-0.5), -(3**-0.5), -(3**-0.5)]),
    ],
)
def test_advantages_computed_by_hand(rewards, advantages):
    assert group_advantages(rewards) == pytest.approx(advantages)


def test_divergence_computed_by_hand():
    policy, reference = torch.tensor([0.5, 0.5, 0.25]).log(), torch.tensor([0.5, 0.25, 0.5]).log()
    half, twice = 0.5 - torch.tensor(0.5).log() - 1, 2 - torch.tensor(2.0).log() - 1
    torch.testing.assert_close(divergence(policy, reference), torch.stack([torch.tensor(0.0), half, twice]))
    # Over all tokens it is the divergence itself.
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.1, 0.6, 0.3])
    torch.testing.assert_close((p * divergence(p.log(), q.log())).sum(), (p * (p / q).log()).sum())


def test_any_function_can_be_a_reward(own_rewards):
    assert loaded("own_rewards:exact").of(QUESTION, "2") == 1 and loaded("own_rewards:exact").of(QUESTION, "4") == 0
    assert loaded("own_rewards:never").of(QUESTION, "2") is None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("own_rewards:fails", "own_rewards:fails, for an answer to question 1 of scene-3, raised ZeroDivisionError"),
        ("own_rewards:text", "returned 'good'; it must return a number or None"),
        ("own_rewards:infinite", "returned inf; it must return a number or None"),
    ],
)
def test_a_reward_that_fails_is_named_with_its_question(own_rewards, function, message):
    with pytest.raises(TrainingError, match=message):
        loaded(function).of(QUESTION, "2")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_such_module:exact", r"no_such_module:exact, but its module cannot be imported .*PYTHONPATH"),
        ("broken_rewards:exact", "No module named 'no_such_library'"),
        ("own_rewards:missing", "the module has no such function"),
        ("own_rewards:number", "the module has a int of this name"),
    ],
)
def test_a_function_that_cannot_be_loaded_is_refused(own_rewards, function, message):
    with pytest.raises(SettingError, match=message):
        loaded(function)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("rewards", {"group": 1}, "rewards.group is 1"),
        ("rewards", {"functions": []}, "rewards.functions"),
        ("rewards", {"functions": [{"function": "exact"}]}, "function 'exact' must be module:function"),
        ("rewards", {"functions": [{"function": "a:b"}, {"function": "c:b"}]}, "two functions are named b"),
        ("rewards", {"kl": -0.1}, "rewards.kl is -0.1"),
        ("rewards", {"max_new_tokens": 99999}, "max_new_tokens is 99999, but the decoder's context is"),
        ("data", {"answer_balance": 0.5}, "data.answer_balance is about annotated answers"),
        ("data", {"train_on": "all"}, "data.train_on all is about annotated answers"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values, start, section, changes, message):
    values["rewards"] = {"functions": [{"function": "penguin_training.post_training.tabletop_rewards:length"}]}
    values[section] |= changes
    with pytest.raises(SettingError, match=message):
        start(values)


def test_questions_carry_what_their_annotation_holds(conversation, tmp_path):
    turns = conversation("<image>\nWhat is it?", "A cube.", "How many?", "One.")
    raw = {"id": "7", "image": "a.png", "conversations": turns, "independent_turns": True, "answers": ["cube", 1]}
    asked = questions_of(parse_annotation(raw, tmp_path, "?"))
    assert [(q.id, q.turn, q.text.strip(), q.reference) for q in asked] == [
        ("7", 0, "What is it?", "A cube."),
        ("7", 1, "How many?", "One."),
    ]
    assert {*asked[0].fields} == {"id", "independent_turns", "answers"} and asked[1].fields["answers"][1] == 1
    with pytest.raises(ValueError, match="its 2 questions build on each other"):
        questions_of(parse_annotation(raw | {"independent_turns": None}, tmp_path, "?"))
    with pytest.raises(ValueError, match="has no conversation"):
        questions_of(parse_annotation({"text": "A cube."}, tmp_path, "?"))
