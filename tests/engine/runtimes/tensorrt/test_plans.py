"""The manifest of plans: which machine they fit, and the messages if they do not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from penguin_engine.export.manifest import PLAN_FOLDER, PLAN_MANIFEST, Manifest, hash_files, write_json
from penguin_engine.export.quantize import Quantization
from penguin_engine.runtimes.tensorrt import flavour
from penguin_engine.runtimes.tensorrt.plans import Machine, PlanManifest, check_buildable, export_hash
from penguin_engine.runtimes.tensorrt.shapes import PlanLimits, plan_shapes
from penguin_models.errors import EngineError

ORIN = Machine("tensorrt", "10.3.0", ("8.7",), "Orin")
THOR = Machine("tensorrt", "10.16.1", ("11.0",), "NVIDIA Thor")


@pytest.fixture
def folder(exported):
    return exported(profile="portable", dtype="float16")


@pytest.fixture
def built(folder, tmp_path):
    """An exported folder with a plan of arbitrary bytes."""
    copy = shutil.copytree(folder, tmp_path / "my model")
    (copy / PLAN_FOLDER).mkdir()
    for name in ("vision.plan", "decoder.plan"):
        (copy / PLAN_FOLDER / name).write_bytes(b"12345")
    limits, files = PlanLimits(2048), hash_files(copy / PLAN_FOLDER, ["vision.plan", "decoder.plan"])
    plan = PlanManifest(ORIN, "fp16", limits, plan_shapes(Manifest.read(copy), limits), export_hash(copy), files)
    write_json(plan, copy / PLAN_FOLDER / PLAN_MANIFEST)
    return copy


def edit_plan_manifest(folder, change):
    path = folder / PLAN_FOLDER / PLAN_MANIFEST
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def test_plan_on_its_machine_is_accepted(built):
    plan = PlanManifest.read(built)
    assert (plan.machine, plan.precision, plan.limits.max_tokens) == (ORIN, "fp16", 2048)
    plan.check(built, Manifest.read(built), ORIN)


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        (replace(ORIN, version="10.7.0"), "built for TensorRT '10.3.0', here it is '10.7.0'"),
        (replace(ORIN, gpu="Orin Nano"), "the GPU 'Orin', here it is 'Orin Nano'"),
        (THOR, r"compute capability 8\.7, here it is 11\.0"),
    ],
)
def test_plan_of_another_machine_is_refused_with_the_command_to_rebuild(built, machine, message):
    with pytest.raises(EngineError, match=message) as raised:
        PlanManifest.read(built).check(built, Manifest.read(built), machine)
    command = f"penguin-vl build '{built}' --flavour tensorrt --precision fp16 --max-tokens 2048 --max-patches 10764"
    assert str(raised.value).endswith(f"Build them again: {command}")


def test_plan_of_another_export_is_refused(built):
    with (built / "manifest.json").open("a") as file:
        file.write(" ")
    with pytest.raises(EngineError, match="another export of the model"):
        PlanManifest.read(built).check(built, Manifest.read(built), ORIN)


def test_plan_of_other_shapes_is_refused(built):
    """As if another version of this package, with other decoding steps, had built it."""
    edit_plan_manifest(built, lambda raw: raw["shapes"]["decoder.onnx"][0]["embeddings"][2].__setitem__(0, 256))
    with pytest.raises(EngineError, match=r"built for other shapes than this version of penguin_vl uses\. Build them"):
        PlanManifest.read(built).check(built, Manifest.read(built), ORIN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"123", r"vision\.plan with 5 bytes, which is missing or truncated"),
        (b"12346", r"vision\.plan with another hash, the file has changed since"),
    ],
)
def test_damaged_plan_is_refused(built, content, message):
    (built / PLAN_FOLDER / "vision.plan").write_bytes(content)
    with pytest.raises(EngineError, match=message):
        PlanManifest.read(built).check(built, Manifest.read(built), ORIN)


def test_folder_without_plans_is_refused(folder):
    with pytest.raises(EngineError, match="has no TensorRT plans; build them with: penguin-vl build"):
        PlanManifest.read(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 9}, "not a JSON object of format 1"),
        ({"machine": None}, "machine is None: "),
        ({"machine": vars(replace(ORIN, flavour="lite"))}, "the flavour 'lite' is unknown"),
        ({"precision": "fp17"}, "the precision 'fp17' is unknown"),
        ({"files": []}, r"files is \[\]: "),
        ({"files": {}}, r"it does not name decoder\.plan, vision\.plan"),
        ({"limits": {"max_tokens": 5}}, "max_tokens is 5"),
    ],
)
def test_damaged_plan_manifest_is_refused(built, change, reason):
    edit_plan_manifest(built, lambda raw: raw.update(change))
    with pytest.raises(EngineError, match=rf"plan\.json cannot be read \(.*{reason}.*\); build the plans again"):
        PlanManifest.read(built)


def test_precision_is_that_of_the_export(folder):
    manifest = Manifest.read(folder)
    assert check_buildable(manifest, None, ORIN, folder) == check_buildable(manifest, "fp16", ORIN, folder) == "fp16"
    with pytest.raises(
        EngineError, match="contains float16, --precision bf16 needs an export of bfloat16: penguin-vl export"
    ):
        check_buildable(manifest, "bf16", ORIN, folder)
    with pytest.raises(EngineError, match=r"--precision int4 needs .*penguin-vl quantize .* --weights int4"):
        check_buildable(manifest, "int4", ORIN, folder)


def test_versions_and_gpus_that_are_too_old_are_refused(exported):
    manifest = Manifest.read(exported(profile="portable", dtype="float16"))
    with pytest.raises(EngineError, match=r"TensorRT 10\.1 or newer is needed, this is 8\.6\.1"):
        check_buildable(manifest, None, replace(ORIN, version="8.6.1"), Path("model"))
    rtx = Machine("rtx", "1.7.1", ("8.6", "8.9"))
    assert check_buildable(manifest, None, rtx, Path("model")) == "fp16"
    fp8 = exported(profile="portable", quantization=Quantization("fp8"))
    with pytest.raises(
        EngineError, match=r"fp8 needs a GPU of compute capability 8\.9, Orin has 8\.7; use --precision fp16"
    ):
        check_buildable(Manifest.read(fp8), None, ORIN, fp8)
    assert check_buildable(Manifest.read(fp8), "fp8", THOR, fp8) == "fp8"
    with pytest.raises(EngineError, match=r"capability 8\.9, the target has 8\.6; leave out --for sm86, or use --pre"):
        check_buildable(Manifest.read(fp8), None, rtx, fp8)


def test_plans_of_the_other_flavour_are_refused_with_the_command_to_build_them(built, monkeypatch):
    monkeypatch.setattr(flavour, "installed", lambda: ["rtx"])
    with pytest.raises(EngineError, match=r"built for TensorRT, here is TensorRT for RTX\. Build .* --flavour rtx "):
        PlanManifest.read(built).load_flavour(built)


def test_plans_for_several_gpus_run_on_each(built):
    here = Machine("rtx", "1.7.1", ("8.9",), "RTX 4090")
    plan = replace(PlanManifest.read(built), machine=Machine("rtx", "1.7.1", ("8.6", "8.9")))
    plan = replace(plan, shapes=plan_shapes(Manifest.read(built), plan.limits))
    plan.check(built, Manifest.read(built), here)
    with pytest.raises(EngineError, match=r"capability 8\.6, 8\.9, here it is 12\.0.* --flavour rtx .* --for sm120$"):
        plan.check(built, Manifest.read(built), replace(here, compute_capabilities=("12.0",)))


@pytest.mark.parametrize("options", [{}, {"quantization": Quantization("int8")}])
def test_exports_for_onnx_runtime_only_are_refused(exported, options):
    folder = exported(profile="onnxruntime", **options)
    with pytest.raises(EngineError, match=r"for TensorRT, export it again: .* --profile portable --dtype float16"):
        check_buildable(Manifest.read(folder), None, THOR, folder)
