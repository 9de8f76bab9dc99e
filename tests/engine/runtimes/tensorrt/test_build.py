"""Parsing and building with the real TensorRT for RTX, which needs no GPU. It cannot load what it built here."""

import json
import resource
import shutil
import threading
from types import SimpleNamespace

import pytest

from penguin_engine.bench.event_clips import drawn_samples
from penguin_engine.export.checkpoint_to_onnx import ExportOptions, export
from penguin_engine.export.manifest import DECODER, MANIFEST, PLAN_FOLDER, TIMING_CACHE, VISION, Manifest, hash_file
from penguin_engine.export.quantize import Quantization
from penguin_engine.runtimes.tensorrt import flavour
from penguin_engine.runtimes.tensorrt.build import build
from penguin_engine.runtimes.tensorrt.flavour import Flavour, parse_capabilities
from penguin_engine.runtimes.tensorrt.plans import PlanManifest
from penguin_engine.runtimes.tensorrt.shapes import PlanLimits, decoder_profiles, vision_profiles
from penguin_models.errors import EngineError, WriteError
from penguin_ros.shipped import MODEL

LIMITS = PlanLimits(1024, 1024)


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported(profile="portable", dtype="float16"), tmp_path / "model")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """penguin-tiny in float16, whose heads have sizes for which TensorRT has fused attention."""
    out = tmp_path_factory.mktemp("shipped") / "model"
    export(MODEL, out, ExportOptions("portable", "float16", samples=drawn_samples(1)))
    return out


def rewrite(folder, name, change):
    """Changes a file of an export, and its hash in the manifest."""
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    raw = json.loads((folder / MANIFEST).read_text())
    raw["files"][name] = vars(hash_file(folder / name))
    (folder / MANIFEST).write_text(json.dumps(raw))


@pytest.fixture(scope="module")
def built(rtx, exported, tmp_path_factory):
    """An export with plans for two GPUs, their manifest, and the progress of the build."""
    folder, phases = tmp_path_factory.mktemp("built") / "model", []
    shutil.copytree(exported(profile="portable", dtype="float16"), folder)
    plan = build(folder, rtx, targets=["8.9", "12.0"], limits=LIMITS, progress=lambda *phase: phases.append(phase))
    return folder, plan, phases


def test_build_writes_plans_and_their_manifest(rtx, built):
    folder, plan, phases = built
    assert {path.name for path in (folder / PLAN_FOLDER).iterdir()} == {"vision.plan", "decoder.plan", "plan.json"}
    assert PlanManifest.read(folder) == plan and plan.precision == "fp16"
    raw = json.loads((folder / PLAN_FOLDER / "plan.json").read_text())
    assert raw["machine"] == {
        "flavour": "rtx",
        "version": rtx.version,
        "compute_capabilities": ["8.9", "12.0"],
        "gpu": None,
    }
    assert raw["limits"] == {"max_tokens": 1024, "max_patches": 1024}
    assert not [path for path in folder.iterdir() if path.name.startswith(".building")]
    assert {steps for _, done, steps in phases if done} and all(0 <= done <= steps for _, done, steps in phases)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int4", "fp8"])
def test_every_precision_builds_for_the_gpus_that_have_it(rtx, exported, tmp_path, kind):
    quantized = {"quantization": Quantization.default(kind, contrib=False)} if kind in ("int4", "fp8") else {}
    options = quantized or {"dtype": kind}
    folder = shutil.copytree(exported(profile="portable", **options), tmp_path / "model")
    plan = build(folder, rtx, limits=LIMITS)
    least = {"float32": "8.0", "bfloat16": "8.0", "int4": "8.0", "fp8": "8.9"}[kind]
    assert plan.machine.compute_capabilities[0] == least and "12.0" in plan.machine.compute_capabilities
    assert all((folder / PLAN_FOLDER / name).stat().st_size > 100_000 for name in plan.files)


def information(rtx, path, profiles):
    """Returns the number of layers of the parsed network, and the names of the kernels that the builder chose."""
    trt, messages = rtx.api, []

    class Logger(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)

        def log(self, severity, msg):
            messages.append(msg)

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, sizes in shapes.items():
            profile.set_shape(name, sizes.minimum, sizes.optimum, sizes.maximum)
        config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
    names = [line.split(",")[0] for message in messages for line in message.splitlines() if line.startswith("Name: ")]
    return network.num_layers, names


@pytest.mark.parametrize(("graph", "profiles_of"), [(VISION, vision_profiles), (DECODER, decoder_profiles)])
@pytest.mark.parametrize("index", [0, 1])
def test_attention_is_one_kernel_per_block(rtx, shipped, graph, profiles_of, index):
    """Otherwise the scores of all pairs go through the GPU's memory."""
    profile = profiles_of(Manifest.read(shipped), LIMITS)[index]
    layers, kernels = information(rtx, shipped / graph, [profile])
    assert sum("mha" in name for name in kernels) == 5
    assert layers / 5 < 145 and len(kernels) / 5 < 16


