"""Plans: their shapes, the machine they fit, and what a message says when they do not."""

import json
from dataclasses import replace

import pytest

from penguin_engine.manifest import ExportedFile, Manifest
from penguin_engine.plans import (
    BUCKET_TOKENS,
    FOLDER,
    PLAN_MANIFEST,
    Machine,
    PlanLimits,
    PlanManifest,
    check_buildable,
    check_patches,
    decoder_profiles,
    export_hash,
    fits_vision_plan,
    vision_profiles,
)
from penguin_engine.quantize import Quantization
from penguin_models.errors import EngineError
from penguin_models.types import PatchedImage, Size

ORIN = Machine("10.3.0", "Orin", "8.7")
THOR = Machine("10.16.1", "NVIDIA Thor", "11.0")


@pytest.fixture
def folder(exported):
    return exported(profile="portable", dtype="float16")


@pytest.fixture
def plan(folder, tmp_path):
    """An exported folder with plans that are nothing but bytes."""
    import shutil

    copy = shutil.copytree(folder, tmp_path / "my model")
    (copy / FOLDER).mkdir()
    (copy / FOLDER / "vision.plan").write_bytes(b"12345")
    made = PlanManifest(ORIN, "fp16", PlanLimits(2048), export_hash(copy), {"vision.plan": ExportedFile(5, "0")})
    made.write(copy / FOLDER)
    return copy


def test_a_plan_that_fits(plan):
    read = PlanManifest.read(plan)
    assert (read.machine, read.precision, read.limits.max_tokens) == (ORIN, "fp16", 2048)
    read.check(plan, ORIN)


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        (replace(ORIN, tensorrt="10.7.0"), "built for TensorRT '10.3.0', here it is '10.7.0'"),
        (replace(ORIN, gpu="Orin Nano"), "the GPU 'Orin', here it is 'Orin Nano'"),
        (THOR, "compute capability '8.7', here it is '11.0'"),
    ],
)
def test_another_machine(plan, machine, message):
    with pytest.raises(EngineError, match=message) as raised:
        PlanManifest.read(plan).check(plan, machine)
    command = f"penguin-vl build '{plan}' --precision fp16 --max-tokens 2048 --max-patches 4096"
    assert str(raised.value).endswith(f"Build them again: {command}")


def test_another_export(plan):
    read = PlanManifest.read(plan)
    with (plan / "manifest.json").open("a") as file:
        file.write(" ")
    with pytest.raises(EngineError, match="another export of the model"):
        read.check(plan, ORIN)


def test_a_plan_cut_short(plan):
    (plan / FOLDER / "vision.plan").write_bytes(b"123")
    with pytest.raises(EngineError, match=r"vision\.plan with 5 bytes, which is missing or cut short"):
        PlanManifest.read(plan).check(plan, ORIN)


def test_no_plans(folder):
    with pytest.raises(EngineError, match="has no TensorRT plans; build them with: penguin-vl build"):
        PlanManifest.read(folder)


@pytest.mark.parametrize("change", [{"format": 9}, {"machine": None}, {"limits": {"max_tokens": 5}}])
def test_a_manifest_of_plans_that_cannot_be_read(plan, change):
    path = plan / FOLDER / PLAN_MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(EngineError, match=r"cannot be read \(.*\); build the plans again"):
        PlanManifest.read(plan)


def test_precision_is_that_of_the_export(folder):
    manifest = Manifest.read(folder)
    assert check_buildable(manifest, None, ORIN, folder) == check_buildable(manifest, "fp16", ORIN, folder) == "fp16"
    with pytest.raises(
        EngineError, match="holds float16, --precision bf16 needs an export of bfloat16: penguin-vl export"
    ):
        check_buildable(manifest, "bf16", ORIN, folder)
    with pytest.raises(EngineError, match=r"--precision int4 needs .*penguin-vl quantize .* --weights int4"):
        check_buildable(manifest, "int4", ORIN, folder)


def test_versions_and_gpus_that_are_too_old(exported):
    fused = exported(profile="fused", dtype="float16")
    with pytest.raises(EngineError, match=r"the fused profile needs TensorRT 10\.15, this is 10\.3\.0"):
        check_buildable(Manifest.read(fused), None, ORIN, fused)
    assert check_buildable(Manifest.read(fused), None, THOR, fused) == "fp16"
    fp8 = exported(profile="portable", quantization=Quantization("fp8"))
    with pytest.raises(
        EngineError, match=r"fp8 needs a GPU of compute capability 8\.9, Orin has 8\.7; take --precision"
    ):
        check_buildable(Manifest.read(fp8), None, ORIN, fp8)
    assert check_buildable(Manifest.read(fp8), "fp8", THOR, fp8) == "fp8"


@pytest.mark.parametrize("options", [{}, {"quantization": Quantization("int8")}])
def test_exports_for_onnx_runtime_alone(exported, options):
    folder = exported(profile="onnxruntime", **options)
    with pytest.raises(EngineError, match=r"TensorRT cannot read it; export it again: .* --profile portable"):
        check_buildable(Manifest.read(folder), None, THOR, folder)


@pytest.mark.parametrize("profile", ["portable", "fused"])
def test_shapes_of_the_decoder(exported, profile):
    prefill, decode = decoder_profiles(Manifest.read(exported(profile=profile)), PlanLimits(1024))
    import onnx

    graph = onnx.load(exported(profile=profile) / "decoder.onnx", load_external_data=False).graph
    assert prefill.keys() == decode.keys() == {i.name for i in graph.input}
    assert prefill["embeddings"].maximum == (512, 96) and decode["embeddings"].maximum == (1, 96)
    past = decode["past_key_2"]
    if profile == "fused":
        assert past.minimum == past.maximum == (1, 2, 1024, 32)
    else:
        assert past.minimum == (BUCKET_TOKENS, 2, 32) and past.maximum == (1024, 2, 32)
        assert decode["past_mask"].maximum == (1024,)
    for shapes in (prefill, decode):
        for size in shapes.values():
            assert all(a <= b <= c for a, b, c in zip(size.minimum, size.optimum, size.maximum, strict=True))


def test_shapes_of_the_vision_graph(folder):
    single, batch = vision_profiles(Manifest.read(folder), PlanLimits(1024, max_patches=2000))
    assert single["slots"].maximum == (1, 2000) and single["patches"].maximum == (2000, 588)
    assert batch["slots"].minimum[0] == 2 and batch["slots"].maximum == (8, 512)
    assert batch["patches"].maximum == (8 * 512, 588)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_tokens": 100}, "max_tokens is 100, it must be at least 256 and a multiple of 256"),
        ({"max_tokens": 1000}, "max_tokens is 1000"),
        ({"max_patches": 10}, "max_patches is 10, it must be at least 512"),
    ],
)
def test_limits_that_make_no_sense(limits, message):
    with pytest.raises(EngineError, match=message):
        PlanLimits(**limits)


def image(patches):
    import numpy as np

    return PatchedImage(np.zeros((patches, 588), np.float32), Size(1, patches), 1)


def test_which_images_go_together():
    assert fits_vision_plan([image(4000)])
    assert fits_vision_plan([image(512)] * 8)
    assert not fits_vision_plan([image(512)] * 9)
    assert not fits_vision_plan([image(100), image(513)])


def test_an_image_that_is_too_large():
    check_patches([image(2000)], PlanLimits(1024, 2000), "penguin-vl build X")
    with pytest.raises(EngineError, match=r"an image of 2001 patches is larger than the 2000 .*: penguin-vl build X"):
        check_patches([image(2001)], PlanLimits(1024, 2000), "penguin-vl build X")
