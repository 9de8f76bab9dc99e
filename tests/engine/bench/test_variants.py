"""The benchmark of runtimes: what it measures of a small model, and the arithmetic of its shares."""

import importlib.util
import json
import os

import onnx
import pytest

from penguin_engine.bench import variants
from penguin_engine.bench.random_model import write_random_checkpoint
from penguin_engine.bench.variants import Variant, decoded_bytes, prepare
from penguin_engine.bench.worker_process import WorkerSettings, measure
from penguin_engine.export.checkpoint_to_onnx import decoder_shape
from penguin_engine.export.manifest import Manifest
from penguin_engine.runtimes.tensorrt.plans import PlanManifest
from penguin_models.checkpoint import load_pretrained, open_checkpoint
from penguin_models.config import EncoderConfig
from penguin_models.errors import EngineError

FEW = {"frames": 1, "prompt_tokens": 8, "new_tokens": 2, "scene_frames": 1, "answer_tokens": 2}
RATES = {"encode_patches_per_s", "prefill_tokens_per_s", "decode_tokens_per_s"}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """One run of everything: no figure is looked at here."""
    monkeypatch.setattr("penguin_engine.bench.worker_process.timed", lambda run: (run() and 1.0) or 1.0)
    monkeypatch.setattr(variants, "machine_limits", lambda *args: {"memory_bytes_per_s": 1e9} | OPERATIONS)


OPERATIONS = {"operations_per_s": 1e9}


@pytest.mark.parametrize("text", ["onnx", "onnx:", "tflite:int8", ":float32"])
def test_variants_that_do_not_exist(text):
    with pytest.raises(EngineError, match="is unknown; it is RUNTIME:PRECISION, RUNTIME one of torch, onnx"):
        Variant.parse(text)


def test_a_worker_measures_everything(exported):
    result = measure(WorkerSettings("onnx", str(exported(profile="onnxruntime")), threads=1, **FEW))
    assert result.keys() >= RATES | {"load_s", "resident_loaded_bytes", "resident_bytes", "peak_bytes"}
    assert result.keys() >= {"first_token_cold_s", "first_token_reused_s", "joules_per_answer"}
    assert result["scene_visual_tokens"] == 391


def test_transformers_on_the_same_weights(checkpoint):
    result = measure(WorkerSettings("transformers", str(checkpoint), precision="float32", **FEW))
    assert result.keys() >= RATES - {"encode_patches_per_s"}


@pytest.mark.parametrize(
    ("text", "profile"),
    [
        ("tensorrt:float16", "portable"),
        ("tensorrt-fused:int4", "fused"),
        ("onnx:int8", "onnxruntime"),
        ("torch:x", None),
    ],
)
def test_what_variants_run(text, profile):
    assert Variant.parse(text).profile == profile


def test_tensorrt_gets_plans_once(checkpoint, tmp_path, stand_in):
    gpu = stand_in()
    variant = Variant.parse("tensorrt:float32")
    folder = prepare(checkpoint, tmp_path, variant, True, "cuda:1")
    plan = PlanManifest.read(folder)
    assert (plan.limits.max_tokens, plan.machine.gpu) == (4096, "Thor")
    made = (folder / "tensorrt" / "plan.json").stat().st_mtime_ns
    assert prepare(checkpoint, tmp_path, variant, True, "cuda:1") == folder
    assert (folder / "tensorrt" / "plan.json").stat().st_mtime_ns == made
    gpu.runtime.TensorRTRuntime(folder, "cuda:1")


def test_tensorrt_that_is_not_installed(checkpoint, tmp_path):
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("tensorrt is installed here")
    with pytest.raises(EngineError, match=r"need tensorrt and pycuda, which are not installed; see docs/jetson\.md"):
        prepare(checkpoint, tmp_path, Variant.parse("tensorrt:float32"), True, "cuda")


def test_settings_reach_the_worker():
    settings = WorkerSettings("onnx", "/a b", "cpu", None, 2, **FEW)
    assert WorkerSettings(**json.loads(settings.to_json())) == settings


def test_what_is_exported_is_used_again(checkpoint, tmp_path):
    variant = Variant.parse("onnx-portable:float16")
    folder = prepare(checkpoint, tmp_path, variant, calibrated=True)
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert prepare(checkpoint, tmp_path, variant, calibrated=True) == folder
    assert (folder / "manifest.json").stat().st_mtime_ns == before
    manifest = Manifest.read(folder)
    assert (manifest.profile, manifest.precision) == ("portable", "float16")


