"""Indexed data: processes divide micro-batches without gaps, reading can start anywhere, bad samples are reported."""

import json
import shutil
from dataclasses import replace

import pytest

from penguin_models.errors import DataError
from penguin_training.data.open_data import check_unusable, open_data
from penguin_training.model.blueprint import make_blueprint
from penguin_training.run.loop import train


@pytest.fixture
def data(values, parse, indexed):
    values["budgets"] |= {"tokens": 512, "micro_batches": 1}
    settings = indexed(parse(values))
    return open_data(settings, make_blueprint(settings))


def ids(batch):
    return batch.ids.tolist()


def test_processes_divide_what_one_would_read(data):
    alone = data.batches(0, {}, rank=0, world=1)
    expected = [ids(next(alone)) for _ in range(8)]
    for rank in (0, 1):
        shared = data.batches(2, {}, rank, world=2)
        assert [ids(next(shared)) for _ in range(3)] == expected[2 + rank :: 2][:3]


def test_workers_do_not_change_the_order_and_epochs_follow_each_other(data):
    per_epoch = len(data.plan.micro_batches(0))
    alone = data.batches(per_epoch - 2, {}, rank=0, world=1)
    settings = replace(data.settings, data=replace(data.settings.data, workers=2))
    by_workers = replace(data, settings=settings).batches(per_epoch - 2, {}, rank=0, world=1)
    for _ in range(4):
        assert ids(next(alone)) == ids(next(by_workers))
    fresh = data.batches(per_epoch, {}, rank=0, world=1)
    assert ids(next(fresh)) == ids(data[data.plan.micro_batches(1)[0]])


@pytest.fixture
def damaged(drawn, values, tmp_path, jsonl):
    """Ten samples, some of whose images are damaged after they were measured."""
    rows = [json.loads(line) for line in (drawn / "captions.jsonl").read_text().splitlines()[:10]]
    shutil.copytree(drawn / "images", tmp_path / "images")
    jsonl(tmp_path / "ten.jsonl", rows)
    values["data"] |= {"root": str(tmp_path), "files": [{"path": "ten.jsonl"}]}

    def damage(count):
        for row in rows[:count]:
            path = tmp_path / row["image"][0]
            path.write_bytes(path.read_bytes()[:100])

    return damage


def test_a_damaged_sample_is_left_out_counted_and_reported(values, damaged, start, parse, indexed, losses):
    indexed(parse(values))
    damaged(2)
    values["data"]["max_bad_share"] = 0.05
    values["schedule"] = {"epochs": 2.0}
    values["budgets"]["micro_batches"] = 1
    run = start(values)
    train(run)
    assert run.progress.read >= 10 and run.progress.unusable >= 2
    named = [json.loads(line) for line in (run.output / "unusable.jsonl").read_text().splitlines()]
    assert {entry["id"] for entry in named} == {"caption-0", "caption-1"}
    assert all("cannot be decoded" in entry["reason"] for entry in named)
    assert sum(losses(run, "unusable")) == len(named) == run.progress.unusable


def test_samples_that_the_index_leaves_out_are_reported_once(values, damaged, start, tmp_path):
    damaged(0)
    (tmp_path / "images/3.png").unlink()
    values["data"]["max_bad_share"] = 0.05
    values["engine"]["save_every"] = 2
    train(start(values), stop_at=2)
    run = start(values, resume=True)
    train(run)
    (named,) = [json.loads(line) for line in (run.output / "unusable.jsonl").read_text().splitlines()]
    assert (named["id"], named["step"]) == ("caption-3", 0) and "does not exist" in named["reason"]


def test_too_many_unusable_samples_stop_the_run(values, damaged, start, parse, indexed):
    indexed(parse(values))
    damaged(6)
    values["schedule"] = {"steps": 50}
    with pytest.raises(DataError, match=r"3 of \d+ samples cannot be used, .* allows 1.00%; for example caption-"):
        train(start(values))


def test_too_many_unusable_samples_are_found_before_the_first_step(values, damaged, start, tmp_path):
    damaged(0)
    for i in range(3):
        (tmp_path / f"images/{i}.png").unlink()
    with pytest.raises(DataError, match="3 of 10 samples cannot be used"):
        start(values)


@pytest.mark.parametrize(("bad", "read", "stops"), [(2, 3, False), (3, 3, True), (10, 1000, False), (11, 1000, True)])
def test_few_samples_have_the_limit_of_200(bad, read, stops):
    if not stops:
        check_unusable(bad, read, 0.01, ("x", "y"))
        return
    with pytest.raises(DataError, match="for example x: y"):
        check_unusable(bad, read, 0.01, ("x", "y"))


def test_too_little_data_for_a_step_is_reported(values, parse, indexed):
    values["schedule"] = {"epochs": 1.0}
    values["budgets"]["micro_batches"] = 1000
    with pytest.raises(DataError, match=r"1 epochs make \d+ micro-batches, but one step takes 1000"):
        settings = indexed(parse(values))
        _ = open_data(settings, make_blueprint(settings)).steps
