"""The comparison with llama.cpp: its files, and the calls that measure it on a stand-in for its library."""

import ctypes
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from penguin_engine.bench import variants
from penguin_engine.bench.llama_cpp import _gguf_name, measure, weight_bytes, write_gguf
from penguin_engine.bench.worker_process import WorkerSettings
from penguin_engine.export.graphs.weights import CheckpointWeights
from penguin_models.checkpoint import load_pretrained, open_checkpoint
from penguin_models.errors import EngineError


def test_every_tensor_of_the_decoder_has_a_name_of_its_own(checkpoint):
    _, stored, _ = open_checkpoint(checkpoint)
    names = [_gguf_name(name) for name in stored]
    decoder = [name for name in names if name is not None]
    assert len(decoder) == sum(name.startswith("language_model.") for name in stored) == 2 + 3 * 11
    assert len(set(decoder)) == len(decoder)
    assert {"token_embd.weight", "output_norm.weight", "blk.2.attn_q_norm.weight", "blk.0.ffn_gate.weight"} <= set(
        names
    )


@pytest.mark.parametrize(("precision", "share"), [("f32", 1.0), ("f16", 0.5), ("q8_0", 8.5 / 32), ("q4_0", 4.5 / 32)])
def test_the_decoder_as_gguf(checkpoint, tmp_path, precision, share):
    gguf = pytest.importorskip("gguf", reason="pip install gguf")
    path = write_gguf(checkpoint, tmp_path / "decoder.gguf", precision)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    _, stored, _ = open_checkpoint(checkpoint)
    name = "language_model.model.layers.1.mlp.down_proj.weight"
    expected = np.concatenate(list(CheckpointWeights(stored).float_blocks(name)))
    tensor = tensors["blk.1.ffn_down.weight"]
    found = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=0 if precision == "f32" else np.abs(expected).max() / 7)
    model, _ = load_pretrained(checkpoint)
    assert weight_bytes(path) == pytest.approx(
        4 * share * sum(p.numel() for p in model.language_model.parameters()), rel=0.02
    )
    assert [file.name for file in tmp_path.iterdir()] == ["decoder.gguf"]


def test_an_unknown_precision(checkpoint, tmp_path):
    pytest.importorskip("gguf", reason="pip install gguf")
    with pytest.raises(EngineError, match="precision 'q3' is unknown; choose from f32, f16, q8_0, q4_0"):
        write_gguf(checkpoint, tmp_path / "decoder.gguf", "q3")


class Library:
    """As much of llama_cpp as is called; holds a sequence."""

    llama_token = ctypes.c_int32

    def __init__(self, model=1, context=2, fails=False):
        self.model, self.context, self.fails = model, context, fails
        self.held, self.longest, self.options = 0, 0, None
        for name in ("llama_log_set", "llama_backend_init", "llama_get_logits"):
            setattr(self, name, lambda *args: None)
        self.llama_log_callback = self.llama_model_default_params = self.llama_get_memory = lambda *args: args
        self.llama_context_default_params = SimpleNamespace
        self.llama_model_load_from_file = lambda path, params: self.model

    def llama_init_from_model(self, model, options):
        self.options = options
        return self.context

    def llama_batch_get_one(self, tokens, count):
        return count

    def llama_decode(self, context, count):
        assert count <= self.options.n_batch and self.held + count <= self.options.n_ctx
        self.held += count
        self.longest = max(self.longest, self.held)
        return int(self.fails)

    def llama_memory_seq_rm(self, memory, sequence, start, end):
        assert (sequence, end) == (0, -1) and start <= self.held
        self.held = start
        return True


@pytest.fixture
def library(monkeypatch):
    """Puts a stand-in in the place of llama_cpp."""
    monkeypatch.setattr("penguin_engine.bench.llama_cpp.timed", lambda run: (run() and 1.0) or 0.5)

    def make(**options):
        made = Library(**options)
        monkeypatch.setitem(sys.modules, "llama_cpp", made)
        return made

    return make


SETTINGS = WorkerSettings("llama.cpp", "model.gguf", threads=2, prompt_tokens=1100, new_tokens=4)


def test_what_is_measured(library):
    made = library()
    result = measure(SETTINGS)
    assert made.longest == 1104 and (made.options.n_threads, made.options.n_threads_batch) == (2, 2)
    assert (result["prefill_tokens_per_s"], result["decode_tokens_per_s"]) == (2200, 8)
    assert result.keys() >= {"load_s", "resident_loaded_bytes", "resident_bytes", "peak_bytes"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": None}, r"llama\.cpp cannot load model\.gguf"),
        ({"context": None}, r"llama\.cpp has no memory for 1112 tokens of model\.gguf"),
        ({"fails": True}, r"llama\.cpp could not evaluate the tokens"),
    ],
)
def test_what_llama_refuses(library, options, message):
    library(**options)
    with pytest.raises(EngineError, match=message):
        measure(SETTINGS)


def test_what_must_be_installed_is_named(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(variants.importlib.util, "find_spec", lambda name: None if name == "gguf" else object())
    variant = variants.Variant.parse("llama.cpp:f32")
    with pytest.raises(EngineError, match=r"llama\.cpp:f32 needs gguf: pip install gguf"):
        variants.prepare(checkpoint, tmp_path, variant, calibrated=True)


@pytest.mark.parametrize("installed", [True, False])
def test_llama_is_compared_where_it_is_installed(monkeypatch, installed):
    monkeypatch.setattr(variants.importlib.util, "find_spec", lambda name: object() if installed else None)
    names = {str(variant) for variant in variants.default_variants()}
    assert names >= {"torch:float32", "onnx:float32", "onnx:int8", "onnx:int4", "transformers:float32"}
    assert ("llama.cpp:q8_0" in names) == ("llama.cpp:f32" in names) == installed
