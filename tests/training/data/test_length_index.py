"""The length index: returns what was measured, reports unusable samples, and fits one file and one stage."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from penguin_models.errors import DataError, WriteError
from penguin_training.data.annotations import AnnotationFile
from penguin_training.data.length_index import build_index, index_path, load_index
from penguin_training.data.sample_reader import SampleReader
from penguin_training.settings.data import DataFile, DataSettings


@pytest.fixture
def reader(processor):
    return SampleReader(processor, DataSettings(files=[DataFile("x")], fps=2.0), 512, 128)


@pytest.fixture
def file(drawn, tmp_path):
    """A copy of the file that refers to the drawn images."""
    return AnnotationFile(shutil.copy(drawn / "everything.jsonl", tmp_path / "everything.jsonl"), drawn)


@pytest.mark.parametrize("workers", [0, 2])
def test_it_returns_what_was_measured(file, reader, workers):
    calls = []
    path = build_index(file, reader, workers, lambda: calls.append(1))
    assert path == index_path(file, reader) and len(calls) == len(file)
    index = load_index(file, reader)
    measured = [reader.measure(file[row]) for row in range(len(file))]
    assert [index[row] for row in range(len(file))] == measured
    np.testing.assert_array_equal(index.packed_sizes(), [m.size for m in measured])


def test_unusable_samples_are_reported(drawn, tmp_path, reader, jsonl):
    rows = [{"id": "good", "text": "x"}, {"id": "gone", "image": "none.png"}, {"text": 3}, {"id": 4, "text": 3}]
    file = AnnotationFile(jsonl(tmp_path / "bad.jsonl", rows))
    build_index(file, reader)
    index = load_index(file, reader)
    assert index.packed_sizes().tolist()[1:] == [0, 0, 0] and index.tokens.tolist()[1:] == [-1, -1, -1]
    assert index.unusable[1][0] == "gone" and "does not exist" in index.unusable[1][1]
    assert index.unusable[2][0] == "bad.jsonl:3" and "text must be a string" in index.unusable[2][1]
    assert index.unusable[3][0] == "4"


def test_only_unusable_samples_are_measured_again(drawn, tmp_path, reader, jsonl):
    picture = (drawn / "images/0.png").read_bytes()
    (tmp_path / "0.png").write_bytes(picture)
    rows = [{"id": name, "image": f"{name}.png"} for name in ("0", "back", "gone", "too")]
    file = AnnotationFile(jsonl(tmp_path / "x.jsonl", rows))
    build_index(file, reader)
    for name in ("back", "too"):
        (tmp_path / f"{name}.png").write_bytes(picture)
    (tmp_path / "0.png").unlink()
    calls = []
    build_index(file, reader, progress=lambda: calls.append(1), known=load_index(file, reader))
    index = load_index(file, reader)
    assert len(calls) == 3 and [name for name, _ in index.unusable.values()] == ["gone"]
    assert index[0] == index[1] == index[3] and index[0].visual_tokens > 0
    assert index.packed_sizes().tolist() == [index[0].size, index[0].size, 0, index[0].size]


def test_nothing_is_measured_if_the_index_cannot_be_written(file, reader):
    path = index_path(file, reader)
    path.mkdir()
    calls = []
    with pytest.raises(WriteError, match="cannot be written: Is a directory"):
        build_index(file, reader, progress=lambda: calls.append(1))
    assert not calls


def test_an_index_belongs_to_one_file(file, reader):
    with pytest.raises(DataError, match=r"no length index .*; run `penguin-vl prepare lengths"):
        load_index(file, reader)
    build_index(file, reader)
    lines = file.path.read_text().splitlines()
    lines[0], lines[1] = lines[1], lines[0]  # as long as before
    file.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="has changed since its length index"):
        load_index(file, reader)


def test_an_index_belongs_to_the_settings_that_lengths_depend_on(file, reader):
    paths = {index_path(file, reader)}
    data = reader.data
    for other in (
        replace(reader, max_visual_tokens=64),
        replace(reader, max_tokens=1024),
        replace(reader, multimodal=False),
        replace(reader, data=replace(data, fps=1.0)),
        replace(reader, data=replace(data, keyframe_policy="reference")),
        replace(reader, data=replace(data, sizes="reference")),
    ):
        paths.add(index_path(file, other))
    assert len(paths) == 7
    assert index_path(file, replace(reader, data=replace(data, workers=9))) in paths


def test_a_damaged_index_is_refused(file, reader):
    path = build_index(file, reader)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="is damaged"):
        load_index(file, reader)
