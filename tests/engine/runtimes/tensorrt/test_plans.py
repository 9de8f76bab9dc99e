"""Plans: the machine they fit, and what a message says when they do not."""

import json
from dataclasses import replace

import pytest

from penguin_engine.export.manifest import PLAN_FOLDER, PLAN_MANIFEST, Manifest, hash_file
from penguin_engine.export.quantize import Quantization
from penguin_engine.runtimes.tensorrt.plans import Machine, PlanManifest, check_buildable, export_hash
from penguin_engine.runtimes.tensorrt.shapes import PlanLimits, plan_shapes
from penguin_models.errors import EngineError

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
    (copy / PLAN_FOLDER).mkdir()
    (copy / PLAN_FOLDER / "vision.plan").write_bytes(b"12345")
    limits, files = PlanLimits(2048), {"vision.plan": hash_file(copy / PLAN_FOLDER / "vision.plan")}
    made = PlanManifest(ORIN, "fp16", limits, plan_shapes(Manifest.read(copy), limits), export_hash(copy), files)
    made.write(copy / PLAN_FOLDER)
    return copy


def test_a_plan_that_fits(plan):
    read = PlanManifest.read(plan)
    assert (read.machine, read.precision, read.limits.max_tokens) == (ORIN, "fp16", 2048)
    read.check(plan, Manifest.read(plan), ORIN)


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
        PlanManifest.read(plan).check(plan, Manifest.read(plan), machine)
    command = f"penguin-vl build '{plan}' --precision fp16 --max-tokens 2048 --max-patches 10764"
    assert str(raised.value).endswith(f"Build them again: {command}")


def test_another_export(plan):
    read = PlanManifest.read(plan)
    with (plan / "manifest.json").open("a") as file:
        file.write(" ")
    with pytest.raises(EngineError, match="another export of the model"):
        read.check(plan, Manifest.read(plan), ORIN)


@pytest.mark.parametrize(
    ("content", "reason"), [("[]", "it is no JSON object"), ('{"format": 1', "Expecting"), ("files", "no attribute")]
)
def test_a_plan_manifest_that_cannot_be_read(plan, content, reason):
    path = plan / PLAN_FOLDER / PLAN_MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": []}) if content == "files" else content)
    with pytest.raises(EngineError, match=rf"plan\.json cannot be read \(.*{reason}.*\); build the plans again"):
        PlanManifest.read(plan)


def test_plans_of_other_shapes(plan):
    """As a version of this program would have made that decodes in other steps."""
    path = plan / PLAN_FOLDER / PLAN_MANIFEST
    raw = json.loads(path.read_text())
    raw["shapes"]["decoder.onnx"][0]["embeddings"][2][0] = 256
    path.write_text(json.dumps(raw))
    with pytest.raises(EngineError, match=r"built for other shapes than this version of penguin_vl uses\. Build them"):
        PlanManifest.read(plan).check(plan, Manifest.read(plan), ORIN)


def test_a_plan_cut_short(plan):
    (plan / PLAN_FOLDER / "vision.plan").write_bytes(b"123")
    with pytest.raises(EngineError, match=r"vision\.plan with 5 bytes, which is missing or cut short"):
        PlanManifest.read(plan).check(plan, Manifest.read(plan), ORIN)


def test_a_plan_that_was_damaged(plan):
    (plan / PLAN_FOLDER / "vision.plan").write_bytes(b"12346")
    with pytest.raises(EngineError, match=r"vision\.plan as it was built, which has changed since: its hash differs"):
        PlanManifest.read(plan).check(plan, Manifest.read(plan), ORIN)


def test_no_plans(folder):
    with pytest.raises(EngineError, match="has no TensorRT plans; build them with: penguin-vl build"):
        PlanManifest.read(folder)


@pytest.mark.parametrize("change", [{"format": 9}, {"machine": None}, {"limits": {"max_tokens": 5}}])
def test_a_manifest_of_plans_that_cannot_be_read(plan, change):
    path = plan / PLAN_FOLDER / PLAN_MANIFEST
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
