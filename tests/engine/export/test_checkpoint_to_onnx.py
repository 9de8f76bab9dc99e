"""Exported folders: symbolic sizes, operators, external weights, memory use, and cleaning up after failures."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from penguin_engine.export.checkpoint_to_onnx import ExportOptions, decoder_shape, export
from penguin_engine.export.manifest import DECODER, EMBEDDINGS, MANIFEST, PROFILES, VISION, Manifest
from penguin_engine.export.quantize import Quantization
from penguin_engine.runtimes.loading import open_runtime
from penguin_models.checkpoint import open_checkpoint
from penguin_models.errors import CheckpointError, EngineError, WriteError

GRAPHS = (VISION, DECODER)
ROW = ["past", 2, 32]
BUFFER = [1, 2, "capacity", 32]
VISION_INPUTS = {
    "patches": ["patches", 588],
    "positions": ["patches", 2],
    "slots": ["frames", "longest"],
    "places": ["patches"],
    "blocks": ["tokens", "merged"],
}
DECODER_INPUTS = {
    "portable": {"positions": ["sequence"], "past_mask": ["past"], "past_key_2": ROW, "past_value_0": ROW},
    "onnxruntime": {"last_position": [1], "total_length": [], "past_key_2": BUFFER, "past_value_0": BUFFER},
}


def shapes(values):
    return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def load(folder, name):
    return onnx.load(folder / name, load_external_data=False)


@pytest.mark.parametrize("profile", PROFILES)
def test_dynamic_sizes_are_symbolic(exported, profile):
    folder = exported(profile=profile)
    vision, decoder = (load(folder, name).graph for name in GRAPHS)
    assert shapes(vision.input) == VISION_INPUTS
    assert shapes(vision.output) == {"tokens": ["tokens", 96]}
    inputs, outputs = shapes(decoder.input), shapes(decoder.output)
    assert inputs.items() >= (DECODER_INPUTS[profile] | {"embeddings": ["sequence", 96]}).items()
    assert outputs["logits"] == [1, 1536]
    cache = {name: shape for name, shape in outputs.items() if name != "logits"}
    assert len(cache) == 2 * 3
    assert set(map(tuple, cache.values())) == {("sequence", 2, 32) if profile == "portable" else tuple(BUFFER)}


@pytest.mark.parametrize("graph", GRAPHS)
def test_strict_shape_inference_passes(exported, graph):
    """A size that was fixed by mistake would conflict with an inferred shape."""
    onnx.checker.check_model(exported(profile="portable") / graph, full_check=True)


OPERATORS = json.loads((Path(__file__).parents[2] / "data" / "tensorrt_operators.json").read_text())["10.1"]
"""What the TensorRT of JetPack 6 parses, which cannot be had here; a later parser reads the graphs in other tests."""


@pytest.mark.parametrize("graph", GRAPHS)
def test_operators_are_documented_for_tensorrt(exported, graph):
    model = load(exported(profile="portable"), graph)
    assert {node.op_type for node in model.graph.node} <= set(OPERATORS)
    assert [(o.domain, o.version in range(18, 21)) for o in model.opset_import] == [("", True)]
    assert not {node.op_type for node in model.graph.node} & {"Loop", "Scan", "If"}


@pytest.mark.parametrize("kind", ["int4", "fp8"])
def test_operators_of_quantised_decoders_are_documented_for_tensorrt(exported, kind):
    model = load(exported(profile="portable", quantization=Quantization.default(kind, contrib=False)), DECODER)
    assert {node.op_type for node in model.graph.node} <= set(OPERATORS)
    assert [o.domain for o in model.opset_import] == [""]


@pytest.mark.parametrize("graph", GRAPHS)
def test_indices_are_not_negative(exported, graph):
    """TensorRT's documentation says that a negative index into an axis of dynamic length is undefined."""
    model = load(exported(profile="portable"), graph).graph
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in model.initializer if i.data_location == 0}
    indices = {node.input[1] for node in model.node if node.op_type == "Gather"}
    assert all((constants[name] >= 0).all() for name in indices & constants.keys())
    assert "slots" not in indices  # padding is marked by -1


@pytest.mark.parametrize("profile", PROFILES)
def test_weights_are_external(exported, profile):
    folder = exported(profile=profile)
    for name in GRAPHS:
        large = [i for i in load(folder, name).graph.initializer if np.prod(i.dims) > 64]
        assert large and all(i.data_location == onnx.TensorProto.EXTERNAL for i in large)
        assert (folder / name).stat().st_size < 150_000


