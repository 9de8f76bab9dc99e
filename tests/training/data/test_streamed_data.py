"""Streams: every sample once per epoch for any number of readers, and a stopped run resumes with the next one."""

import gzip
import json
import shutil
from collections import Counter

import pytest

from penguin_models.errors import DataError, SettingError, TrainingError
from penguin_training.data.open_data import make_reader
from penguin_training.data.streamed_data import Position, StreamedData
from penguin_training.model.blueprint import make_blueprint
from penguin_training.run.dry_run import dry_run
from penguin_training.run.loop import train
from penguin_training.run.saved_state import find_states


@pytest.fixture
def streamed(values):
    values["data"] |= {"streamed": True, "block": 16, "max_bad_share": 0.2}
    return values


@pytest.fixture
def open_stream(parse):
    def make(values):
        settings = parse(values)
        return StreamedData(settings, make_reader(settings, make_blueprint(settings)))

    return make


def texts(batches, data):
    """Counts how often each text of a stream was shown."""
    shown = Counter()
    for batch in batches:
        for sample in batch.ids.split(list(batch.lengths)):
            shown[data._reader.processor.decode(sample)] += 1
    return shown


@pytest.mark.parametrize("readers", [1, 3])
def test_an_epoch_shows_each_sample_once(streamed, open_stream, drawn, readers):
    streamed["data"]["files"] = [{"path": "text.jsonl"}]
    data = open_stream(streamed)
    batches = []
    for reader in range(readers):
        for batch in data.micro_batches(Position(reader), readers):
            if batch.position[1] > 0:
                break
            batches.append(batch)
    expected = Counter(json.loads(line)["text"] for line in (drawn / "text.jsonl").read_text().splitlines())
    assert texts(batches, data) == expected