def test_what_another_checkpoint_left_is_not_used(checkpoint, edit_checkpoint, tmp_path):
    variant = Variant.parse("onnx-portable:float32")
    other = edit_checkpoint(lambda tensors: tensors["model.norm.weight"].fill(2), name="other")
    folders = [prepare(model, tmp_path / "work", variant, calibrated=True) for model in (checkpoint, other)]
    assert [Manifest.read(folder).source for folder in folders] == [str(checkpoint), str(other)]
    model = other / "model.safetensors"
    os.utime(model, ns=(0, model.stat().st_mtime_ns + 1))  # trained on
    assert prepare(other, tmp_path / "work", variant, calibrated=True) not in folders


def test_what_was_not_calibrated_is_kept_apart(checkpoint, tmp_path):
    variant = Variant.parse("onnx:int8")
    folders = [prepare(checkpoint, tmp_path, variant, calibrated) for calibrated in (False, True)]
    assert [bool(Manifest.read(folder).activation_ranges) for folder in folders] == [False, True]


def test_weights_that_a_token_reads(checkpoint, tmp_path):
    """Every linear layer and norm of the decoder and the tied head once; neither encoder nor rotary tables."""
    model, _ = load_pretrained(checkpoint)
    expected = 4 * sum(p.numel() for p in model.language_model.parameters())
    shape, _ = decoder_shape(open_checkpoint(checkpoint)[0])
    for text in ("torch:float32", "onnx:float32", "onnx-portable:float32"):
        variant = Variant.parse(text)
        counted = decoded_bytes(prepare(checkpoint, tmp_path, variant, True), variant, shape)
        assert counted == pytest.approx(expected, rel=0.005), text
    variant = Variant.parse("onnx:int8")
    small = decoded_bytes(prepare(checkpoint, tmp_path, variant, True), variant, shape)
    assert expected / 4 < small < expected / 2.5  # hidden 96 is padded to a group of 128


def test_shares_of_the_limits(checkpoint, tmp_path, monkeypatch):
    """By hand: a rate times what one unit costs, over the limit."""
    measured = {"encode_patches_per_s": 10.0, "prefill_tokens_per_s": 100.0, "decode_tokens_per_s": 5.0}
    monkeypatch.setattr(variants, "_in_own_process", lambda variant, settings: measured)
    settings = WorkerSettings("", "", threads=1, prompt_tokens=64)
    (row,) = variants.compare_variants(checkpoint, tmp_path, [Variant.parse("torch:float32")], settings, True)
    # Decoder: 3 layers, hidden 96, 6 + 2 + 2 + 6 heads of 32, three matrices 96 x 192; head 1536 x 96.
    layer = 96 * 32 * 16 + 3 * 96 * 192
    assert row["weight_bytes"] == 4 * (3 * layer + 1536 * 96)
    assert row["fractions"]["decode"] == pytest.approx(5 * row["weight_bytes"] / 1e9)
    scores = 2 * 32 * 6 * 32  # 32 tokens before on average, 6 heads of 32, scores and sums
    assert row["fractions"]["prefill"] == pytest.approx(100 * 2 * 3 * (layer + scores) / 1e9)
    # Encoder: 3 layers, hidden 64, 4 + 2 + 2 + 4 heads of 32, 64 x 128; 588 -> 64; projector 64 -> 96 -> 96 a token.
    linear = 3 * (64 * 32 * 12 + 3 * 64 * 128 + 2 * 1280 * 4 * 32) + 588 * 64 + (64 + 96) * 96 / 4
    assert row["fractions"]["encode"] == pytest.approx(10 * 2 * linear / 1e9)


def test_a_worker_that_fails(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(variants, "prepare", lambda *args: tmp_path)
    settings = WorkerSettings("", "", threads=1)
    running = variants.compare_variants(checkpoint, tmp_path, [Variant.parse("onnx:int8")], settings, True)
    with pytest.raises(EngineError, match=r"onnx:int8 could not be measured: .*is not an exported folder"):
        next(running)


def test_a_random_checkpoint_can_be_loaded_and_exported(tmp_path):
    decoder = dict(bench_engine_decoder(), vocab_size=300)
    encoder = EncoderConfig(64, 64, 2, 2, 1, 32)
    write_random_checkpoint(tmp_path / "random", layers=1, decoder=decoder, encoder=encoder)
    model, processor = load_pretrained(tmp_path / "random")
    assert model.config.encoder.num_hidden_layers == 1
    assert processor.decode(processor.encode_text("What is on the table?")) == "What is on the table?"
    variant = Variant.parse("onnx:int8")
    folder = prepare(tmp_path / "random", tmp_path, variant, calibrated=False)
    assert {i.name for i in onnx.load(folder / "decoder.onnx", load_external_data=False).graph.input} >= {"embeddings"}


def bench_engine_decoder():
    return {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
    }
