"""The same decoder on llama.cpp, for comparison: its weights as a GGUF file, and a sequence of tokens.

Needs `pip install llama-cpp-python gguf`.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from penguin_engine.export.checkpoint_to_onnx import decoder_shape
from penguin_engine.export.graphs.weights import CheckpointWeights
from penguin_models.atomic_write import PARTIAL_SUFFIX, writing
from penguin_models.checkpoint import open_checkpoint
from penguin_models.errors import EngineError
from penguin_models.tensor_files import released_name

_BATCH_TOKENS = 512
PRECISIONS = ("f32", "f16", "q8_0", "q4_0")


def write_gguf(model: Path, path: Path, precision: str) -> Path:
    """Writes the decoder of a checkpoint as GGUF without vocabulary unless the file exists, and returns its path.

    Raises WriteError if it cannot be written.
    """
    if precision not in PRECISIONS:
        raise EngineError(f"llama.cpp precision {precision!r} is unknown; choose from {', '.join(PRECISIONS)}")
    if path.is_file():
        return path
    partial = path.with_suffix(PARTIAL_SUFFIX)
    try:
        with writing(path):
            _write(model, partial, precision)
            partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _write(model: Path, path: Path, precision: str) -> None:
    import gguf

    checkpoint, stored, _ = open_checkpoint(model)
    shape, _ = decoder_shape(checkpoint)
    writer = gguf.GGUFWriter(path, "qwen3", use_temp_file=True)
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_vocab_size(shape.vocab)
    writer.add_tokenizer_model("none")
    kind = gguf.GGMLQuantizationType[precision.upper()]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, shape.layers)
    weights = CheckpointWeights(stored)
    for name in stored:
        if not name.startswith("language_model."):
            continue
        target = names.get_name(released_name(name), try_suffixes=(".weight",))
        tensor = np.concatenate(list(weights.float_blocks(name)))
        if tensor.ndim == 1 or precision == "f32":
            writer.add_tensor(target, tensor)
        else:
            writer.add_tensor(target, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def weight_bytes(path: Path) -> int:
    """Returns the bytes of weights that one decoding step reads: all but an embedding table that is not the head."""
    import gguf

    tensors = gguf.GGUFReader(path).tensors
    has_head = any(tensor.name == "output.weight" for tensor in tensors)
    return sum(int(t.n_bytes) for t in tensors if not (has_head and t.name == "token_embd.weight"))


class LlamaSequence:
    """A sequence of tokens in a llama.cpp context, with the operations of a `KVCache` that are measured."""

    def __init__(self, path: str, max_length: int, threads: int | None = None):
        import llama_cpp

        self._lib = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)  # the library stores a pointer only
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not model:
            raise EngineError(f"llama.cpp cannot load {path}")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = max_length + 8
        options.n_batch = options.n_ubatch = _BATCH_TOKENS
        if threads is not None:
            options.n_threads = options.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(model, options)
        if not self._context:
            raise EngineError(f"llama.cpp has no memory for {options.n_ctx} tokens of {path}")

    def append(self, segments: list[list[int]], /) -> None:
        """Evaluates tokens after the cached ones, and waits for the logits of the last one."""
        for ids in segments:
            for start in range(0, len(ids), _BATCH_TOKENS):
                part = ids[start : start + _BATCH_TOKENS]
                tokens = (self._lib.llama_token * len(part))(*part)
                if self._lib.llama_decode(self._context, self._lib.llama_batch_get_one(tokens, len(part))):
                    raise EngineError("llama.cpp could not evaluate the tokens")
        self._lib.llama_get_logits(self._context)

    def truncate(self, length: int, /) -> None:
        """Removes what follows the first `length` tokens."""
        self._lib.llama_memory_seq_rm(self._lib.llama_get_memory(self._context), 0, length, -1)
