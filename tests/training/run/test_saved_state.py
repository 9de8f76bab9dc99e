"""Stopping and resuming: the same losses as without a stop, and errors if that is not possible."""

import copy
import json
import pickle

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.api import CheckpointException

from penguin_models.checkpoint import load_pretrained
from penguin_models.errors import TrainingError
from penguin_training.run.loop import train
from penguin_training.run.safe_reader import SafePlanner, SafeReader
from penguin_training.run.saved_state import find_states


@pytest.mark.parametrize("kind", ["everything", "reconstruction", "reading", "lora"])
def test_a_stopped_run_resumes_with_the_same_losses(values, reconstruction, start, losses, tmp_path, kind):
    if kind == "reconstruction":
        reconstruction(values)
        values["learning_rates"]["llm"] = None
    if kind == "reading":
        reconstruction(values, reading=0.5)
        values["optimizer"] = {"kind": "muon", "muon_factor": 2.0, "weight_decay": 0.1}
    if kind == "lora":
        values["learning_rates"] = {"lora": 1e-2, "projector": 1e-3}
        values["lora"] = {"rank": 4, "dropout": 0.1}  # dropout needs the random state
    values["schedule"] = {"steps": 6}
    values["output"] = str(tmp_path / "whole")
    whole = start(values)
    train(whole)
    values["output"] = str(tmp_path / "stopped")
    stopped = start(values)
    train(stopped, stop_at=4)
    assert not (stopped.output / "model.safetensors").exists()
    torch.manual_seed(99)
    resumed = start(values, resume=True)
    assert resumed.progress.step == 4
    train(resumed)
    assert losses(resumed) == losses(whole) and len(losses(whole)) == 6
    ours, expected = (load_file(run.output / "model.safetensors") for run in (resumed, whole))
    assert ours.keys() == expected.keys() and all(torch.equal(ours[n], expected[n]) for n in ours)


