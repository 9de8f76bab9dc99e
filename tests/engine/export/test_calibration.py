"""The check of float16: what is measured, what is made smaller, and what is refused."""

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
    measured = calibrate(model, processor, [picture(56, 84)], "what?")
    names = {f"{LAYER}.mlp.{name}_proj" for name in ("gate", "up", "down")}
    assert measured.inputs.keys() == measured.outputs.keys() >= names
    assert {"vision_projector.readout.0", "vision_encoder.embeddings.patch_embedding"} <= measured.inputs.keys()
    assert "vision_encoder.encoder.layers.2.self_attn.scores" in measured.inputs
    assert all(0 < value < 100 for values in (measured.inputs, measured.outputs) for value in values.values())
    assert not model._forward_hooks and not any(module._forward_hooks for module in model.modules())


def test_small_ranges_change_nothing():
    assert ranges().shrink("language_model.") == {}


@pytest.mark.parametrize(("largest", "factor"), [(HEADROOM_LIMIT * 1.01, 2.0), (HEADROOM_LIMIT * 9, 16.0)])
@pytest.mark.parametrize("where", ["inputs", "outputs"])
def test_large_products_are_made_smaller(largest, factor, where):
    assert ranges(**{where: {DOWN: largest}}).shrink("language_model.") == {DOWN: factor}


@pytest.mark.parametrize(
    "name", ["language_model.model.layers.1.mlp.up_proj", "language_model.model.layers.1.self_attn.v_proj"]
)
def test_other_large_values_are_refused(name):
    with pytest.raises(
        EngineError, match=rf"1 layers do not fit float16.*{name} reaches 20000 of 65504; export bfloat16"
    ):
        Calibration({name: 1.0}, {name: 20_000.0}).shrink("language_model.")


def test_products_of_queries_and_keys_are_bounded(model, processor, picture):
    """No product that the graph calculates is above the bound, and the bound is not far above what norms give."""
    measured = calibrate(model, processor, [picture(56, 84)], "what?")
    attention, seen = model.vision_encoder.encoder.layers[0].self_attn, []
    handle = attention.q_norm.register_forward_hook(lambda module, args, output: seen.append(output))
    model.encode([patch_image(picture(56, 84), Size(56, 84), 1, processor.images)])
    handle.remove()
    longest = seen[0].norm(dim=-1).max().item()  # keys are as long: the weights of both norms are near 1 here
    bound = measured.outputs["vision_encoder.encoder.layers.0.self_attn.scores"]
    assert longest**2 / 32**0.5 < bound < 4 * longest**2 / 32**0.5
    assert measured.summary()["largest_score"] >= bound


def test_norms_that_let_products_overflow_float16(edit_checkpoint, tmp_path, picture):
    def enlarge(tensors):
        for name in ("q_norm", "k_norm"):
            key = f"model.layers.1.self_attn.{name}.weight"
            tensors[key] = tensors[key] * np.float32(100)

    options = ExportOptions("portable", "float16", samples=[picture(56, 56)])
    with pytest.raises(EngineError, match=r"layers\.1\.self_attn\.scores reaches .* export bfloat16 or float32"):
        export(edit_checkpoint(enlarge), tmp_path / "out", options)


@pytest.mark.parametrize("profile", ["portable", "onnxruntime"])
def test_an_encoder_whose_feed_forward_overflows_float16(edit_checkpoint, tmp_path, profile, picture):
    """The product inside one layer reaches beyond 65504; the exported graph gives the logits of float32 all the same.

    (ONNX Runtime's CPU kernels may calculate wider than float16: what overflows there need not show.)
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
def test_visual_tokens_that_overflow_the_decoder(edit_checkpoint, tmp_path, picture, vision_dtype):
    def enlarge(tensors):
        tensors["model.vision_projector.readout.2.bias"][3] = 70_000

    options = ExportOptions("portable", "float16", vision_dtype, samples=[picture(56, 56)])
    with pytest.raises(EngineError, match=r"vision_projector\.readout\.2 reaches [\d.]+ of 65504"):
        export(edit_checkpoint(enlarge), tmp_path / "out", options)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_activations_that_are_no_numbers(edit_checkpoint, tmp_path, picture, value):
    """The first layer that meets one is named, not the many behind it."""

    def spoil(tensors):
        tensors["model.vision_projector.readout.2.bias"][3] = value

    options = ExportOptions("portable", "float16", samples=[picture(56, 56)])
    with pytest.raises(EngineError, match=rf"vision_projector\.readout\.2 writes {value} on the samples"):
        export(edit_checkpoint(spoil), tmp_path / "out", options)


def test_numbers_that_overflow_in_the_model_itself(edit_checkpoint, tmp_path, picture):
    def spoil(tensors):
        name = "model.layers.1.mlp.up_proj.weight"
        tensors[name] = tensors[name] * np.float32(1e38)

    options = ExportOptions("portable", "float16", samples=[picture(56, 56)])
    with pytest.raises(EngineError, match=r"layers\.1\.mlp\.(up|down)_proj (writes|reads) (inf|nan) on the samples"):
        export(edit_checkpoint(spoil), tmp_path / "out", options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_no_numbers(edit_checkpoint, tmp_path, dtype):
    def spoil(tensors):
        tensors["model.layers.0.self_attn.k_proj.weight"][0, 0] = np.nan

    with pytest.raises(EngineError, match=r"k_proj\.weight holds numbers that are infinite or none"):
        export(edit_checkpoint(spoil), tmp_path / "out", ExportOptions("portable", dtype))


def test_weights_beyond_float16(edit_checkpoint):
    def enlarge(tensors):
        tensors["model.layers.0.self_attn.k_proj.weight"][0, 0] = -1e5

    _, stored, _ = open_checkpoint(edit_checkpoint(enlarge))
    weights = CheckpointWeights(stored)
    name = "language_model.model.layers.0.self_attn.k_proj.weight"
    assert next(weights.blocks(name, "bfloat16"))[0, 0] == np.float32(-99840)
    with pytest.raises(EngineError, match=r"k_proj\.weight holds 100000, beyond float16"):
        next(weights.blocks(name, "float16"))
