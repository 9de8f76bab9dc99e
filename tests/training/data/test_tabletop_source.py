"""Rendered scenes of the table-top as training data: equal to written ones, and resumable."""

import pickle

import pytest

from penguin_models.errors import DataError, TabletopError
from penguin_tabletop.dataset import Mixture, TabletopSettings
from penguin_tabletop.files import WriterSettings, write
from penguin_training.data.annotations import AnnotationFile
from penguin_training.data.open_data import make_reader
from penguin_training.data.streamed_data import Position, StreamedData
from penguin_training.data.tabletop_source import SceneSource
from penguin_training.model.blueprint import make_blueprint
from penguin_training.run.dry_run import dry_run
from penguin_training.run.loop import train
from penguin_training.settings.data import TabletopScenes

pytest.importorskip("pybullet", reason="PyBullet is not installed: pip install pybullet")

MIXTURE = {"image": 3, "pair": 1, "clip": 1, "chart": 1, "text": 1}


@pytest.fixture
def rendered(values, reconstruction):
    """A stage over nine scenes of every family."""
    values = reconstruction(values)
    scenes = {"scenes": 9, "seed": 3, "mixture": MIXTURE, "turns": 2, "conditions": 2}
    values["data"] |= {"streamed": True, "block": 3, "files": [{"tabletop": scenes}]}
    values["budgets"] |= {"tokens": 2048, "visual_tokens": 1024, "micro_batches": 1}
    values["schedule"] = {"steps": 5}
    return values


def test_rendered_samples_equal_written_ones(rendered, parse, tmp_path):
    settings = parse(rendered)
    reader = make_reader(settings, make_blueprint(settings))
    samples = TabletopSettings(base=3, turns=2, conditions=2, mixture=Mixture(**MIXTURE))
    write(tmp_path, WriterSettings(samples, images="png"), 9)
    file = AnnotationFile(tmp_path / "annotations.jsonl")
    scenes = settings.data.files[0].tabletop
    source = SceneSource(scenes, settings.data.fps, None, reader.processor.images, 0)
    for row in range(9):
        ours, theirs = source.read(row), file[row]
        assert (ours.id, ours.messages, ours.independent_turns) == (
            theirs.id,
            theirs.messages,
            theirs.independent_turns,
        )
        measured = reader.measure(theirs)
        assert reader.measure(ours) == measured
        read, expected = reader.encode(ours, measured), reader.encode(theirs, measured)
        assert read.ids.tolist() == expected.ids.tolist() and len(read.images) == len(expected.images)
        for image, other in zip(read.images, expected.images, strict=True):
            assert (image.patches == other.patches).all()


@pytest.mark.parametrize(
    ("memory", "message"),
    [({"side": [10, 20]}, "image size 0x0"), ({"token_budget": [10, 12]}, "cannot hold one frame")],
)
def test_a_dry_run_refuses_what_the_first_step_would(rendered, parse, memory, message):
    ranges = {"token_budget": [500, 500], "rate_hz": [1, 1], "policies": ["novelty"], "arrivals": ["full_size"]}
    rendered["data"] |= {"memory": ranges | memory, "block": 9}
    rendered["data"]["files"][0]["tabletop"]["mixture"] = {"image": 1, "recall": 2}
    with pytest.raises(DataError, match=rf"\d of 9 samples cannot be used, .*{message}"):
        dry_run(parse(rendered))


def test_an_epoch_shows_each_scene_once(rendered, parse):
    settings = parse(rendered)
    data = StreamedData(settings, make_reader(settings, make_blueprint(settings)))
    data = pickle.loads(pickle.dumps(data))  # as a worker process gets it
    shown = 0
    for batch in data.micro_batches(Position(0), 1):
        if batch.position[1]:
            break
        assert not batch.unusable
        shown += batch.samples
    assert shown == 9


def test_a_stopped_run_resumes_with_the_next_scenes(rendered, start, losses, tmp_path):
    rendered["data"]["files"][0]["tabletop"]["mixture"] = {"image": 3, "text": 1}
    rendered["output"] = str(tmp_path / "whole")
    whole = start(rendered)
    train(whole)
    rendered["output"] = str(tmp_path / "stopped")
    train(start(rendered), stop_at=3)
    resumed = start(rendered, resume=True)
    train(resumed)
    assert losses(resumed) == losses(whole) and len(losses(whole)) == 5


def test_weights_that_are_all_zero_are_refused(processor):
    with pytest.raises(TabletopError, match="one must be above 0"):
        SceneSource(TabletopScenes(scenes=1, mixture={"image": 0}), 2.0, None, processor.images, 0)
