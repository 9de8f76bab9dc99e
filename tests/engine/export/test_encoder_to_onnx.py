"""An exported encoder gives the features of its checkpoint; damaged and foreign folders are refused."""

import json

import numpy as np
import pytest

from penguin_engine.export.encoder_manifest import ENCODER_MANIFEST, EncoderManifest
from penguin_engine.export.encoder_to_onnx import export_encoder
from penguin_engine.runtimes.encoder import open_encoder
from penguin_models import load_encoder
from penguin_models.errors import EngineError


@pytest.fixture(scope="module")
def images():
    random = np.random.default_rng(0)
    return [random.integers(0, 256, size, dtype=np.uint8) for size in ((70, 112, 3), (140, 84, 3), (70, 112, 3))]


@pytest.mark.parametrize("profile", ["portable", "onnxruntime"])
def test_features_equal_those_of_torch(checkpoint, images, tmp_path, profile):
    manifest = export_encoder(checkpoint, tmp_path / "out", profile)
    encoder = open_encoder(tmp_path / "out", "cpu")
    assert encoder.hidden_size == manifest.hidden == 64
    for found, expected in zip(encoder(images, 64), load_encoder(checkpoint)(images, 64), strict=True):
        assert found.dtype == np.float32 and np.abs(found - expected.numpy()).max() < 2e-5
    export_encoder(checkpoint, tmp_path / "out", profile)  # replaces it


def test_folders_that_do_not_fit_are_refused(checkpoint, exported, tmp_path):
    with pytest.raises(EngineError, match="not in float16"):
        export_encoder(checkpoint, tmp_path / "out", dtype="float16")
    with pytest.raises(EngineError, match="whose vision graph ends with the projector"):
        open_encoder(exported(), "cpu")
    export_encoder(checkpoint, tmp_path / "out", dtype="bfloat16")
    with pytest.raises(EngineError, match="cannot run on a CPU"):
        open_encoder(tmp_path / "out", "cpu")
    with pytest.raises(EngineError, match="contains bfloat16, but float32 was requested"):
        open_encoder(tmp_path / "out", "cpu", "float32")
    manifest = tmp_path / "out" / ENCODER_MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"patch_dim": 12}))
    with pytest.raises(EngineError, match=r"has patches of 588 values, encoder\.json of 12"):
        EncoderManifest.read(tmp_path / "out").image_config(tmp_path / "out")
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(EngineError, match=r"mine\.txt in it is not part of an exported encoder"):
        export_encoder(checkpoint, tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