def test_cancelled_build_leaves_earlier_plans(rtx, built, tmp_path):
    folder, before = shutil.copytree(built[0], tmp_path / "model"), built[1]
    cancelled = threading.Event()

    def progress(phase, done, steps):
        if done:
            cancelled.set()

    with pytest.raises(EngineError, match="was cancelled; earlier plans are unchanged"):
        build(folder, rtx, limits=PlanLimits(512, 1024), progress=progress, cancelled=cancelled.is_set)
    assert PlanManifest.read(folder) == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".building")]


def test_full_disk_is_an_error_and_leaves_nothing(rtx, folder, capfd):
    """TensorRT takes a failed write for a success; a limit of the size of files acts like a full disk."""
    before, phases = sorted(folder.iterdir()), []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"model/tensorrt cannot be written: File too large; free space there"):
            build(folder, rtx, targets=["8.9"], limits=LIMITS, progress=lambda *phase: phases.append(phase[0]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(folder.iterdir()) == before and "Traceback" not in (shown := "".join(capfd.readouterr()))
    assert "OSError" not in shown and not any(phase.startswith("decoder") for phase in phases)


def test_damaged_export_is_refused_before_the_build(rtx, folder):
    content = bytearray((folder / "vision.onnx.data").read_bytes())
    content[100] ^= 1
    (folder / "vision.onnx.data").write_bytes(content)
    with pytest.raises(EngineError, match="has changed since the export: its hash differs"):
        build(folder, rtx)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[: len(content) // 2], r"TensorRT for RTX .* cannot read .*vision\.onnx: \S"),
        (lambda content: content.replace(b"Softmax", b"Softmin"), r"cannot read .*vision\.onnx: .*Softmin"),
        (lambda content: b"", r"could not build vision\.onnx: .*Network must have at least one output"),
    ],
)
def test_graphs_that_the_parser_rejects(rtx, folder, change, message):
    rewrite(folder, VISION, change)
    with pytest.raises(EngineError, match=message):
        build(folder, rtx, limits=LIMITS)
    assert not (folder / PLAN_FOLDER / "plan.json").exists()


def test_shapes_that_the_builder_rejects(rtx, folder):
    """As if the manifest belonged to another graph."""
    raw = json.loads((folder / MANIFEST).read_text())
    raw["decoder"]["head_dim"] *= 2
    (folder / MANIFEST).write_text(json.dumps(raw))
    with pytest.raises(EngineError, match=r"for RTX .* (could not build|rejects the shapes of) decoder\.onnx: \S"):
        build(folder, rtx, limits=LIMITS)


def test_capabilities_are_those_that_the_builder_offers(rtx, folder):
    assert list(rtx.compute_capabilities)[:2] == ["7.5", "8.0"] and "8.9" in rtx.compute_capabilities
    with pytest.raises(EngineError, match=r"for RTX .* does not build for sm90; choose from sm75, sm80, .*sm120"):
        build(folder, rtx, targets=["9.0"])


def test_names_of_capabilities():
    assert parse_capabilities(["sm86", "sm120"]) == ["8.6", "12.0"]
    for name in ("86", "sm", "sm8", "sm8.6", "SM86", "sm1200"):
        with pytest.raises(EngineError, match=f"--for '{name}' is not a compute capability; write it as sm89"):
            parse_capabilities([name])


def test_a_flavour_that_is_not_installed_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(flavour.importlib.util, "find_spec", lambda name: None)
    assert (flavour.installed(), flavour.default()) == ([], "tensorrt")
    with pytest.raises(EngineError, match=r"for RTX is not installed; pip install tensorrt-rtx-cu13-bindings"):
        flavour.load("rtx")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorRT for RTX has no timings
def test_tensorrt_builds_for_the_gpu_of_the_machine(rtx, stand_in, folder):
    """With the builder of TensorRT for RTX in place of the other flavour, which needs a GPU, and a simulated GPU."""
    stand_in()
    api = SimpleNamespace(**{**vars(rtx.api), "__version__": "10.16.1"})
    plan = build(folder, Flavour("tensorrt", api), "cuda:1", limits=LIMITS, workspace_mib=512)
    assert (plan.machine.gpu, plan.machine.compute_capabilities) == ("Thor", ("11.0",))
    assert [len(profiles) for profiles in plan.shapes.values()] == [2, 2]
    assert (folder / PLAN_FOLDER / TIMING_CACHE).stat().st_size > 0
