"""Calibration for float16: what is measured, what is shrunk to fit, and what is refused."""

import numpy as np
import pytest

from penguin_engine.export.calibration import FLOAT16_LIMIT, Calibration, calibrate
from penguin_engine.export.checkpoint_to_onnx import ExportOptions, export
from penguin_engine.export.graphs.weights import CheckpointWeights
from penguin_engine.export.manifest import Manifest
from penguin_engine.runtimes.base import interleave
from penguin_engine.runtimes.loading import open_runtime
from penguin_models.checkpoint import open_checkpoint
from penguin_models.errors import EngineError
from penguin_models.images import patch_image
from penguin_models.types import Size

LAYER = "language_model.model.layers.1"
DOWN = f"{LAYER}.mlp.down_proj"
HEADROOM_LIMIT = FLOAT16_LIMIT / 4


def ranges(**values):
    defaults = {DOWN: 1.0, f"{LAYER}.mlp.up_proj": 1.0}
    return Calibration(defaults | values.get("inputs", {}), defaults | values.get("outputs", {}))


def test_every_linear_layer_is_measured(model, processor, picture):
    measured = calibrate(model, processor, [picture(56, 84)])
    names = {f"{LAYER}.mlp.{name}_proj" for name in ("gate", "up", "down")}
    assert measured.inputs.keys() == measured.outputs.keys() >= names
    assert {"vision_projector.readout.0", "vision_encoder.embeddings.patch_embedding"} <= measured.inputs.keys()
    assert "vision_encoder.encoder.layers.2.self_attn.scores" in measured.inputs
    assert all(0 < value < 100 for values in (measured.inputs, measured.outputs) for value in values.values())
    assert not model._forward_hooks and not any(module._forward_hooks for module in model.modules())


def test_small_values_need_no_shrinking():
    assert ranges().shrink_factors("language_model.") == {}


@pytest.mark.parametrize(("largest", "factor"), [(HEADROOM_LIMIT * 1.01, 2.0), (HEADROOM_LIMIT * 9, 16.0)])
@pytest.mark.parametrize("where", ["inputs", "outputs"])
def test_large_products_are_shrunk(largest, factor, where):
    assert ranges(**{where: {DOWN: largest}}).shrink_factors("language_model.") == {DOWN: factor}


@pytest.mark.parametrize(
    "name", ["language_model.model.layers.1.mlp.up_proj", "language_model.model.layers.1.self_attn.v_proj"]
)
def test_large_values_of_other_layers_are_refused(name):
    with pytest.raises(
        EngineError, match=rf"1 layers do not fit float16.*{name} reaches 20000 of 65504; export bfloat16"
    ):
        Calibration({name: 1.0}, {name: 20_000.0}).shrink_factors("language_model.")


def test_bound_of_attention_scores_is_tight(model, processor, picture):
    """No product of a query and a key exceeds the bound, and the bound is at most four times the largest product."""
    measured = calibrate(model, processor, [picture(56, 84)])
    attention, outputs = model.vision_encoder.encoder.layers[0].self_attn, []
    handle = attention.q_norm.register_forward_hook(lambda module, args, output: outputs.append(output))
    model.encode([patch_image(picture(56, 84), Size(56, 84), 1, processor.images)])
    handle.remove()
    longest = (
        outputs[0].norm(dim=-1).max().item()
    )  # keys are as long, because the weights of both norms are near 1 here
    bound = measured.outputs["vision_encoder.encoder.layers.0.self_attn.scores"]
    assert longest**2 / 32**0.5 < bound < 4 * longest**2 / 32**0.5
    assert measured.summary()["largest_score"] >= bound


def test_attention_scores_beyond_float16_are_refused(edit_checkpoint, tmp_path, picture):
    def enlarge(tensors):
        for name in ("q_norm", "k_norm"):
            key = f"model.layers.1.self_attn.{name}.weight"
            tensors[key] = tensors[key] * np.float32(100)

    options = ExportOptions("portable", "float16", samples=[picture(56, 56)])
    with pytest.raises(EngineError, match=r"layers\.1\.self_attn\.scores reaches .* export bfloat16 or float32"):
        export(edit_checkpoint(enlarge), tmp_path / "out", options)


