"""Fuzz tests of the small files of checkpoints and exported folders: one documented error, or values within ranges."""

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from damage import RANDOMS, damage, damage_json
from fuzzing import FUZZ
from hypothesis import given
from safetensors.numpy import save

from penguin_engine.export.manifest import PROFILES, Manifest
from penguin_engine.export.manifest import parse_json as parse_manifest
from penguin_models.config import ImageConfig, PenguinConfig, parse_json
from penguin_models.errors import CheckpointError, PenguinError
from penguin_models.tensor_files import index_tensors, shard_names

SHIPPED = Path(__file__).parents[3] / "models" / "penguin-tiny"
CONFIG, IMAGES = (json.loads((SHIPPED / name).read_text()) for name in ("config.json", "preprocessor_config.json"))
INDEX = {"metadata": {"total_size": 5}, "weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
DECODER = {"layers": 3, "hidden": 48, "intermediate": 64, "heads": 6, "kv_heads": 2, "head_dim": 8, "vocab": 1504}
NEEDED = ("vision.onnx", "decoder.onnx", "embeddings.bin", "tokenizer.json", "preprocessor_config.json")
MANIFEST = {
    **{"format": 1, "source": "model", "profile": "portable", "opset": 18, "patch_dim": 588},
    **{"dtype": "float32", "cache_dtype": "float32", "vision_dtype": "float32"},
    "decoder": DECODER | {"context_length": 4096, "eps": 1e-6, "rope_theta": 1e6},
    **{"image_token_id": 1503, "end_token_ids": [1500], "quantization": {"kind": "int8"}, "activation_ranges": {}},
    "files": {name: {"bytes": 48 * 1504 * 4, "sha256": "0" * 64} for name in NEEDED},
}


def positive(*values):
    return all(0 < value < math.inf for value in values)


def check_manifest(content):
    manifest = parse_manifest(Manifest, content)
    manifest.check_complete(Path("manifest.json"))
    shape = manifest.decoder
    assert manifest.profile in PROFILES and manifest.precision in ("int8", "int4", "fp8", manifest.dtype)
    assert positive(shape.eps, shape.rope_theta, shape.hidden) and shape.heads % shape.kv_heads == 0
    assert 0 < shape.layers <= 1000 and max(manifest.image_token_id, *manifest.end_token_ids, 0) < shape.vocab
    assert all(Path(name).name == name for name in manifest.files)


def check_config(content):
    config = PenguinConfig.from_dict(parse_json(content, Path("config.json")))
    assert 0 < config.encoder.num_hidden_layers <= 1000 and 0 < config.decoder["num_hidden_layers"] <= 1000
    assert positive(config.encoder.rope_theta, config.encoder.rms_norm_eps, config.hidden_size, config.vocab_size)
    assert config.image_token_id >= 0 and isinstance(config.tie_word_embeddings, bool)


def check_images(content):
    images = ImageConfig.from_dict(parse_json(content, Path("preprocessor_config.json")))
    assert positive(images.patch_size, images.min_tokens, images.max_tokens, *images.std)
    assert all(math.isfinite(value) for value in images.mean)


def check_index(content):
    names = shard_names(parse_json(content, Path("index.json")), Path("index.json"))
    assert all(isinstance(name, str) and 0 < len(name) < 256 for name in names)


@FUZZ
@given(random=RANDOMS)
def test_json_files_are_refused_or_within_their_ranges(random):
    checks = (check_manifest, MANIFEST), (check_config, CONFIG), (check_images, IMAGES), (check_index, INDEX)
    for check, valid in checks:
        try:
            check(damage_json(valid, random))
        except ValueError as err:
            assert isinstance(err, PenguinError) or check is check_manifest, err  # whose reader adds path and remedy
            assert len(str(err)) < 1000


@FUZZ
@given(random=RANDOMS)
def test_a_tensor_file_is_refused_or_has_shapes(random, in_memory):
    tensors = {"model.norm.weight": np.ones(3, np.float32), "lm_head.weight": np.ones((2, 3), np.float16)}
    (in_memory / "model.safetensors").write_bytes(damage(save(tensors), random))
    try:
        found = index_tensors(in_memory)
    except CheckpointError as err:
        assert len(str(err)) < 2000
        return
    assert sum(math.prod(tensor.shape) for tensor in found.values()) < 1000


@pytest.fixture(scope="module")
def in_memory():
    with TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)
