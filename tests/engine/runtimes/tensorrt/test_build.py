"""Building plans, and what is particular to the tensorrt runtime; on the stand-ins of tests/support."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from penguin_engine.export.manifest import PLAN_FOLDER, TIMING_CACHE, VISION, Manifest, hash_files
from penguin_engine.runtimes.base import interleave
from penguin_engine.runtimes.loading import open_runtime as open_any_runtime
from penguin_engine.runtimes.tensorrt.plans import PlanManifest
from penguin_engine.runtimes.tensorrt.shapes import PlanLimits
from penguin_models.errors import EngineError
from penguin_models.images import patch_image
from penguin_models.types import Size

LIMITS = PlanLimits(1024, 1024)


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported(profile="portable"), tmp_path / "model")


@pytest.fixture
def gpu(stand_in):
    return stand_in()


def build(gpu, folder, limits=LIMITS, **options):
    progress, cancelled = options.pop("progress", lambda *args: None), options.pop("cancelled", lambda: False)
    device = options.pop("device", "cuda")
    return gpu.build.build(folder, device, gpu.build.BuildOptions(limits=limits, **options), progress, cancelled)


def test_what_a_build_leaves(gpu, folder):
    steps = []
    plan = build(gpu, folder, progress=lambda *step: steps.append(step), workspace_mib=512)
    assert {path.name for path in (folder / PLAN_FOLDER).iterdir()} == {
        "vision.plan",
        "decoder.plan",
        "plan.json",
        TIMING_CACHE,
    }
    assert PlanManifest.read(folder) == plan
    assert (plan.machine.gpu, plan.machine.compute_capability, plan.precision) == ("Orin", "8.7", "fp32")
    assert steps == [("Building", 0, 2), ("Building", 1, 2), ("Building", 2, 2), ("Building", 2, 2)] * 2
    assert not [path for path in folder.iterdir() if path.name.startswith(".building")]


def test_plans_are_built_on_the_gpu_that_they_name(gpu, folder):
    """As `penguin-vl build` does it: in a thread of its own."""
    plan = in_another_thread(lambda: build(gpu, folder, device="cuda:1"))
    assert (plan.machine.gpu, plan.machine.compute_capability) == ("Thor", "11.0")
    cache = gpu.runtime.TensorRTRuntime(folder, "cuda:1").open_cache(30)
    cache.append([[1], [2]])
    cache.close()
    with pytest.raises(EngineError, match=r"built for the GPU 'Thor', here it is 'Orin'.* --device cuda:0$"):
        gpu.runtime.TensorRTRuntime(folder, "cuda:0")


def test_what_was_timed_is_kept(gpu, folder):
    build(gpu, folder)
    assert (folder / PLAN_FOLDER / TIMING_CACHE).read_bytes() == b"tt"  # one "t" for each graph
    build(gpu, folder)
    assert (folder / PLAN_FOLDER / TIMING_CACHE).read_bytes() == b"tttt"


@pytest.mark.parametrize("content", [b"other version", b"damaged"])
def test_timings_of_no_use_are_left_out(gpu, folder, content):
    (folder / PLAN_FOLDER).mkdir()
    (folder / PLAN_FOLDER / TIMING_CACHE).write_bytes(content)
    build(gpu, folder)
    assert (folder / PLAN_FOLDER / TIMING_CACHE).read_bytes() == b"tt"


def test_a_cancelled_build_leaves_what_was_there(gpu, folder):
    before = build(gpu, folder)
    calls = iter([False, False, False, True, True, True])
    with pytest.raises(EngineError, match="was cancelled; what was built before is as it was"):
        build(gpu, folder, PlanLimits(512, 1024), cancelled=lambda: next(calls))
    assert PlanManifest.read(folder) == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".building")]


def test_what_a_killed_build_left_is_removed(gpu, folder):
    (folder / ".building" / PLAN_FOLDER).mkdir(parents=True)
    (folder / ".building" / PLAN_FOLDER / "vision.plan").write_bytes(b"half")
    build(gpu, folder)
    assert not (folder / ".building").exists()


def test_a_place_where_plans_cannot_be_written(gpu, folder):
    (folder / PLAN_FOLDER).write_text("a file")
    with pytest.raises(
        EngineError, match=r"tensorrt cannot be written \(.*File exists.*\); make room there, or choose"
    ):
        build(gpu, folder)
    assert not (folder / ".building").exists()


def test_an_interrupted_first_build_leaves_no_plan(gpu, folder):
    def interrupt(*step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(gpu, folder, progress=interrupt)
    with pytest.raises(EngineError, match="has no TensorRT plans"):
        PlanManifest.read(folder)


def test_a_damaged_export_is_found_before_anything_is_built(gpu, folder):
    content = bytearray((folder / "vision.onnx.data").read_bytes())
    content[100] ^= 1
    (folder / "vision.onnx.data").write_bytes(content)
    with pytest.raises(EngineError, match="is not what was exported: its hash differs"):
        build(gpu, folder)


def test_a_graph_that_tensorrt_cannot_read(gpu, folder, monkeypatch):
    monkeypatch.setattr("penguin_engine.export.manifest.Manifest._compare", lambda *args: None)
    (folder / VISION).write_bytes(b"\xff" * (folder / VISION).stat().st_size)
    with pytest.raises(EngineError, match=r"TensorRT 10\.16\.1 cannot read .*vision\.onnx: "):
        build(gpu, folder)


def test_reasons_of_tensorrt_are_passed_on(gpu, folder, monkeypatch):
    def fail(self, network, config):
        self._logger.log("error", "no kernel\nfits")

    monkeypatch.setattr(gpu.build.trt.Builder, "build_serialized_network", fail)
    with pytest.raises(EngineError, match=r"could not build vision\.onnx: no kernel fits"):
        build(gpu, folder)


def open_runtime(gpu, folder):
    return gpu.runtime.TensorRTRuntime(folder)


def test_a_plan_of_another_version_is_refused(stand_in, folder):
    build(stand_in("10.3.0"), folder)
    with pytest.raises(EngineError, match=r"built for TensorRT '10\.3\.0', here it is '10\.7\.0'.*penguin-vl build"):
        open_runtime(stand_in("10.7.0"), folder)


def test_the_export_is_read_once(gpu, folder, monkeypatch):
    build(gpu, folder)
    read, count = Manifest.read, []
    monkeypatch.setattr(Manifest, "read", lambda path: count.append(path) or read(path))
    _, processor = open_any_runtime("tensorrt", folder)
    assert len(count) == 1 and processor.image_token_id == 1503
    open_any_runtime("onnx", folder)
    assert len(count) == 2


def test_a_plan_that_cannot_be_loaded(gpu, folder):
    build(gpu, folder)
    path = folder / PLAN_FOLDER / "decoder.plan"
    path.write_bytes(b"x" * path.stat().st_size)
    plan = PlanManifest.read(folder)
    replace(plan, files=hash_files(folder / PLAN_FOLDER, plan.files)).write(folder / PLAN_FOLDER)
    with pytest.raises(EngineError, match=r"cannot load .*decoder\.plan; build it again: penguin-vl build"):
        open_runtime(gpu, folder)


@pytest.mark.parametrize(
    ("device", "message"), [("cpu", "device 'cpu' is unknown"), ("cuda:3", "does not exist here: CUDA finds 2 GPUs")]
)
def test_devices_that_do_not_exist(gpu, folder, device, message):
    build(gpu, folder)
    with pytest.raises(EngineError, match=message):
        gpu.runtime.TensorRTRuntime(folder, device)


def test_cuda_that_cannot_be_started(gpu, folder):
    gpu.device.broken = "cuInit failed: no CUDA-capable device is detected"
    with pytest.raises(EngineError, match=r"CUDA cannot be started here: cuInit failed: no CUDA-capable .* driver\?"):
        build(gpu, folder)


def test_decoding_is_recorded_once_for_each_bucket(gpu, folder):
    """252 tokens, then one at a time over the end of the first bucket of 256."""
    build(gpu, folder)
    runtime = open_runtime(gpu, folder)
    cache = runtime.open_cache(600)
    cache.append([list(range(252))])
    for token in range(8):
        cache.append([[token]])
    # Held before each step: 252 to 256 in the first bucket, 257 to 259 in the second; each kind runs once unrecorded.
    assert gpu.device.launches == 8 - 2
    assert [shapes["past_mask"] for shapes in gpu.device.executions[-8:]] == [(256,)] * 5 + [(512,)] * 3
    cache.close()


def test_held_tokens_are_never_copied(gpu, folder):
    build(gpu, folder)
    runtime = open_runtime(gpu, folder)
    cache = runtime.open_cache(1024)
    cache.append([list(range(900))])
    before = gpu.device.copied_bytes
    cache.append([[1]])
    row = 2 * 32 * 4  # key-value heads, head_dim, float32
    assert gpu.device.copied_bytes - before == 2 * 3 * row  # keys and values of three layers, one row each
    cache.close()


def test_memory_is_given_back(gpu, folder):
    build(gpu, folder)
    runtime = open_runtime(gpu, folder)
    blocks = len(gpu.device.blocks)
    cache = runtime.open_cache(300)
    assert len(gpu.device.blocks) > blocks
    cache.append([[1]])
    cache.append([[2]])
    assert len(gpu.driver.graphs) == len(gpu.driver.executables) == 1
    cache.close()
    assert len(gpu.device.blocks) == blocks
    assert gpu.driver.graphs == gpu.driver.executables == {}


def in_another_thread(work):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_frames_that_are_dropped_in_another_thread(gpu, folder, processor):
    """As in the node: opened by one thread, used by another, which drops frames while the GPU is not current."""
    build(gpu, folder)
    runtime = open_runtime(gpu, folder)
    image = patch_image(np.zeros((56, 56, 3), np.uint8), Size(56, 56), 2, processor.images)
    for _ in range(2):  # both stages hold what they worked on last
        runtime.encode([image])
    runtime.synchronize()
    blocks = len(gpu.device.blocks)

    def watch():
        for _ in range(5):
            held = runtime.encode([image])
            del held
        runtime.synchronize()

    in_another_thread(watch)
    assert (len(gpu.device.blocks), gpu.device.lost) == (blocks, [])


def test_a_runtime_that_is_dropped_in_another_thread(gpu, folder):
    build(gpu, folder)
    runtimes = [open_runtime(gpu, folder)]
    cache = runtimes[0].open_cache(300)
    cache.append([[1]])
    in_another_thread(cache.close)
    del cache
    in_another_thread(runtimes.clear)
    assert (gpu.device.blocks, gpu.device.lost) == ({}, [])


def test_the_device_is_current_only_inside(gpu, folder, processor):
    build(gpu, folder)
    runtime = open_runtime(gpu, folder)
    image = patch_image(np.zeros((56, 56, 3), np.uint8), Size(56, 56), 2, processor.images)
    cache = runtime.open_cache(30)
    cache.append(interleave([[1], [2]], runtime.encode([image])))
    cache.close()
    assert gpu.device.current is None


def test_too_little_gpu_memory(gpu, folder):
    build(gpu, folder)
    runtime = open_runtime(gpu, folder)
    gpu.device.limit = 1000
    with pytest.raises(EngineError, match=r"the GPU has no .* MiB left; lower the token budget"):
        runtime.open_cache(300)


def test_too_little_gpu_memory_for_a_plan(gpu, folder):
    build(gpu, folder)
    gpu.device.limit = 1000
    with pytest.raises(
        EngineError, match=r"GPU memory to run .*vision\.plan, .*lower --max-patches .*penguin-vl build"
    ):
        open_runtime(gpu, folder)


@pytest.mark.parametrize("step", ["cuStreamBeginCapture_v2", "cuGraphInstantiateWithFlags", "cuGraphLaunch"])
def test_graphs_that_cuda_refuses(gpu, folder, step):
    build(gpu, folder)
    cache = open_runtime(gpu, folder).open_cache(30)
    gpu.driver.fail = step
    with pytest.raises(EngineError, match=f"{step} failed with CUDA error 719"):
        for token in range(3):
            cache.append([[token]])
    assert gpu.device.capturing is None
    cache.close()
    assert gpu.driver.graphs == gpu.driver.executables == {}


def test_an_image_beyond_the_plan(gpu, folder, processor):
    build(gpu, folder)
    large = patch_image(np.zeros((560, 560, 3), np.uint8), Size(560, 560), 1, processor.images)
    with pytest.raises(
        EngineError,
        match=r"an image of 1600 patches is larger than the 1024 .* --max-tokens 1024 --max-patches 1600 - or lower",
    ):
        open_runtime(gpu, folder).encode([large])


def test_many_images_of_many_sizes(gpu, folder, processor, exported):
    """More images than there are stages, so that page-locked memory is used again."""
    from penguin_engine.runtimes.onnx import OnnxRuntime

    build(gpu, folder)
    random = np.random.default_rng(0)
    images = [
        patch_image(random.integers(0, 256, (h, w, 3), dtype=np.uint8), Size(h, w), m, processor.images)
        for h, w, m in ((56, 56, 2), (28, 84, 2), (14, 14, 1), (140, 140, 2), (56, 56, 1), (28, 28, 2), (280, 280, 2))
        * 2
    ]
    logits = []
    for runtime in (open_runtime(gpu, folder), OnnxRuntime(exported(profile="portable"))):
        cache = runtime.open_cache(600)
        logits.append([cache.append([tokens]) for tokens in runtime.encode(images)])
    np.testing.assert_allclose(*logits, atol=2e-4)


def test_a_plan_manifest_is_plain_json(gpu, folder):
    build(gpu, folder)
    raw = json.loads((folder / PLAN_FOLDER / "plan.json").read_text())
    assert raw["machine"] == {"tensorrt": "10.16.1", "gpu": "Orin", "compute_capability": "8.7"}
    assert raw["limits"] == {"max_tokens": 1024, "max_patches": 1024}
