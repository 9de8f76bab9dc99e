"""Opening runtimes by name: what is refused, and that a robot needs only the base packages."""

import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest

from penguin_engine.export.manifest import MANIFEST, Manifest, hash_file, write_json
from penguin_engine.runtimes.loading import open_runtime
from penguin_engine.runtimes.onnx_session import Device, open_session
from penguin_engine.runtimes.torch import TorchRuntime
from penguin_models import checkpoint as checkpoint_module
from penguin_models.errors import EngineError
from penguin_models.types import PatchedImage, Size

SHIPPED = Path(__file__).parents[3] / "models" / "penguin-tiny"  # stored in bfloat16


def test_torch_opens_a_checkpoint(checkpoint):
    runtime, processor = open_runtime("torch", checkpoint, precision="bfloat16")
    assert isinstance(runtime, TorchRuntime) and runtime.info.dtype == "bfloat16"
    assert processor.image_token_id == 1503


@pytest.mark.parametrize(
    ("flags", "precision", "dtype"),
    [
        ({"avx512_bf16"}, None, "bfloat16"),
        ({"bf16"}, None, "bfloat16"),
        ({"avx512f", "avx512_fp16"}, None, "float32"),
        (set(), None, "float32"),
        (set(), "bfloat16", "bfloat16"),
    ],
)
def test_torch_runs_16_bits_only_where_the_cpu_does_not_emulate_them(monkeypatch, flags, precision, dtype):
    monkeypatch.setattr(checkpoint_module, "_cpu_flags", lambda: flags)
    runtime, _ = open_runtime("torch", SHIPPED, "cpu", precision)
    assert runtime.info.dtype == dtype


def test_onnx_opens_an_exported_folder(exported):
    runtime, processor = open_runtime("onnx", exported(profile="portable"), precision="float32", threads=1)
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
        ("onnx", {"device": "tensorrt-rtx:x"}, "device 'tensorrt-rtx:x' is unknown"),
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

    def __init__(self, path, options, providers, enable_fallback):
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
        EngineError, match=r"would run 15 Gemm, 6 MatMul, .* of .*vision\.onnx on the CPU, because its cuda"
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


def test_the_tensorrt_runtime_needs_pycuda_and_a_driver(exported, tmp_path, monkeypatch):
    if importlib.util.find_spec("pycuda") is not None:
        pytest.skip("pycuda is installed here")
    folder = exported(profile="portable")
    with pytest.raises(EngineError, match="the tensorrt runtime needs pycuda; run: pip install pycuda"):
        open_runtime("tensorrt", folder)
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda" / "__init__.py").write_text("")
    (tmp_path / "pycuda" / "driver.py").write_text("raise ImportError('libcuda.so.1: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match=r"pycuda cannot be loaded \(libcuda\.so\.1: .* GPU and its driver"):
        open_runtime("tensorrt", folder)
    sys.modules.pop("pycuda", None)


def test_bfloat16_on_a_cpu_is_refused(exported):
    with pytest.raises(EngineError, match="is bfloat16, which ONNX Runtime cannot run on a CPU"):
        open_runtime("onnx", exported(profile="portable", dtype="bfloat16"))


def test_graph_that_cannot_be_loaded_is_an_error(exported, tmp_path):
    folder = shutil.copytree(exported(profile="portable"), tmp_path / "copy")
    graph = folder / "decoder.onnx"
    graph.write_bytes(bytes(graph.stat().st_size))
    manifest = Manifest.read(exported(profile="portable"))
    files = manifest.files | {graph.name: hash_file(graph)}
    write_json(replace(manifest, files=files), folder / MANIFEST)
    with pytest.raises(EngineError, match=r"cannot load .*decoder\.onnx on cpu"):
        open_runtime("onnx", folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_dim": 1200}, r"vision\.onnx does not fit manifest.json, whose input patches .* \[1200\]"),
        ({"cache_dtype": "float16"}, r"decoder\.onnx does not fit .* input past_key_0 has the type float16"),
        ({"layers": 4}, r"decoder\.onnx does not fit .* input past_key_3"),
        ({"heads": 100_000_000, "kv_heads": 50_000_000}, r"decoder\.onnx does not fit .* input past_key_0"),
        ({"vocab": 1_000_000}, r"embeddings.bin has \d+ bytes, but 1000000 rows .* take \d+; export"),
    ],
)
def test_sizes_that_the_graphs_do_not_have_are_refused(exported, tmp_path, change, message):
    folder = shutil.copytree(exported(profile="portable"), tmp_path / "copy")
    raw = json.loads((folder / MANIFEST).read_text())
    for name, value in change.items():
        (raw if name in raw else raw["decoder"])[name] = value
    (folder / MANIFEST).write_text(json.dumps(raw))
    with pytest.raises(EngineError, match=message):
        open_runtime("onnx", folder)


@pytest.mark.parametrize("location", ["{outside}", "../outside", "link", "folder/outside", "/proc/self/environ"])
def test_weights_outside_the_folder_are_refused(tmp_path, location):
    """ONNX Runtime itself refuses them, before it opens them."""
    outside, folder = tmp_path / "outside", tmp_path / "model"
    folder.mkdir()
    outside.write_bytes(bytes(16))
    (folder / "link").symlink_to(outside)
    (folder / "folder").symlink_to(tmp_path)
    weight = onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", location.format(outside=outside)), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [4]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(EngineError, match=r"cannot load .*External data path"):
        open_session(folder / "m.onnx", Device.parse("cpu"), 1)


ROBOT = """
import json, sys
for name in ("torch", "transformers", "safetensors", "onnx", "ml_dtypes", "scipy", "rosbags", "rapidfuzz"):
    sys.modules[name] = None  # importing it fails, as if it were not installed
import numpy as np
from penguin_engine.scene.offline import ask
from penguin_engine.scene.generation import Sampling
from penguin_engine.export.manifest import MANIFEST, Manifest, hash_file, write_json
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