def test_a_state_is_also_a_checkpoint(values, start):
    values["engine"]["save_every"], values["engine"]["keep"] = 1, 2
    values["engine"]["save_dtype"] = "bfloat16"
    run = start(values)
    train(run)
    assert [path.name for path in find_states(run.output)] == ["step-00000003", "step-00000004"]
    assert not list((run.output / "checkpoints").glob(".*"))
    final, last = (load_pretrained(folder)[0] for folder in (run.output, find_states(run.output)[-1]))
    assert final.dtype == torch.bfloat16
    for (name, ours), (_, theirs) in zip(final.named_parameters(), last.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_an_interrupted_write_leaves_no_state(values, start, monkeypatch):
    from penguin_training.run import loop

    values["engine"]["save_every"] = 2
    run = start(values)

    def fail(*_):
        raise OSError("disk full")

    train(run, stop_at=2)
    run = start(values, resume=True)
    monkeypatch.setattr(loop, "write_checkpoint", fail)
    with pytest.raises(OSError, match="disk full"):
        train(run)
    assert [path.name for path in find_states(run.output)] == ["step-00000002"]


def test_runs_that_cannot_be_resumed_are_refused(values, start):
    train(start(values), stop_at=2)
    with pytest.raises(TrainingError, match=r"already holds a run \(newest step-00000002\); add --resume"):
        start(values)
    values["budgets"]["micro_batches"] = 4
    with pytest.raises(
        TrainingError, match=r"other settings: budgets\.micro_batches was 2, is 4\. Change them back, or"
    ):
        start(values, resume=True)
    values["budgets"]["micro_batches"] = 2
    values["learning_rates"]["encoder"] = None
    with pytest.raises(
        TrainingError, match=r"learning_rates\.encoder was 0\.001, is None\. .* model\.start .*00000002"
    ):
        start(values, resume=True)
    values["learning_rates"]["encoder"] = 1e-3
    values["output"] += "-other"
    with pytest.raises(TrainingError, match="has no state to resume from"):
        start(values, resume=True)


def test_other_settings_and_other_data_are_refused(values, start, drawn, tmp_path):
    data = tmp_path / "data.jsonl"
    rows = (drawn / "captions.jsonl").read_text().splitlines()
    data.write_text("\n".join(rows))
    values["data"]["files"] = [{"path": str(data)}]
    values["optimizer"] = {"clip": None}
    train(start(values), stop_at=3)
    for section, key, value, message in (
        ("budgets", "tokens", 300, r"budgets\.tokens was 256, is 300"),
        ("engine", "seed", 1, r"engine\.seed was 0, is 1"),
        ("schedule", "steps", 2, r"schedule\.steps was 4, is 2"),
        ("optimizer", "clip", 1.0, r"optimizer\.clip was None, is 1\.0"),
        ("learning_rates", "llm", 2e-3, r"learning_rates\.llm was 0\.001, is 0\.002"),
        ("data", "files", [{"path": str(data), "repeat": 2.0}], r"data\.files\.0\.repeat was 1\.0, is 2\.0"),
    ):
        changed = copy.deepcopy(values)
        changed[section][key] = value
        with pytest.raises(TrainingError, match=f"settings: {message}. Change them back"):
            start(changed, resume=True)
    data.write_text("\n".join(reversed(rows)))
    for index in tmp_path.glob("data.jsonl.lengths-*"):
        index.unlink()
    with pytest.raises(TrainingError, match=r"the content of data\.files\.0 was '.*', is "):
        start(values, resume=True)


def test_settings_without_influence_on_the_loss_may_change(values, start, losses):
    train(start(values), stop_at=2)
    values["name"] = "renamed"
    values["engine"] |= {"gradient_checkpointing": True, "log_every": 2, "save_every": 1, "keep": 1}
    resumed = start(values, resume=True)
    with pytest.raises(TrainingError, match="is at step 2 and cannot stop at 1; give a later step"):
        train(resumed, stop_at=1)
    train(resumed, stop_at=2)
    assert resumed.progress.step == 2 and len(losses(resumed)) == 2


def test_a_state_with_damaged_files_is_refused(values, start):
    train(start(values), stop_at=1)
    trainer = find_states(start(values, resume=True).output)[-1] / "trainer"
    (trainer / "process-0.pt").rename(trainer / "whole.pt")
    for content in (b"", b"damaged", (trainer / "whole.pt").read_bytes()[:-100]):
        (trainer / "process-0.pt").write_bytes(content)
        with pytest.raises(TrainingError, match=r"process-0\.pt cannot be read: "):
            start(values, resume=True)
    for progress in (None, {"step": -1}, {"step": "many"}, {"steps": 1}):
        torch.save({"torch": torch.get_rng_state(), "progress": progress}, trainer / "process-0.pt")
        with pytest.raises(TrainingError, match=r"process-0\.pt cannot be read: "):
            start(values, resume=True)
    for content in ("{", "[]", "[" * 100_000):
        (trainer / "settings.json").write_text(content)
        with pytest.raises(TrainingError, match=r"settings\.json .* begin a new run"):
            start(values, resume=True)


def test_an_incomplete_line_of_metrics_is_dropped(values, start, losses):
    run = start(values)
    train(run, stop_at=2)
    with (run.output / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    resumed = start(values, resume=True)
    train(resumed)
    assert len(losses(resumed)) == 4


def test_metrics_after_the_state_are_dropped(values, start, losses):
    values["engine"]["save_every"] = 2
    run = start(values)
    train(run, stop_at=3)
    newest = find_states(run.output)[-1]
    newest.rename(newest.with_name("lost"))  # only the state of step 2 is left
    resumed = start(values, resume=True)
    train(resumed)
    steps = [json.loads(line)["step"] for line in (run.output / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_state_whose_metadata_would_run_code_is_refused(values, start, tmp_path):
    run = start(values)
    train(run, stop_at=2)
    file = find_states(run.output)[-1] / "trainer" / ".metadata"
    whole, proof = pickle.loads(file.read_bytes()), tmp_path / "executed"
    for content in (Evil(proof), {"storage_data": Evil(proof)}):
        file.write_bytes(pickle.dumps(content))
        with pytest.raises(TrainingError, match=r"\.metadata cannot be read: it holds io\.open"):
            start(values, resume=True)
    for info in whole.storage_data.values():
        info.relative_path = f"../trainer/{info.relative_path}"
    file.write_bytes(pickle.dumps(whole))
    with pytest.raises(TrainingError, match=r"names a file outside its folder: \.\./trainer"):
        start(values, resume=True)
    assert not proof.exists()


def test_a_state_whose_values_would_run_code_is_refused(tmp_path):
    from torch.distributed.checkpoint import load, save

    proof = tmp_path / "executed"
    state = {"weights": torch.ones(2), "rate": 0.5, "names": ["a"]}
    save(state, checkpoint_id=str(tmp_path / "good"), no_dist=True)
    read = {"weights": torch.zeros(2), "rate": 0.0, "names": [""]}
    load(read, storage_reader=SafeReader(tmp_path / "good"), planner=SafePlanner(), no_dist=True)
    assert torch.equal(read.pop("weights"), state.pop("weights")) and read == state
    save({"rate": Evil(proof)}, checkpoint_id=str(tmp_path / "bad"), no_dist=True)
    with pytest.raises((pickle.UnpicklingError, CheckpointException), match=r"io\.open"):
        load({"rate": 0.0}, storage_reader=SafeReader(tmp_path / "bad"), planner=SafePlanner(), no_dist=True)
    assert not proof.exists()
