"""The ONNX Runtime backend: runs an exported folder on any CPU, and on NVIDIA GPUs if the installed packages can.

Imports neither torch nor transformers. The memory of a KV cache is reserved once and bound to the graph, so no step
copies cached tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from penguin_engine.export.manifest import DECODER, MASKED, PROFILES, DecoderShape, Manifest
from penguin_engine.runtimes.base import KVCache, PromptSegment, RuntimeInfo, check_fits
from penguin_engine.runtimes.exported import (
    STORAGE,
    TOKENS_PER_STEP,
    Array,
    EmbeddingTable,
    HostVisualTokens,
    check_precision,
)
from penguin_engine.runtimes.onnx_bindings import ONNX_TYPES, bind_host_input, bind_host_output, check_inputs
from penguin_engine.runtimes.onnx_session import Device, open_session, run
from penguin_engine.runtimes.onnx_vision import OnnxVision
from penguin_models.errors import EngineError
from penguin_models.types import Float32Array, PatchedImage


class OnnxRuntime:
    """A `Runtime` for an exported folder, whose `manifest` it has; arguments as for `open_runtime`.

    Raises:
        EngineError: The folder is damaged or has another precision, or ONNX Runtime cannot run it on this device.
    """

    def __init__(
        self, folder: str | Path, device: str = "cpu", precision: str | None = None, threads: int | None = None
    ):
        folder = Path(folder)
        self.manifest = manifest = Manifest.read(folder)
        check_precision(manifest, precision, folder)
        self._device = Device.parse(device)
        if self._device.kind == "cpu" and "bfloat16" in (manifest.dtype, manifest.vision_dtype):
            raise EngineError(
                f"{folder} is bfloat16, which ONNX Runtime cannot run on a CPU; export float32 or float16"
            )
        self._vision: OnnxVision | None = OnnxVision(
            *(folder, self._device, threads, manifest.profile),
            *(manifest.patch_dim, manifest.decoder.hidden, manifest.dtype),
        )
        self._decoder = open_session(folder / DECODER, self._device, threads, float8=manifest.precision == "fp8")
        decoder = manifest.decoder
        row = [decoder.kv_heads, decoder.head_dim]
        cache = manifest.cache_dtype, row if PROFILES[manifest.profile].cache == "rows" else [1, *row]
        caches = {f"past_{name}": cache for name in decoder.cache_names}
        check_inputs(self._decoder, {"embeddings": (manifest.dtype, [decoder.hidden]), **caches}, folder / DECODER)
        self._table = EmbeddingTable(folder, manifest)
        self.info = RuntimeInfo("onnx", str(self._device), manifest.precision, decoder.context_length, decoder.vocab)

    def encode(self, images: Sequence[PatchedImage]) -> list[HostVisualTokens]:
        """See `Runtime.encode`; visual tokens are stored in host memory."""
        assert self._vision is not None, "the runtime is closed"
        return [HostVisualTokens(tokens) for tokens in self._vision.encode(images)]

    def open_cache(self, max_length: int) -> OnnxCache:
        """See `Runtime.open_cache`."""
        assert self._decoder is not None, "the runtime is closed"
        check_fits(max_length, self.info.context_length, "the cache")
        return OnnxCache(self._decoder, self._table, self.manifest, self._device, max_length)

    def synchronize(self) -> None:
        """Does nothing: ONNX Runtime returns when its work is done."""

    def close(self) -> None:
        """See `Runtime.close`."""
        self._vision = self._decoder = None


class OnnxCache(KVCache):
    """A `KVCache` whose memory is reserved once."""

    def __init__(self, session: Any, table: EmbeddingTable, manifest: Manifest, device: Device, max_length: int):
        super().__init__(max_length, manifest.precision)
        self._session, self._table = session, table
        self._dtype, self._vocab = manifest.dtype, manifest.decoder.vocab
        self._binding: Any = session.io_binding()
        profile = PROFILES[manifest.profile]
        memory = _Rows if profile.cache == "rows" else _Buffers
        self._memory: _Rows | _Buffers = memory(
            self._binding, manifest.decoder, manifest.cache_dtype, device, max_length
        )
        self._contrib = profile.contrib

    def _extend(self, segments: Sequence[PromptSegment], new: int) -> Float32Array:
        embeddings = self._table.embed(segments)
        for start in range(0, new, TOKENS_PER_STEP):
            logits = self._step(embeddings[start : start + TOKENS_PER_STEP])
        return logits

    def _free(self) -> None:
        del self._memory, self._binding, self._session

    def _step(self, embeddings: Array) -> Float32Array:
        length, new = self.length, embeddings.shape[0]
        inputs = {"embeddings": embeddings, **self._memory.bind(length, new)}
        if self._contrib:
            inputs["last_position"] = np.array([length + new - 1], np.int32)
            inputs["total_length"] = np.array(length + new, np.int32)
        else:
            inputs["positions"] = np.arange(length, length + new)
        for name, value in inputs.items():
            bind_host_input(self._binding, name, value, self._dtype)
        logits: Float32Array = np.empty((1, self._vocab), np.float32)
        bind_host_output(self._binding, "logits", logits, "float32")
        action = f"appending {new} tokens to {length}"
        run(self._session, self._binding, action, "lower the token budget", keep_memory=new == 1)
        self.length += new
        return logits.reshape(-1)


class _Buffers:
    """Cache memory in which each layer's input and output are the same buffer [1, kv_heads, capacity, head_dim]."""

    def __init__(self, binding: Any, shape: DecoderShape, dtype: str, device: Device, capacity: int):
        size = (1, shape.kv_heads, capacity, shape.head_dim)
        self._buffers = []
        for name in shape.cache_names:
            buffer = device.zeros(size, dtype)
            self._buffers.append(buffer)
            place = (device.memory, device.index, ONNX_TYPES[dtype], size, buffer.data_ptr())
            binding.bind_input(f"past_{name}", *place)
            binding.bind_output(f"present_{name}", *place)

    def bind(self, length: int, new: int) -> dict[str, Array]:
        """Needs no further inputs: the bindings never change."""
        return {}


class _Rows:
    """Cache memory of rows [capacity, kv_heads, head_dim]: a step reads a prefix and writes right after it."""

    def __init__(self, binding: Any, shape: DecoderShape, dtype: str, device: Device, capacity: int):
        self._binding, self._device, self._type = binding, device, ONNX_TYPES[dtype]
        self._row = (shape.kv_heads, shape.head_dim)
        self._row_bytes = shape.kv_heads * shape.head_dim * np.dtype(STORAGE[dtype]).itemsize
        self._rows = {name: device.zeros((capacity, *self._row), dtype) for name in shape.cache_names}
        self._unmasked = np.zeros(capacity, np.float32)

    def bind(self, length: int, new: int) -> dict[str, Array]:
        """Binds the prefix and the new rows, and returns the mask; an empty prefix is one masked row."""
        past = max(length, 1)
        for name, rows in self._rows.items():
            start = rows.data_ptr()
            place = (self._device.memory, self._device.index, self._type)
            self._binding.bind_input(f"past_{name}", *place, (past, *self._row), start)
            self._binding.bind_output(f"new_{name}", *place, (new, *self._row), start + length * self._row_bytes)
        return {"past_mask": self._unmasked[:past] if length else np.full(1, MASKED, np.float32)}