def test_tied_head_shares_the_embedding_table(exported):
    graph = load(exported(profile="portable"), DECODER).graph
    (head,) = (i for i in graph.initializer if i.name == "model.embed_tokens.weight")
    assert {e.key: e.value for e in head.external_data}["location"] == EMBEDDINGS


def test_untied_head_matches_torch(edit_checkpoint, tmp_path):
    head = np.random.default_rng(0).normal(size=(1536, 96)).astype(np.float32)
    checkpoint = edit_checkpoint(
        lambda tensors: tensors.update({"lm_head.weight": head}), lambda c: c.update(tie_word_embeddings=False)
    )
    export(checkpoint, tmp_path / "out")
    ours, theirs = (
        open_runtime(name, path)[0].open_cache(4).append([[1, 2]])
        for name, path in (("onnx", tmp_path / "out"), ("torch", checkpoint))
    )
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_products_are_16_bit_and_norms_and_softmax_float32(exported, dtype):
    model = onnx.shape_inference.infer_shapes(load(exported(profile="portable", dtype=dtype), DECODER))
    types = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.input)}
    types |= {i.name: i.data_type for i in model.graph.initializer}
    narrow = onnx.TensorProto.FLOAT16 if dtype == "float16" else onnx.TensorProto.BFLOAT16
    for node in model.graph.node:
        if node.op_type in ("Gemm", "MatMul"):
            assert {types[name] for name in node.input} == {narrow}, node.name
        if node.op_type in ("Softmax", "Pow", "Sigmoid", "Split"):
            assert types[node.input[0]] == onnx.TensorProto.FLOAT, node.name


def test_vision_can_have_another_type(exported):
    folder = exported(vision_dtype="float16", profile="onnxruntime")
    manifest = Manifest.read(folder)
    assert (manifest.dtype, manifest.vision_dtype) == ("float32", "float16")
    assert load(folder, VISION).graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_second_export_replaces_the_first_but_keeps_timings(checkpoint, tmp_path):
    export(checkpoint, tmp_path / "out", ExportOptions("onnxruntime"))
    (tmp_path / "out" / "tensorrt").mkdir()
    for name in ("timing.cache", "decoder.plan", "plan.json"):
        (tmp_path / "out" / "tensorrt" / name).write_text(name)
    export(checkpoint, tmp_path / "out", ExportOptions("portable"))
    assert Manifest.read(tmp_path / "out").profile == "portable"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    # Timings are valid for any graph; the plans belonged to the first export.
    assert [path.read_text() for path in (tmp_path / "out" / "tensorrt").iterdir()] == ["timing.cache"]


def test_failed_export_leaves_nothing(checkpoint, tmp_path, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("penguin_engine.export.checkpoint_to_onnx.build_decoder", fail)
    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "manifest",
    [None, "", "[]", '{"name": "photos", "files": ["me.jpg"]}', '{"format": 2, "files": {}}', '{"format": 1}'],
)
def test_other_folders_are_not_replaced(checkpoint, tmp_path, manifest):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"")
    if manifest is not None:
        (tmp_path / "photos" / MANIFEST).write_text(manifest)
    with pytest.raises(EngineError, match="is not an exported folder; choose another"):
        export(checkpoint, tmp_path / "photos")
    assert (tmp_path / "photos" / "me.jpg").exists()


@pytest.mark.parametrize("name", ["notes.txt", "pictures/desk.jpg", "tensorrt/engine.log"])
def test_export_with_foreign_files_is_not_replaced(checkpoint, exported, tmp_path, name):
    folder = shutil.copytree(exported(), tmp_path / "out")
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("")
    with pytest.raises(EngineError, match=rf"{name.split('/')[0]}.* is not part of the export in it; choose another"):
        export(checkpoint, folder)
    assert (folder / name).exists()


def test_files_of_quantize_and_build_are_replaced(checkpoint, exported, tmp_path):
    folder = shutil.copytree(exported(), tmp_path / "out")
    (folder / "tensorrt").mkdir()
    (folder / ".building").mkdir()
    for name in ("quantization.json", "tensorrt/vision.plan", "tensorrt/.timing.cache.7.partial", ".building/lock"):
        (folder / name).write_text("")
    manifest = export(checkpoint, folder, ExportOptions("portable"))
    assert {path.name for path in folder.iterdir()} == {MANIFEST, *manifest.files}


