"""Opening runtimes by name: what is refused, and that a robot needs only the base packages."""

import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from penguin_engine.runtimes.loading import open_runtime
from penguin_engine.runtimes.onnx_session import Device, open_session
from penguin_engine.runtimes.torch import TorchRuntime
from penguin_models.errors import EngineError
from penguin_models.types import PatchedImage, Size


def test_torch_opens_a_checkpoint(checkpoint):
    runtime, processor = open_runtime("torch", checkpoint, precision="bfloat16")
    assert isinstance(runtime, TorchRuntime) and runtime.info.dtype == "bfloat16"
    assert processor.image_token_id == 1503


def test_onnx_opens_an_exported_folder(exported):
    runtime, processor = open_runtime("onnx", exported(profile="fused"), precision="float32", threads=1)
    assert (runtime.info.name, runtime.info.device, runtime.info.dtype) == ("onnx", "cpu", "float32")
    assert processor.image_token_id == 1503


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tflite", {}, "runtime 'tflite' is unknown; choose from torch, onnx, tensorrt"),
        ("torch", {}, "is an exported folder; use --runtime onnx or tensorrt"),
        ("onnx", {"precision": "float16"}, "contains float32, but float16 was requested"),
        ("onnx", {"device": "tpu"}, "device 'tpu' is unknown to the onnx runtime; choose cpu, cuda"),
        ("onnx", {"device": "cuda:x"}, "device 'cuda:x' is unknown"),
        ("onnx", {"device": "cpu:1"}, "device 'cpu:1' is unknown"),
        ("onnx", {"revision": "main"}, "is an exported folder, which has no revision 'main'"),
    ],
)
def test_unsuitable_options_are_refused(exported, name, options, message):
    with pytest.raises(EngineError, match=message):
        open_runtime(name, exported(profile="portable"), **options)


def test_device_that_the_installed_package_lacks_is_refused(exported):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(EngineError, match=r"cannot use device 'cuda:0', it only has .*CPUExecutionProvider; install"):
        open_runtime("onnx", exported(profile="portable"), device="cuda:0")


class ClaimsCuda(onnxruntime.InferenceSession):
    """Claims to run on CUDA, and runs on the CPU."""

    def __init__(self, path, options, providers):
        assert providers[0][0] == "CUDAExecutionProvider"
        super().__init__(path, options, providers=["CPUExecutionProvider"])

    def get_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]


def out_of_memory(session, binding, options):
    raise RuntimeError("Error in execution: MatMul node.\nFailed to allocate memory for requested buffer of size 9")


@pytest.mark.parametrize("profile", ["portable", "onnxruntime"])
def test_lack_of_memory_is_an_error_with_a_remedy(exported, monkeypatch, profile):
    runtime, _ = open_runtime("onnx", exported(profile=profile))
    cache = runtime.open_cache(20)
    cache.append([[1, 2, 3]])
    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", out_of_memory)
    image = PatchedImage(np.zeros((12, 588), np.float32), Size(2, 6), 1)
    with pytest.raises(
        EngineError, match=r"failed at encoding 12 patches: .* size 9; lower the token budget"
    ) as raised:
        runtime.encode([image])
    assert ("or export with --profile onnxruntime" in str(raised.value)) == (profile == "portable")
    with pytest.raises(EngineError, match=r"failed at appending 2 tokens to 3: .* lower the token budget"):
        cache.append([[4, 5]])
    assert cache.length == 3


@pytest.mark.skipif(not hasattr(ClaimsCuda, "get_provider_graph_assignment_info"), reason="an older ONNX Runtime")
def test_products_assigned_to_the_cpu_are_refused(exported, monkeypatch):
    monkeypatch.setattr(onnxruntime, "InferenceSession", ClaimsCuda)
    with pytest.raises(
        EngineError, match=r"would run 24 Gemm, 6 MatMul, .* of .*vision\.onnx on the CPU, because its cuda"
    ):
        open_session(exported(profile="portable") / "vision.onnx", Device("cuda", 0), 1)


def test_sizes_assigned_to_the_cpu_are_accepted(exported, monkeypatch):
    class Assigned(ClaimsCuda):
        def get_provider_graph_assignment_info(self):
            def part(name, *operators):
                nodes = [SimpleNamespace(op_type=operator) for operator in operators]
                return SimpleNamespace(ep_name=name, get_nodes=lambda: nodes)

            return [part("CUDAExecutionProvider", "Gemm"), part("CPUExecutionProvider", "Shape", "Gather", "Concat")]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Assigned)
    session = open_session(exported(profile="portable") / "vision.onnx", Device("cuda", 0), 1)
    assert session.get_inputs()


@pytest.mark.parametrize("name", ["onnx", "tensorrt"])
def test_checkpoint_that_was_not_exported_is_refused(checkpoint, name):
    with pytest.raises(
        EngineError, match=f"which the {name} runtime needs; create one with: penguin-vl export --model"
    ):
        open_runtime(name, checkpoint)


def test_bfloat16_on_a_cpu_is_refused(exported):
    with pytest.raises(EngineError, match="is bfloat16, which ONNX Runtime cannot run on a CPU"):
        open_runtime("onnx", exported(profile="portable", dtype="bfloat16"))


def test_graph_that_cannot_be_loaded_is_an_error(exported, tmp_path, monkeypatch):
    monkeypatch.setattr("penguin_engine.export.manifest.Manifest._check_hashes", lambda *args: None)
    folder = shutil.copytree(exported(profile="portable"), tmp_path / "copy")
    graph = folder / "decoder.onnx"
    graph.write_bytes(bytes(graph.stat().st_size))
    with pytest.raises(EngineError, match=r"cannot load .*decoder\.onnx on cpu"):
        open_runtime("onnx", folder)


ROBOT = """
import json, sys
for name in ("torch", "transformers", "safetensors", "onnx", "ml_dtypes", "scipy", "rosbags", "rapidfuzz"):
    sys.modules[name] = None  # importing it fails, as if it were not installed
import numpy as np
from penguin_engine.scene.offline import ask
from penguin_engine.scene.generation import Sampling
from penguin_engine.runtimes.loading import open_runtime
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.requests import Request
from penguin_engine.scene.session import SceneSession
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.types import Frame

runtime, processor = open_runtime("onnx", sys.argv[1])
frame = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
answer = ask(runtime, processor, "what is it?", images=[frame], sampling=Sampling(4))
session = SceneSession(runtime, processor, NoveltyPolicy(), MemoryConfig(token_budget=200))
session.observe(Frame(frame, 0))
request = Request.prepare(processor, "and now?", Sampling(4))
print(json.dumps([answer.generated_tokens, session.ask(request).generated_tokens]))
"""


@pytest.mark.parametrize("profile", ["portable", "onnxruntime"])
def test_robot_needs_only_the_base_packages(exported, profile):
    """Opens a runtime and a session and asks two questions in a process that cannot import any extra."""
    done = subprocess.run(
        [sys.executable, "-c", ROBOT, exported(profile=profile)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [4, 4]
