"""Rounding of weights, how they are packed, and the graphs that hold them."""

import copy

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from penguin_engine.bench.event_clips import drawn_samples
from penguin_engine.export.calibration import Calibration, calibrate
from penguin_engine.export.checkpoint_to_onnx import ExportOptions, export
from penguin_engine.export.graphs.quantized import GROUP, pack_nibbles, round_to_groups
from penguin_engine.export.manifest import DECODER, VISION, Manifest
from penguin_engine.export.quantize import Quantization
from penguin_engine.runtimes.loading import open_runtime
from penguin_models.checkpoint import save_pretrained
from penguin_models.errors import EngineError


def restored(q, scales, columns):
    return (q * scales[..., None]).reshape(q.shape[0], -1)[:, :columns]


@given(st.integers(1, 5), st.integers(1, 300), st.sampled_from([4, 8]), st.integers(0, 2**31), st.floats(1e-4, 1e4))
def test_rounding_is_within_half_a_step(rows, columns, bits, seed, size):
    weights = (np.random.default_rng(seed).normal(size=(rows, columns)) * size).astype(np.float32)
    q, scales = round_to_groups(weights, bits, None)
    groups = -(-columns // GROUP)
    assert q.shape == (rows, groups, GROUP) and scales.shape == (rows, groups)
    assert q.min() >= -(2 ** (bits - 1)) and q.max() <= 2 ** (bits - 1) - 1
    plain = np.abs(np.pad(weights, ((0, 0), (0, -columns % GROUP))).reshape(rows, groups, GROUP)).max(-1)
    half_a_step = np.repeat(plain / (2 ** (bits - 1) - 1) / 2, GROUP, axis=1)[:, :columns]
    error = np.abs(restored(q, scales, columns) - weights)
    # The search may give up some of the largest weights for all others, never the sum of squares.
    assert np.square(error).sum() <= np.square(half_a_step).sum() * (1 + 1e-3)


def test_rounding_spares_the_inputs_that_matter():
    random = np.random.default_rng(0)
    weights = random.normal(size=(64, GROUP)).astype(np.float32)
    importance = np.ones(GROUP, np.float32)
    importance[:8] = 1000
    plain, weighted = (
        np.square(restored(*round_to_groups(weights, 4, given), GROUP) - weights).mean(0)
        for given in (None, importance)
    )
    assert weighted[:8].mean() < 0.9 * plain[:8].mean()
    assert (importance * weighted).sum() < (importance * plain).sum()


def test_weights_of_zero_stay_zero():
    q, scales = round_to_groups(np.zeros((2, 130), np.float32), 4, None)
    assert not q.any() and np.isfinite(scales).all()


@given(st.lists(st.integers(0, 15), min_size=2, max_size=20).filter(lambda v: len(v) % 2 == 0))
def test_two_numbers_a_byte_the_first_in_the_lower_half(values):
    packed = pack_nibbles(np.array(values))
    assert [half for byte in packed for half in (int(byte) & 15, int(byte) >> 4)] == values


CASES = [("onnxruntime", "int8"), ("onnxruntime", "int4"), ("portable", "int4"), ("portable", "fp8")]


@pytest.fixture(scope="module")
def quantized(exported):
    return lambda profile, kind: exported(
        profile=profile, quantization=Quantization.default(kind, profile == "onnxruntime")
    )


@pytest.fixture(scope="module")
def expected(checkpoint):
    return open_runtime("torch", checkpoint)[0].open_cache(50).append([list(range(40))])


@pytest.mark.parametrize(("profile", "kind"), CASES)
def test_logits_are_near_those_of_full_precision(quantized, expected, profile, kind):
    folder = quantized(profile, kind)
    runtime, _ = open_runtime("onnx", folder, precision=kind)
    logits = runtime.open_cache(50).append([list(range(40))])
    least = 0.998 if kind == "int8" else 0.96
    assert logits @ expected / np.linalg.norm(logits) / np.linalg.norm(expected) > least
    assert runtime.info.dtype == kind


@pytest.mark.parametrize(("profile", "kind"), CASES)
def test_types(quantized, profile, kind):
    """Encoder, projector and cache are 16-bit; the operators are those that the runtime has."""
    folder = quantized(profile, kind)
    manifest = Manifest.read(folder)
    assert (manifest.cache_dtype, manifest.vision_dtype) == ("float16", "float16")
    assert manifest.quantization["kind"] == kind
    vision, decoder = (onnx.load(folder / name, load_external_data=False).graph for name in (VISION, DECODER))
    assert all(i.data_type in (1, 7, 10) for i in vision.initializer)  # float32 norms, indices, float16
    cache = {i.type.tensor_type.elem_type for i in decoder.input if i.name.startswith("past_") and i.name[-1].isdigit()}
    assert cache == {onnx.TensorProto.FLOAT16}
    operators = [node.op_type for node in decoder.node]
    if profile == "onnxruntime":
        bits = [next(a.i for a in n.attribute if a.name == "bits") for n in decoder.node if n.op_type == "MatMulNBits"]
        assert sorted(bits) == ([8] * 22 if kind == "int8" else [4] * 7 + [8] * 15)
    else:
        wide = 7 if kind == "int4" else 2 * 22  # the float8 layers round their inputs too
        assert operators.count("DequantizeLinear") == wide
        assert operators.count("QuantizeLinear") == (22 if kind == "fp8" else 0)


@pytest.mark.parametrize(("profile", "kind"), [("portable", "int4"), ("onnxruntime", "int8")])
def test_checkpoints_of_bfloat16_become_float16(loaded, tmp_path, profile, kind):
    """As the released ones are stored; ONNX Runtime has no bfloat16 on CPUs, where the result is compared."""
    model, processor = loaded
    save_pretrained(copy.deepcopy(model).to(torch.bfloat16), processor, tmp_path / "stored")
    scheme = Quantization.default(kind, profile == "onnxruntime")
    options = ExportOptions(profile, quantization=scheme, samples=drawn_samples(4))
    manifest = export(tmp_path / "stored", tmp_path / "out", options)
    assert (manifest.cache_dtype, manifest.vision_dtype) == ("float16", "float16")
    runtime, _ = open_runtime("onnx", tmp_path / "out")
    assert np.isfinite(runtime.open_cache(8).append([[1, 2]])).all()


@pytest.mark.parametrize(
    ("profile", "kind", "message"),
    [
        ("portable", "int8", "need the profile onnxruntime, not portable; TensorRT multiplies 16-bit"),
        ("onnxruntime", "fp8", "fp8 weights need the profile portable, not onnxruntime"),
    ],
)
def test_weights_that_a_profile_has_no_operators_for(checkpoint, tmp_path, monkeypatch, profile, kind, message):
    """Found before the model is run on samples, which takes minutes."""
    monkeypatch.setattr("penguin_engine.export.checkpoint_to_onnx.calibrate", None)
    with pytest.raises(EngineError, match=message):
        export(checkpoint, tmp_path / "out", ExportOptions(profile, quantization=Quantization(kind)))


def test_a_cache_that_overflows_float16(checkpoint, loaded, tmp_path, picture):
    model, processor = loaded
    seen = calibrate(model, processor, [picture(56, 56)])
    name = "language_model.model.layers.2.self_attn.v_proj"
    large = Calibration(seen.inputs, seen.outputs | {name: 30_000.0}, seen.mean_squares)
    options = ExportOptions("onnxruntime", quantization=Quantization("int8"), calibration=large)
    with pytest.raises(EngineError, match=f"{name} reaches 30000 of 65504"):
        export(checkpoint, tmp_path / "out", options)
