"""Our own decisions in running plans, on the fakes of tests/support (no proof for a real GPU)."""

import inspect
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fake_tensorrt import fake_tensorrt, write_plans

from penguin_engine.export.manifest import KERNEL_CACHE, PLAN_FOLDER
from penguin_engine.runtimes.base import interleave
from penguin_engine.runtimes.onnx import OnnxRuntime
from penguin_engine.runtimes.tensorrt.build import build
from penguin_engine.runtimes.tensorrt.shapes import PlanLimits
from penguin_models.errors import EngineError
from penguin_models.images import patch_image
from penguin_models.types import Size

LIMITS = PlanLimits(1024, 1024)


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported(profile="portable"), tmp_path / "model")


@pytest.fixture(params=["tensorrt", "rtx"])
def flavour(request):
    return request.param


@pytest.fixture
def gpu(stand_in, flavour):
    return stand_in(flavour)


@pytest.fixture
def runtime(gpu, folder, flavour):
    write_plans(folder, LIMITS, flavour)
    return gpu.runtime.TensorRTRuntime(folder)


@pytest.fixture
def image(processor):
    return patch_image(np.zeros((56, 56, 3), np.uint8), Size(56, 56), 2, processor.images)


def in_another_thread(work):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_fakes_have_the_signatures_of_the_real_bindings(rtx):
    """A call that the fakes accept may not fail for its name, its number of arguments or their names."""
    fake = fake_tensorrt(None, "1.0")
    checked = 0
    for name in ("Runtime", "ICudaEngine", "IExecutionContext", "IRuntimeConfig", "IRuntimeCache"):
        real = getattr(rtx.api, name)
        for method, function in inspect.getmembers(getattr(fake, name), inspect.isfunction):
            if method.startswith("_") or method == "execute":
                continue
            signatures = re.findall(rf"{method}\((.*?)\) ->", getattr(real, method).__doc__)
            names = [re.findall(r"(?:^|, )(\w+): ", signature) for signature in signatures]
            count = len(inspect.signature(function).parameters)
            assert any(len(found) == count for found in names), (method, signatures)
            checked += 1
    assert checked > 12
    members = rtx.api.ExecutionContextAllocationStrategy.__members__, rtx.api.BuilderFlag.__members__
    assert "USER_MANAGED" in members[0] and "REQUIRE_USER_ALLOCATION" in members[1]
    assert {"EAGER", "LAZY"} <= set(rtx.api.DynamicShapesKernelSpecializationStrategy.__members__)


def test_a_real_plan_is_read_up_to_the_missing_gpu(rtx, stand_in, folder):
    """Loads with the real library: the plan is accepted, then the lack of a driver or a GPU is the reason."""
    build(folder, rtx, targets=["8.9"], limits=LIMITS)
    loader = stand_in("rtx").loaded_plan.PlanLoader(rtx, None, folder / PLAN_FOLDER, "penguin-vl build X")
    with pytest.raises(
        EngineError, match=r"for RTX .* cannot load .*decoder\.plan: .*(?i:cuda).*; build it again: peng"
    ):
        loader.load("decoder.plan")
    (folder / PLAN_FOLDER / "decoder.plan").write_bytes(bytes(1000))
    with pytest.raises(EngineError, match=r"cannot load .*decoder\.plan: .*Serialization"):
        loader.load("decoder.plan")


def test_plans_run_on_the_requested_gpu(gpu, folder, flavour):
    write_plans(folder, LIMITS, flavour, gpu=1)
    runtime = gpu.runtime.TensorRTRuntime(folder, "cuda:1")
    cache = runtime.open_cache(30)
    cache.append([[1], [2]])
    cache.close()
    assert gpu.device.current is None
    built = "compute capability 11.0" if flavour == "rtx" else "the GPU 'Thor'"
    again = "--for sm87" if flavour == "rtx" else "--device cuda:0"
    with pytest.raises(EngineError, match=rf"built for {built}, here it is .* {again}$"):
        gpu.runtime.TensorRTRuntime(folder, "cuda:0")


def test_gpus_for_which_the_flavour_has_no_kernels_are_refused(stand_in, folder, monkeypatch):
    """The command that builds for them would be refused, too."""
    gpu = stand_in("rtx")
    write_plans(folder, LIMITS, "rtx")
    monkeypatch.delitem(gpu.api.ComputeCapability.__members__, "SM87")
    with pytest.raises(EngineError, match=r"has no kernels for the GPU 'Orin' of .* 8\.7, only for 11\.0; use another"):
        gpu.runtime.TensorRTRuntime(folder)


@pytest.mark.parametrize(
    ("device", "message"), [("cpu", "device 'cpu' is unknown"), ("cuda:3", "does not exist: CUDA finds 2 GPUs")]
)
def test_devices_that_do_not_exist_are_refused(gpu, folder, flavour, device, message):
    write_plans(folder, LIMITS, flavour)
    with pytest.raises(EngineError, match=message):
        gpu.runtime.TensorRTRuntime(folder, device)