@pytest.fixture
def no_work(monkeypatch):
    """Options of an export that fails the test if it starts to calibrate."""
    calibrate = "penguin_engine.export.checkpoint_to_onnx.calibrate"
    monkeypatch.setattr(calibrate, lambda *args: pytest.fail("the export was started"))
    return ExportOptions(dtype="float16")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (".", "would be replaced while it is the working directory"),
        ("..", "would be replaced while it is the working directory"),
        ("file", "file exists and is not an exported folder"),
        ("file/out", "file/out cannot be written: Not a directory"),
        ("/proc/out", "/proc/out cannot be written: "),
    ],
)
def test_unusable_places_are_refused_before_the_work(checkpoint, tmp_path, monkeypatch, no_work, out, message):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").write_text("")
    if out == ".":
        (tmp_path / "here" / "file").unlink()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises((EngineError, WriteError), match=message):
        export(checkpoint, out, no_work)


def test_files_of_a_killed_export_are_removed(checkpoint, tmp_path):
    left = tmp_path / ".out.exporting"
    (left / "export").mkdir(parents=True)
    (left / "export" / DECODER).write_text("")
    export(checkpoint, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def full_disk():
    """Returns a function that limits the size of every file, in bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [1_000, 100_000], ids=["tokenizer", "weights"])
def test_full_disk_leaves_the_earlier_export(checkpoint, exported, tmp_path, full_disk, size):
    folder = shutil.copytree(exported(), tmp_path / "out")
    full_disk(size)
    with pytest.raises(WriteError, match="out cannot be written: File too large; free space there, or choose"):
        export(checkpoint, folder)
    Manifest.read(folder).verify(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "fast"}, "profile 'fast' is unknown; choose from portable"),
        ({"dtype": "int3"}, "type 'int3' is unknown"),
    ],
)
def test_unknown_options_are_refused(checkpoint, tmp_path, options, message):
    with pytest.raises(EngineError, match=message):
        export(checkpoint, tmp_path / "out", ExportOptions(**options))


def test_incomplete_checkpoint_is_refused(edit_checkpoint, tmp_path):
    broken = edit_checkpoint(lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(CheckpointError, match=r"1 missing: model\.norm\.weight"):
        export(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"use_sliding_window": True, "max_window_layers": 1}, "use_sliding_window"),
    ],
)
def test_unsupported_decoders_are_refused(edit_checkpoint, tmp_path, change, name, monkeypatch):
    from penguin_models import checkpoint as checkpoints

    monkeypatch.setattr(checkpoints, "check_tensors", lambda *args: None)  # which would report the bias as missing
    model, _, _ = open_checkpoint(edit_checkpoint(config=lambda c: c.update(change)))
    with pytest.raises(EngineError, match=f"sets {name}, which cannot be exported"):
        decoder_shape(model)


MEMORY = """
import json, resource, sys, tempfile
from pathlib import Path
import torch
from penguin_engine.bench.event_clips import drawn_samples
from penguin_engine.export.checkpoint_to_onnx import ExportOptions, export
from penguin_models.checkpoint import load_pretrained, open_checkpoint

folder = Path(sys.argv[1])
open_checkpoint(folder)  # loads libraries and tokenizer before the measurement
start, grew = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
for dtype in ("bfloat16", "float16"):  # the one that needs less is measured first: this is the maximum so far
    with tempfile.TemporaryDirectory() as out:
        export(folder, Path(out) / "out", ExportOptions("portable", dtype, samples=drawn_samples(1)))
    grew[dtype] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * 1024
print(json.dumps(grew))
"""


@pytest.fixture(scope="module")
def large_checkpoint(checkpoint, tmp_path_factory):
    """Random bfloat16 weights that are large compared with the interpreter's memory."""
    import torch

    from penguin_models.checkpoint import save_pretrained
    from penguin_models.config import EncoderConfig, PenguinConfig
    from penguin_models.processor import Processor
    from penguin_models.vlm import PenguinVL

    raw = json.loads((checkpoint / "config.json").read_text())
    decoder = {name: raw[name] for name in ("vocab_size", "max_position_embeddings", "rms_norm_eps", "rope_theta")} | {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "tie_word_embeddings": True,
    }
    encoder = EncoderConfig(num_hidden_layers=2)
    config = PenguinConfig.create(encoder, decoder, raw["image_token_index"], eos_token_id=raw["eos_token_id"])
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = PenguinVL(config)
    finally:
        torch.set_default_dtype(torch.float32)
    folder = tmp_path_factory.mktemp("large")
    save_pretrained(model, Processor.from_pretrained(checkpoint), folder)
    return folder


def test_export_streams_the_weights(large_checkpoint):
    """Only float16 runs the model, for its calibration, block by block."""
    done = subprocess.run([sys.executable, "-c", MEMORY, large_checkpoint], capture_output=True, text=True, check=True)
    grew, size = json.loads(done.stdout), (large_checkpoint / "model.safetensors").stat().st_size
    assert size > 130e6
    assert grew["bfloat16"] < 0.5 * size and grew["float16"] < 1.3 * size, (grew, size)