def test_the_next_epoch_has_another_order(streamed, open_stream):
    data = open_stream(streamed)
    passes = {0: [], 1: []}
    for batch in data.micro_batches(Position(0), 1):
        if batch.position[1] > 1:
            break
        passes[batch.position[1]].append(batch.ids.tolist())
    assert passes[0] != passes[1] and sum(map(len, passes[0])) == sum(map(len, passes[1]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_run_resumes_with_the_next_micro_batch(streamed, start, losses, tmp_path, workers):
    streamed["data"]["workers"] = workers
    streamed["schedule"] = {"steps": 5}
    streamed["budgets"]["micro_batches"] = 1
    streamed["engine"] |= {"save_every": 3}
    streamed["output"] = str(tmp_path / "whole")
    whole = start(streamed)
    train(whole)
    state = find_states(whole.output)[0]
    shutil.copytree(state, tmp_path / "stopped" / "checkpoints" / state.name)
    shutil.copy(whole.output / "metrics.jsonl", tmp_path / "stopped")
    streamed["output"] = str(tmp_path / "stopped")
    resumed = start(streamed, resume=True)
    assert resumed.progress.step == 3
    train(resumed)
    assert losses(resumed) == losses(whole) and losses(whole, "epoch") == [0, 0.2, 0.4, 0.6, 0.8]
    streamed["data"]["workers"] = 3
    with pytest.raises(TrainingError, match=rf"data\.workers was {workers}, is 3\. Change them back"):
        start(streamed, resume=True)


def test_unusable_samples_are_left_out_and_reported(streamed, open_stream, drawn, jsonl, tmp_path):
    rows = [{"id": "a", "text": "red"}, {"id": "gone", "image": "none.png"}, {"id": "b", "text": "blue"}]
    rows.append({"id": "empty", "text": " "})
    streamed["data"] |= {"root": str(tmp_path), "files": [{"path": "x.jsonl"}]}
    jsonl(tmp_path / "x.jsonl", rows)
    data = open_stream(streamed)
    batch = data.sample_batch()
    assert batch.samples == 2 and [name for name, _ in batch.unusable] == ["gone", "empty"]
    streamed["data"]["files"] = [{"path": "x.jsonl", "only": {"id": ["b"]}}]
    assert open_stream(streamed).sample_batch().samples == 1


def test_a_line_that_is_not_json_is_left_out_and_reported(streamed, open_stream, tmp_path):
    """As with an index: blank lines are not counted, and `only` does not hide such lines."""
    good, other = '{"id": "a", "text": "red", "family": "f"}', '{"text": "a\u2028b", "family": "f"}'
    lines = [good, "", "{broken", other, '{"text": "half', "[1]", '{"text": "no", "family": "g"}']
    text = "\n".join(lines).encode() + b"\n"
    (tmp_path / "x.jsonl").write_bytes(text + b'{"text": "\xff", "family": "f"}\n')  # no UTF-8
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(text))
    streamed["data"] |= {"root": str(tmp_path)}
    for name, places in (("x.jsonl", (2, 4, 7)), ("x.jsonl.gz", (2, 4))):
        streamed["data"]["files"] = [{"path": name, "only": {"family": ["f"]}}]
        batch = open_stream(streamed).sample_batch()
        assert batch.samples == 2
        assert [who for who, _ in batch.unusable] == [f"{name}:{place}" for place in sorted((*places, 5))]
        why = [reason for place, reason in batch.unusable if not place.endswith(":5")]
        assert all("not JSON" in reason for reason in why)
        assert "must be an object, not [1]" in dict(batch.unusable)[f"{name}:5"]


def test_a_dry_run_needs_one_sample_of_a_stream(streamed, parse, tmp_path):
    (tmp_path / "x.jsonl").write_text("no JSON\n" * 3)
    streamed["data"] |= {"root": str(tmp_path), "files": [{"path": "x.jsonl"}]}
    with pytest.raises(DataError, match=r"no sample of the first micro-batch can be read; for example x\.jsonl:1: not"):
        dry_run(parse(streamed))


def test_a_json_list_can_be_streamed(streamed, open_stream, tmp_path):
    (tmp_path / "x.json").write_text(json.dumps([{"id": "a", "text": "red"}, {"id": 2, "text": "blue"}], indent=1))
    streamed["data"] |= {"root": str(tmp_path), "files": [{"path": "x.json"}]}
    batch = open_stream(streamed).sample_batch()
    assert (batch.samples, batch.unusable) == (2, ())


def test_a_stopped_run_resumes_after_a_broken_line(streamed, start, losses, drawn, tmp_path):
    lines = (drawn / "text.jsonl").read_text().splitlines()
    (tmp_path / "x.jsonl").write_text("\n".join(["{broken", *lines[:20], "{broken", *lines[20:]]))
    streamed["data"] |= {"root": str(tmp_path), "files": [{"path": "x.jsonl"}]}
    streamed["budgets"] = {"tokens": 128, "micro_batches": 1, "visual_tokens": 128}
    streamed["output"] = str(tmp_path / "whole")
    whole = start(streamed)
    train(whole)
    streamed["output"] = str(tmp_path / "stopped")
    train(start(streamed), stop_at=2)
    resumed = start(streamed, resume=True)
    train(resumed)
    assert losses(resumed) == losses(whole) and losses(resumed, "unusable") == losses(whole, "unusable")
    assert sum(losses(whole, "unusable")) == 2


def test_kinds_of_samples_can_share_a_file(streamed, open_stream, drawn):
    """Every sample then has every column. Without a root, media are relative to the file."""
    rows = [json.loads(line) for line in (drawn / "mixed.jsonl").read_text().splitlines()]
    rows[0]["independent_turns"] = True
    (drawn / "apart.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    streamed["data"] |= {"root": None, "block": 128, "files": [{"path": str(drawn / "apart.jsonl")}]}
    samples = 0
    for batch in open_stream(streamed).micro_batches(Position(0), 1):
        if batch.position[1]:
            break
        assert not batch.unusable
        samples += batch.samples
    assert samples == len(rows)


def test_images_are_streamed_without_their_conversations(streamed, reconstruction, open_stream, drawn, jsonl, tmp_path):
    caption = json.loads((drawn / "captions.jsonl").read_text().splitlines()[0])
    jsonl(tmp_path / "pictures.jsonl", [caption | {"image": [str(drawn / caption["image"][0])]}])
    reconstruction(streamed)["data"]["files"] = [{"path": str(tmp_path / "pictures.jsonl"), "conversations": False}]
    batch = open_stream(streamed).sample_batch()
    assert (batch.samples, len(batch.targets), batch.unusable) == (1, 0, ())
    assert batch.real_frames == 1


def test_streams_that_cannot_be_read_are_reported(streamed, open_stream, tmp_path, parse):
    streamed["data"]["files"] = [{"path": "none.jsonl"}]
    with pytest.raises(DataError, match=r"none\.jsonl cannot be streamed"):
        open_stream(streamed)
    streamed["data"]["files"] = [{"path": "text.jsonl", "repeat": 2.0}]
    with pytest.raises(SettingError, match=r"a stream cannot repeat text\.jsonl 2 times"):
        open_stream(streamed)
    streamed["data"]["files"] = [{"path": "text.jsonl"}]
    streamed["data"]["block"] = 1000
    streamed["data"]["workers"] = 0
    with pytest.raises(DataError, match=r"no samples for reader 1 of 2; lower data\.block"):
        list(open_stream(streamed).batches(0, {}, rank=1, world=2))