def test_cuda_that_cannot_be_started_is_an_error(gpu, folder, flavour):
    write_plans(folder, LIMITS, flavour)
    gpu.device.broken = "cuInit failed: no CUDA-capable device is detected"
    with pytest.raises(EngineError, match=r"CUDA cannot be started \(cuInit failed: no CUDA-capable .* its driver"):
        gpu.runtime.TensorRTRuntime(folder)


def test_compiled_kernels_are_kept_for_the_next_start(stand_in, folder):
    gpu = stand_in("rtx")
    write_plans(folder, LIMITS, "rtx")
    for starts in (1, 2):
        gpu.runtime.TensorRTRuntime(folder).close()
        assert (folder / PLAN_FOLDER / KERNEL_CACHE).read_bytes() == b"k" * starts


def test_decoding_is_recorded_once_per_bucket(gpu, runtime):
    """Starts at 252 tokens and decodes one token at a time past the end of the first bucket of 256."""
    cache = runtime.open_cache(600)
    cache.append([list(range(252))])
    for token in range(8):
        cache.append([[token]])
    # Cached before each step: 252 to 256 in the first bucket, 257 to 259 in the second; the first step of each bucket
    # is not a replay.
    assert gpu.device.launches == 8 - 2
    assert [shapes["past_mask"] for shapes in gpu.device.executions[-8:]] == [(256,)] * 5 + [(512,)] * 3
    cache.close()


def test_cached_tokens_are_never_copied(gpu, runtime):
    cache = runtime.open_cache(1024)
    cache.append([list(range(900))])
    before = gpu.device.copied_bytes
    cache.append([[1]])
    row = 2 * 32 * 4  # key-value heads, head_dim, float32
    assert gpu.device.copied_bytes - before == 2 * 3 * row  # keys and values of three layers, one row each
    cache.close()


def test_closing_frees_all_gpu_memory(gpu, runtime, image):
    blocks = len(gpu.device.blocks)
    cache = runtime.open_cache(300)
    assert len(gpu.device.blocks) > blocks
    cache.append([[1], *runtime.encode([image])])
    cache.append([[2]])
    assert len(gpu.driver.graphs) == len(gpu.driver.executables) == 1
    cache.close()
    assert gpu.driver.graphs == gpu.driver.executables == {}
    in_another_thread(runtime.close)
    assert gpu.device.blocks == {}


def test_visual_tokens_may_be_dropped_in_another_thread(gpu, runtime, image):
    """As in the node: the runtime is opened by one thread and used by another, without a current GPU in between."""
    for _ in range(2):  # both input stages refer to their last work
        runtime.encode([image])
    runtime.synchronize()
    blocks = len(gpu.device.blocks)

    def encode_and_drop():
        for _ in range(5):
            encoded = runtime.encode([image])
            del encoded
        runtime.synchronize()

    in_another_thread(encode_and_drop)
    assert (len(gpu.device.blocks), gpu.device.lost) == (blocks, [])


def test_runtime_may_be_dropped_in_another_thread(gpu, folder, flavour):
    write_plans(folder, LIMITS, flavour)
    runtimes = [gpu.runtime.TensorRTRuntime(folder)]
    cache = runtimes[0].open_cache(300)
    cache.append([[1]])
    in_another_thread(cache.close)
    del cache
    in_another_thread(runtimes.clear)
    assert (gpu.device.blocks, gpu.device.lost) == ({}, [])


def test_too_little_gpu_memory_is_an_error(gpu, folder, runtime):
    gpu.device.limit = 1000
    with pytest.raises(EngineError, match=r"the GPU has no .* MiB left; lower the token budget"):
        runtime.open_cache(300)
    with pytest.raises(EngineError, match=r"GPU memory to run .*vision\.plan, .*lower --max-patches .*penguin-vl"):
        gpu.runtime.TensorRTRuntime(folder)


@pytest.mark.parametrize("step", ["cuStreamBeginCapture_v2", "cuGraphInstantiateWithFlags", "cuGraphLaunch"])
def test_failed_recording_leaves_a_usable_stream_and_no_graph(gpu, runtime, step):
    cache = runtime.open_cache(30)
    gpu.driver.fail = step
    with pytest.raises(EngineError, match=f"{step} failed with CUDA error 719"):
        for token in range(3):
            cache.append([[token]])
    assert gpu.device.capturing is None
    cache.close()
    assert gpu.driver.graphs == gpu.driver.executables == {}


def test_many_images_of_many_sizes_match_onnx_runtime(runtime, processor, exported):
    """Encodes more images than there are input stages, so that page-locked memory is reused."""
    random = np.random.default_rng(0)
    images = [
        patch_image(random.integers(0, 256, (h, w, 3), dtype=np.uint8), Size(h, w), m, processor.images)
        for h, w, m in ((56, 56, 2), (28, 84, 2), (14, 14, 1), (140, 140, 2), (56, 56, 1), (28, 28, 2), (280, 280, 2))
        * 2
    ]
    logits = []
    for each in (runtime, OnnxRuntime(exported(profile="portable"))):
        cache = each.open_cache(600)
        logits.append(cache.append(interleave([[1]] * (len(images) + 1), each.encode(images))))
        cache.close()
    np.testing.assert_allclose(*logits, atol=2e-4)
