"""Files are the same with any number of processes, and an interrupted run continues."""

import json

import numpy as np
import pytest
from PIL import Image

from penguin_models.errors import TabletopError
from penguin_models.media import load_image
from penguin_models.types import Size
from penguin_tabletop.dataset import Mixture, TabletopDataset, TabletopSettings
from penguin_tabletop.files import WriterSettings, write
from penguin_training.data.frame_folder import FrameFolder

SAMPLES = TabletopSettings(
    size=Size(56, 84), fps=1.0, seconds=4.0, turns=2, mixture=Mixture(image=4, pair=1, clip=2, chart=1, text=1)
)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(folder, name="annotations.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_written_samples_equal_those_of_the_dataset(tmp_path):
    write(tmp_path, WriterSettings(SAMPLES, images="png", masks=True), 12)
    dataset = TabletopDataset(SAMPLES)
    families = set()
    for number, (line, truth) in enumerate(zip(lines(tmp_path), lines(tmp_path, "scenes.jsonl"), strict=True)):
        sample = dataset[number]
        families.add(sample.family)
        assert line["id"] == truth["id"] == sample.id and line["conversations"] == sample.conversations
        assert truth["seed"] == sample.seed and len(truth["frames"]) == len(sample.truths)
        if sample.family == "clip":
            clip = list(FrameFolder(tmp_path / line["video"][0]))
            assert [frame.time_s for frame in clip] == list(sample.stamps_s) == truth["stamps_s"]
            shown = [frame.rgb for frame in clip]
        else:
            shown = [load_image(tmp_path / path) for path in line.get("image", [])]
        assert all(np.array_equal(a, b) for a, b in zip(shown, sample.frames, strict=True))
        masks = [np.asarray(Image.open(tmp_path / path)) for path in line.get("masks", [])]
        assert all(np.array_equal(a, b) for a, b in zip(masks, sample.classes, strict=True))
    assert len(families) >= 4
    assert json.loads((tmp_path / "settings.json").read_text())["classes"][0] == "nothing"


def test_an_interrupted_run_continues_and_ends_the_same(tmp_path):
    write(tmp_path / "whole", WriterSettings(SAMPLES), 14)
    whole = contents(tmp_path / "whole")

    def stop(done, total):
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", WriterSettings(SAMPLES), 14, on_progress=stop)
    assert not (tmp_path / "a" / "annotations.jsonl").exists()
    with (tmp_path / "a" / ".scenes.jsonl.part").open("a") as file:
        file.write('{"half')
    unfinished = [
        name for name in whole if name.startswith(("images/", "clips/")) and not (tmp_path / "a" / name).exists()
    ]
    for name in unfinished:  # as other processes that were killed leave them
        (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "a" / name).write_bytes(whole[name][:100])
    steps = []
    write(tmp_path / "a", WriterSettings(SAMPLES), 14, on_progress=lambda done, total: steps.append((done, total)))
    assert steps == [(done, 14) for done in range(8, 15)]
    assert contents(tmp_path / "a") == whole and unfinished
    assert not [name for name in whole if ".part" in name]


def test_two_processes_write_the_same_as_one(tmp_path):
    images = TabletopSettings(size=Size(56, 56), mixture=Mixture(image=1, pair=0, clip=0, chart=1, text=1))
    write(tmp_path / "one", WriterSettings(images), 11)
    write(tmp_path / "two", WriterSettings(images), 11, jobs=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_finished_run_can_be_made_longer_or_shorter(tmp_path):
    settings = WriterSettings(TabletopSettings(mixture=Mixture(image=0, pair=0, clip=0, chart=0, text=1)))
    write(tmp_path, settings, 6)
    write(tmp_path, settings, 10)
    assert len(lines(tmp_path)) == 10
    write(tmp_path, settings, 5)
    assert len(lines(tmp_path)) == len(lines(tmp_path, "scenes.jsonl")) == 5


def test_folders_with_other_content_are_refused(tmp_path):
    text = TabletopSettings(mixture=Mixture(image=0, pair=0, clip=0, chart=0, text=1))
    write(tmp_path / "a", WriterSettings(text), 1)
    with pytest.raises(TabletopError, match="holds samples of other settings"):
        write(tmp_path / "a", WriterSettings(text, masks=True), 1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("important")
    with pytest.raises(TabletopError, match=r"is not empty and holds no settings\.json"):
        write(tmp_path / "b", WriterSettings(text), 1)
