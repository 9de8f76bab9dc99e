"""The benchmark of runtimes: what each variant runs and measures, and the arithmetic of its shares."""

import os
import sys

import onnx
import pytest

from penguin_engine.bench.random_model import DECODER_2B, byte_config, write_random_checkpoint
from penguin_engine.bench.variants import (
    Variant,
    decoded_bytes,
    default_variants,
    limit_fractions,
    measure_in_own_process,
    prepare,
)
from penguin_engine.bench.worker_process import WorkerSettings, measure
from penguin_engine.export.checkpoint_to_onnx import decoder_shape
from penguin_engine.export.manifest import Manifest
from penguin_engine.runtimes.tensorrt import flavour
from penguin_engine.runtimes.tensorrt.plans import PlanManifest
from penguin_models.checkpoint import load_pretrained, open_checkpoint
from penguin_models.config import EncoderConfig
from penguin_models.errors import EngineError


@pytest.mark.parametrize("text", ["onnx", "onnx:", "tflite:int8", ":float32"])
def test_unknown_variants_are_refused(text):
    with pytest.raises(EngineError, match="is unknown; write RUNTIME:PRECISION with RUNTIME one of torch, onnx"):
        Variant.parse(text)


@pytest.mark.parametrize(
    ("text", "profile"),
    [
        ("tensorrt:float16", "portable"),
        ("onnx-portable:int4", "portable"),
        ("onnx:int8", "onnxruntime"),
        ("torch:x", None),
    ],
)
def test_profile_of_a_variant(text, profile):
    assert Variant.parse(text).profile == profile


def test_transformers_is_measured_on_the_same_weights(checkpoint):
    settings = WorkerSettings("transformers", str(checkpoint), precision="float32", prompt_tokens=8, new_tokens=1)
    result = measure(settings)
    assert result["prefill_tokens_per_s"] > 0 and result["decode_tokens_per_s"] > 0
    assert result["resident_bytes"] >= result["resident_loaded_bytes"] and result["gpu_bytes"] is None


def test_a_worker_that_fails_is_reported(tmp_path):
    with pytest.raises(EngineError, match=r"onnx:int8 could not be measured: .*exported folder"):
        measure_in_own_process(Variant("onnx", "int8"), WorkerSettings("onnx", str(tmp_path)))


def test_tensorrt_plans_are_built_once(checkpoint, tmp_path, rtx, monkeypatch):
    monkeypatch.setattr(Variant, "missing_packages", [])  # pycuda, which only running the plans needs
    monkeypatch.setattr(flavour, "installed", lambda: ["rtx"])
    variant = Variant.parse("tensorrt:float32")
    folder = prepare(checkpoint, tmp_path, variant, "cuda:1")
    plan = PlanManifest.read(folder)
    assert (plan.limits.max_tokens, plan.machine.flavour) == (4096, "rtx")
    made = (folder / "tensorrt" / "plan.json").stat().st_mtime_ns
    assert prepare(checkpoint, tmp_path, variant, "cuda:1") == folder
    assert (folder / "tensorrt" / "plan.json").stat().st_mtime_ns == made


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("tensorrt:float32", "pycuda", "pycuda"), ("llama.cpp:f32", "llama_cpp", "llama-cpp-python")],
)
def test_missing_packages_are_named(checkpoint, tmp_path, monkeypatch, name, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EngineError, match=rf"{name} needs {package}.*: pip install {package}"):
        prepare(checkpoint, tmp_path, Variant.parse(name))
    assert name not in map(str, default_variants())


def test_an_export_is_used_again(checkpoint, tmp_path):
    variant = Variant.parse("onnx-portable:float16")
    folder = prepare(checkpoint, tmp_path, variant)
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert prepare(checkpoint, tmp_path, variant) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    manifest = Manifest.read(folder)
    assert (manifest.profile, manifest.precision) == ("portable", "float16")


def test_exports_of_other_or_changed_checkpoints_are_not_used(checkpoint, edit_checkpoint, tmp_path):
    variant = Variant.parse("onnx-portable:float32")
    other = edit_checkpoint(lambda tensors: tensors["model.norm.weight"].fill(2), name="other")
    folders = [prepare(model, tmp_path, variant) for model in (checkpoint, other)]
    assert [Manifest.read(folder).source for folder in folders] == [str(checkpoint), str(other)]
    model = other / "model.safetensors"
    os.utime(model, ns=(0, model.stat().st_mtime_ns + 1))  # as if trained
    assert prepare(other, tmp_path, variant) not in folders


def test_weight_bytes_of_a_decoding_step(checkpoint, tmp_path):
    """Every linear layer and norm of the decoder and the tied head once; neither encoder nor rotary tables."""
    model, _ = load_pretrained(checkpoint)
    expected = 4 * sum(p.numel() for p in model.language_model.parameters())
    shape, _ = decoder_shape(open_checkpoint(checkpoint)[0])
    for text in ("torch:float32", "onnx:float32", "onnx-portable:float32"):
        variant = Variant.parse(text)
        counted = decoded_bytes(prepare(checkpoint, tmp_path, variant), variant, shape)
        assert counted == pytest.approx(expected, rel=0.005), text
    variant = Variant.parse("onnx:int8")
    small = decoded_bytes(prepare(checkpoint, tmp_path, variant), variant, shape)
    assert expected / 4 < small < expected / 2.5  # hidden 96 is padded to a group of 128


def test_shares_of_the_limits(checkpoint):
    """By hand: a rate times the cost of one unit, over the limit."""
    model, _, _ = open_checkpoint(checkpoint)
    measured = {"encode_patches_per_s": 10.0, "prefill_tokens_per_s": 100.0, "decode_tokens_per_s": 5.0}
    limits = {"memory_bytes_per_s": 1e9, "operations_per_s": 1e9}
    fractions = limit_fractions(measured, limits, 1000, decoder_shape(model)[0], model.config.encoder, 64)
    assert fractions["decode"] == pytest.approx(5 * 1000 / 1e9)
    # Decoder: 3 layers, hidden 96, 6 + 2 + 2 + 6 heads of 32, three matrices 96 x 192.
    layer = 96 * 32 * 16 + 3 * 96 * 192
    scores = 2 * 32 * 6 * 32  # 32 tokens before on average, 6 heads of 32, scores and sums
    assert fractions["prefill"] == pytest.approx(100 * 2 * 3 * (layer + scores) / 1e9)
    # Encoder: 3 layers, hidden 64, 4 + 2 + 2 + 4 heads of 32, 64 x 128; 588 -> 64; projector 64 -> 96 -> 96 per token.
    linear = 3 * (64 * 32 * 12 + 3 * 64 * 128 + 2 * 1280 * 4 * 32) + 588 * 64 + (64 + 96) * 96 / 4
    assert fractions["encode"] == pytest.approx(10 * 2 * linear / 1e9)


def test_a_random_checkpoint_can_be_loaded_and_exported(tmp_path):
    small = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 32}
    decoder = DECODER_2B | small | {"num_attention_heads": 2, "num_key_value_heads": 1}
    write_random_checkpoint(tmp_path / "random", byte_config(EncoderConfig(64, 64, 1, 2, 1, 32), decoder))
    model, processor = load_pretrained(tmp_path / "random")
    assert model.config.encoder.num_hidden_layers == 1
    assert processor.decode(processor.encode_text("What is on the table?")) == "What is on the table?"
    folder = prepare(tmp_path / "random", tmp_path, Variant.parse("onnx:int8"))
    assert {i.name for i in onnx.load(folder / "decoder.onnx", load_external_data=False).graph.input} >= {"embeddings"}
