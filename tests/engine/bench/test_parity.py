"""The comparison with the authors' numbers: every case passes, and every change is found."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from penguin_engine.bench.parity import TOLERANCES, run_parity, tolerances
from penguin_models.errors import CheckpointError, MediaError, PenguinError


@pytest.fixture(scope="module")
def rows(reference):
    return {row.case: row for row in run_parity(reference)}


def test_every_case_is_within_tolerance(rows):
    assert len(rows) == 10
    assert [row.case for row in rows.values() if not row.passed] == []


def test_every_comparison_was_made(rows):
    image, video = rows["image_tabletop"], rows["video_compressed"]
    assert set(image.errors) == {"pixels", "encoder", "projector", "logits"} == set(video.errors)
    assert set(image.equal) == {"text", "grids", "merge sizes", "ids", "generated"}
    assert set(video.equal) == {*image.equal, "keyframes", "pixel sum"}
    assert set(rows["keyframes, clip every 1"].errors) == {"similarity"}
    assert len(rows["chat template"].equal) == 20 and len(rows["training labels"].equal) == 4


@pytest.fixture
def vectors(reference, tmp_path):
    return shutil.copytree(reference, tmp_path / "vectors")


@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        ("image_small.encoder", "encoder"),
        ("image_small.projector", "projector"),
        ("image_small.logits_last8", "logits"),
        ("image_small.pixel_values", "pixels"),
        ("image_small.generated", "generated"),
        ("image_small.input_ids", "ids"),
        ("image_small.grid_sizes", "grids"),
    ],
)
def test_a_changed_number_is_found(vectors, tensor, found):
    file = vectors / "expected.safetensors"
    tensors = load_file(file)
    changed = tensors[tensor].copy()
    changed.flat[-1] += 1 if changed.dtype.kind == "i" else 2 * TOLERANCES.get(found, 0)
    save_file(tensors | {tensor: changed}, file)
    _only(vectors, "image_small")
    (row,) = (row for row in run_parity(vectors) if row.case == "image_small")
    assert not row.passed
    assert not row.equal.get(found, True) or row.errors[found] > TOLERANCES[found]


def test_weights_of_16_bits_have_tolerances_of_their_own(vectors):
    _only(vectors, "image_small")
    (row,) = run_parity(vectors, dtype="bfloat16")
    assert row.passed and "generated" not in row.equal
    assert all(TOLERANCES[name] < row.errors[name] < tolerances("bfloat16")[name] for name in ("encoder", "logits"))
    assert row.errors["pixels"] < tolerances("float16")["pixels"] == TOLERANCES["pixels"]


def test_a_device_that_is_not_there_is_an_error(reference):
    with pytest.raises(CheckpointError, match="cannot use device 'cuda:99'"):
        next(run_parity(reference, "cuda:99"))


def test_nan_fails(vectors):
    file = vectors / "expected.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"image_small.encoder": np.full_like(tensors["image_small.encoder"], np.nan)}, file)
    _only(vectors, "image_small")
    assert not next(run_parity(vectors)).passed


@pytest.mark.parametrize(
    ("file", "change", "case"),
    [
        ("tra_sizes.json", lambda v: v[7]["key_hw"].__setitem__(0, 1), "200 allocations"),
        ("tra_labels.json", lambda v: v["runs"][0]["frame_types"].__setitem__(3, 0), "keyframes, clip every 1"),
        ("labels.json", lambda v: v[1]["labels"].__setitem__(0, 5), "training labels"),
        ("chat_template.json", lambda v: v[4].__setitem__("text", "?"), "chat template"),
    ],
)
def test_a_changed_result_is_found(vectors, file, change, case):
    values = json.loads((vectors / file).read_text())
    change(values)
    _only_file(vectors, file)
    (vectors / file).write_text(json.dumps(values))
    assert [row.case for row in run_parity(vectors) if not row.passed] == [case]


@pytest.mark.parametrize(
    ("file", "content", "error"),
    [
        ("expected.json", "{}", "holds nothing to compare"),
        ("expected.json", "[]", "does not have the form"),
        ("expected.json", "{", "does not have the form"),
        ("expected.json", '{"one": {"case": [], "max_tokens": 100}}', "does not have the form"),
        ("tra_labels.json", '{"runs": []}', "holds nothing to compare"),
        ("tra_labels.json", "{}", "'runs' is missing"),
        ("tra_sizes.json", "[]", "holds nothing to compare"),
        ("tra_sizes.json", "[{}]", "'frame_types' is missing"),
        ("labels.json", "{}", "holds nothing to compare"),
        ("labels.json", "[]", "holds nothing to compare"),
        ("chat_template.json", "[]", "holds nothing to compare"),
        ("expected.safetensors", "abc", r"expected\.json does not have the form"),
        ("media/manifest.png", None, r"media/manifest\.png"),
        ("checkpoint/config.json", None, r"config\.json"),
    ],
)
def test_malformed_files_are_errors(vectors, file, content, error):
    (vectors / file).unlink()
    if content is not None:
        (vectors / file).write_text(content)
    if content is not None and file.endswith(".json"):
        _only_file(vectors, file)
    with pytest.raises(PenguinError, match=error):
        list(run_parity(vectors))


def test_folders_without_reference_vectors(tmp_path):
    with pytest.raises(MediaError, match="is not a folder"):
        list(run_parity(tmp_path / "none"))
    with pytest.raises(MediaError, match="has no reference vectors"):
        list(run_parity(tmp_path))


def _only(vectors, case):
    """Leaves one case of the model to compare."""
    file = vectors / "expected.json"
    file.write_text(json.dumps({case: json.loads(file.read_text())[case]}))
    _only_file(vectors, file.name)


def _only_file(vectors, name):
    """Leaves one file to compare."""
    for other in vectors.glob("*.json"):
        if other.name != name:
            other.unlink()