@pytest.mark.parametrize("profile", ["portable", "onnxruntime"])
def test_feed_forward_beyond_float16_is_shrunk(edit_checkpoint, tmp_path, profile, picture):
    """The product inside one layer exceeds 65504, and the exported graph still matches float32.

    ONNX Runtime's CPU kernels may compute in more than float16, so an overflow need not show here.
    """

    def scale(tensors):
        prefix = "model.vision_encoder.encoder.layers.1.mlp"
        for name, factor in (("gate", 300.0), ("up", 300.0), ("down", 1 / 300**2)):
            tensors[f"{prefix}.{name}_proj.weight"] = tensors[f"{prefix}.{name}_proj.weight"] * np.float32(factor)

    checkpoint = edit_checkpoint(scale)
    export(checkpoint, tmp_path / "out", ExportOptions(profile, "float16", samples=[picture(112, 112)]))
    found = Manifest.read(tmp_path / "out").activation_ranges
    assert found["largest_input"] > FLOAT16_LIMIT
    logits = []
    for name, path in (("onnx", tmp_path / "out"), ("torch", checkpoint)):
        runtime, processor = open_runtime(name, path)
        image = patch_image(picture(112, 112), Size(112, 112), 2, processor.images)
        logits.append(runtime.open_cache(40).append(interleave([[1], [2]], runtime.encode([image]))))
    lengths = [np.linalg.norm(x) for x in logits]
    assert logits[0] @ logits[1] / np.prod(lengths) > 0.999
    assert abs(lengths[0] / lengths[1] - 1) < 0.01


@pytest.mark.parametrize("vision_dtype", ["float16", "float32"])
def test_visual_tokens_beyond_float16_are_refused(edit_checkpoint, tmp_path, picture, vision_dtype):
    def enlarge(tensors):
        tensors["model.vision_projector.readout.2.bias"][3] = 70_000

    options = ExportOptions("portable", "float16", vision_dtype, samples=[picture(56, 56)])
    with pytest.raises(EngineError, match=r"vision_projector\.readout\.2 reaches [\d.]+ of 65504"):
        export(edit_checkpoint(enlarge), tmp_path / "out", options)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_infinite_activations_are_refused(edit_checkpoint, tmp_path, picture, value):
    """The message names the first layer that writes one, not the many layers after it."""

    def spoil(tensors):
        tensors["model.vision_projector.readout.2.bias"][3] = value

    options = ExportOptions("portable", "float16", samples=[picture(56, 56)])
    with pytest.raises(EngineError, match=rf"vision_projector\.readout\.2 writes {value} on the samples"):
        export(edit_checkpoint(spoil), tmp_path / "out", options)


def test_overflow_in_the_model_itself_is_refused(edit_checkpoint, tmp_path, picture):
    def spoil(tensors):
        name = "model.layers.1.mlp.up_proj.weight"
        tensors[name] = tensors[name] * np.float32(1e38)

    options = ExportOptions("portable", "float16", samples=[picture(56, 56)])
    with pytest.raises(EngineError, match=r"layers\.1\.mlp\.(up|down)_proj (writes|reads) (inf|nan) on the samples"):
        export(edit_checkpoint(spoil), tmp_path / "out", options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_not_finite_are_refused(edit_checkpoint, tmp_path, dtype):
    def spoil(tensors):
        tensors["model.layers.0.self_attn.k_proj.weight"][0, 0] = np.nan

    with pytest.raises(EngineError, match=r"k_proj\.weight contains infinite or NaN weights"):
        export(edit_checkpoint(spoil), tmp_path / "out", ExportOptions("portable", dtype))


def test_weights_beyond_float16_are_refused(edit_checkpoint):
    def enlarge(tensors):
        tensors["model.layers.0.self_attn.k_proj.weight"][0, 0] = -1e5

    _, stored, _ = open_checkpoint(edit_checkpoint(enlarge))
    weights = CheckpointWeights(stored)
    name = "language_model.model.layers.0.self_attn.k_proj.weight"
    assert next(weights.blocks(name, "bfloat16"))[0, 0] == np.float32(-99840)
    with pytest.raises(EngineError, match=r"k_proj\.weight contains 100000, beyond the float16 limit"):
        next(weights.blocks(name, "float16"))
