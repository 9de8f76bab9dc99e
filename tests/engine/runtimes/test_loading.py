"""One way to open any runtime: what is refused and how, and that a robot needs neither torch nor transformers."""

import json
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


def test_torch(checkpoint):
    runtime, processor = open_runtime("torch", checkpoint, precision="bfloat16")
    assert isinstance(runtime, TorchRuntime) and runtime.info.dtype == "bfloat16"
    assert processor.image_token_id == 1503


def test_onnx(exported):
    runtime, processor = open_runtime("onnx", exported(profile="fused"), precision="float32", threads=1)
    assert (runtime.info.name, runtime.info.device, runtime.info.dtype) == ("onnx", "cpu", "float32")
    assert processor.image_token_id == 1503


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tflite", {}, "runtime 'tflite' is unknown; choose from torch, onnx, tensorrt"),
        ("torch", {}, "is an exported folder; use --runtime onnx or tensorrt"),
        ("onnx", {"precision": "float16"}, "holds float32, float16 was asked for"),
        ("onnx", {"device": "tpu"}, "device 'tpu' is unknown to the onnx runtime; choose cpu, cuda"),
        ("onnx", {"device": "cuda:x"}, "device 'cuda:x' is unknown"),
        ("onnx", {"device": "cpu:1"}, "device 'cpu:1' is unknown"),
    ],
)
def test_refused(exported, name, options, message):
    with pytest.raises(EngineError, match=message):
        open_runtime(name, exported(profile="portable"), **options)


def test_a_device_that_the_installed_package_lacks(exported):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    with pytest.raises(EngineError, match=r"cannot use device 'cuda:0': it has .*CPUExecutionProvider; install"):
        open_runtime("onnx", exported(profile="portable"), device="cuda:0")


class ClaimsCuda(onnxruntime.InferenceSession):
    """Says that CUDA was started, and runs on the CPU."""

    def __init__(self, path, options, providers):
        assert providers[0][0] == "CUDAExecutionProvider"
        super().__init__(path, options, providers=["CPUExecutionProvider"])

    def get_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]


def out_of_memory(session, binding, options):
    raise RuntimeError("Error in execution: MatMul node.\nFailed to allocate memory for requested buffer of size 9")


@pytest.mark.parametrize("profile", ["portable", "onnxruntime"])
def test_what_does_not_fit_into_memory(exported, monkeypatch, profile):
    runtime, _ = open_runtime("onnx", exported(profile=profile))
    cache = runtime.open_cache(20)
    cache.append([[1, 2, 3]])
    monkeypatch.setattr(onnxruntime.InferenceSession, "run_with_iobinding", out_of_memory)
    image = PatchedImage(np.zeros((12, 588), np.float32), Size(2, 6), 1)
    with pytest.raises(EngineError, match=r"failed at encoding 12 patches: .* size 9; make images smaller") as raised:
        runtime.encode([image])
    assert ("or export with --profile onnxruntime" in str(raised.value)) == (profile == "portable")
    with pytest.raises(EngineError, match=r"failed at 2 tokens behind 3: .* lower the token budget"):
        cache.append([[4, 5]])
    assert cache.length == 3


@pytest.mark.skipif(not hasattr(ClaimsCuda, "get_provider_graph_assignment_info"), reason="an older ONNX Runtime")
def test_products_that_would_run_on_the_cpu(exported, monkeypatch):
    monkeypatch.setattr(onnxruntime, "InferenceSession", ClaimsCuda)
    with pytest.raises(EngineError, match=r"would run 24 Gemm, 6 MatMul, .* of .*vision\.onnx on the CPU: its cuda"):
        open_session(exported(profile="portable") / "vision.onnx", Device("cuda", 0), 1)


def test_sizes_that_are_calculated_on_the_cpu(exported, monkeypatch):
    """As ONNX Runtime wants it of any model."""

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
def test_a_checkpoint_that_was_not_exported(checkpoint, name):
    with pytest.raises(EngineError, match=f"which the {name} runtime needs; make one with: penguin-vl export --model"):
        open_runtime(name, checkpoint)


def test_bfloat16_on_a_cpu(exported):
    with pytest.raises(EngineError, match="is bfloat16, which ONNX Runtime cannot run on a CPU"):
        open_runtime("onnx", exported(profile="portable", dtype="bfloat16"))


def test_a_graph_that_cannot_be_loaded(exported, tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr("penguin_engine.export.manifest.Manifest._compare", lambda *args: None)
    folder = shutil.copytree(exported(profile="portable"), tmp_path / "copy")
    graph = folder / "decoder.onnx"
    graph.write_bytes(bytes(graph.stat().st_size))
    with pytest.raises(EngineError, match=r"cannot load .*decoder\.onnx on cpu"):
        open_runtime("onnx", folder)


ROBOT = """
import json, sys
for name in ("torch", "transformers", "onnx", "ml_dtypes", "safetensors"):
    sys.modules[name] = None  # importing it fails, as where it is not installed
import numpy as np
from penguin_engine.scene.offline import ask
from penguin_engine.scene.generation import Sampling
from penguin_engine.runtimes.loading import open_runtime
from penguin_engine.scene.memory import MemoryConfig
from penguin_engine.scene.session import SceneSession
from penguin_models.novelty_policy import NoveltyPolicy
from penguin_models.types import Frame

runtime, processor = open_runtime("onnx", sys.argv[1])
frame = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
answer = ask(runtime, processor, "what is it?", images=[frame], sampling=Sampling(4))
session = SceneSession(runtime, processor, NoveltyPolicy(), MemoryConfig(token_budget=200))
session.observe(Frame(frame, 0))
print(json.dumps([answer.generated_tokens, session.ask("and now?", sampling=Sampling(4)).generated_tokens]))
"""


@pytest.mark.parametrize("profile", ["portable", "onnxruntime"])
def test_a_robot_needs_neither_torch_nor_transformers(exported, profile):
    """Runtime, processor, memory, session and two questions, in a process that cannot import them."""
    done = subprocess.run(
        [sys.executable, "-c", ROBOT, exported(profile=profile)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [4, 4]
