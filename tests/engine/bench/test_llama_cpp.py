"""The comparison with llama.cpp: the decoder as a GGUF file, and its measurement if llama.cpp is installed."""

import numpy as np
import pytest

from penguin_engine.bench.llama_cpp import weight_bytes, write_gguf
from penguin_engine.bench.worker_process import WorkerSettings, measure
from penguin_engine.export.graphs.weights import CheckpointWeights
from penguin_models.checkpoint import load_pretrained, open_checkpoint
from penguin_models.errors import EngineError


@pytest.mark.parametrize(("precision", "share"), [("f32", 1.0), ("f16", 0.5), ("q8_0", 8.5 / 32), ("q4_0", 4.5 / 32)])
def test_the_decoder_as_gguf(checkpoint, tmp_path, precision, share):
    gguf = pytest.importorskip("gguf", reason="pip install gguf")
    path = write_gguf(checkpoint, tmp_path / "decoder.gguf", precision)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert len(tensors) == 2 + 3 * 11 and {"token_embd.weight", "output_norm.weight"} <= set(tensors)
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


def test_an_unknown_precision_is_refused(checkpoint, tmp_path):
    with pytest.raises(EngineError, match="precision 'q3' is unknown; choose from f32, f16, q8_0, q4_0"):
        write_gguf(checkpoint, tmp_path / "decoder.gguf", "q3")


def test_llama_cpp_is_measured(checkpoint, tmp_path):
    for module in ("gguf", "llama_cpp"):
        pytest.importorskip(module, reason="pip install llama-cpp-python gguf")
    path = write_gguf(checkpoint, tmp_path / "decoder.gguf", "f32")
    result = measure(WorkerSettings("llama.cpp", str(path), threads=1, prompt_tokens=600, new_tokens=2))
    assert result["prefill_tokens_per_s"] > 0 and result["decode_tokens_per_s"] > 0
    (tmp_path / "broken.gguf").write_bytes(b"")
    with pytest.raises(EngineError, match=r"llama\.cpp cannot load"):
        measure(WorkerSettings("llama.cpp", str(tmp_path / "broken.gguf")))
