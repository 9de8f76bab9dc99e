"""The model on ONNX Runtime, from an exported folder: any CPU; CUDA and TensorRT where its packages have them.

Neither torch nor transformers is imported. The KV cache lies in memory that is reserved once and bound to the graph:
no step copies what is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from penguin_engine.export.manifest import DECODER, MASKED, PROFILES, VISION, DecoderShape, Manifest
from penguin_engine.runtimes.base import PromptSegment, RuntimeInfo, check_fits
from penguin_engine.runtimes.exported import (
    STORAGE,
    TOKENS_PER_STEP,
    Array,
    EmbeddingTable,
    HostVisualTokens,
    ReservedCache,
    check_precision,
    encode_in_passes,
)
from penguin_engine.runtimes.onnx_session import Device, open_session, run
from penguin_models.errors import EngineError
from penguin_models.types import Float32Array, PatchedImage

_ONNX_TYPES = {"float32": 1, "float16": 10, "bfloat16": 16}
"""Numbers of ONNX's types, for bindings."""
_SCORES = "attention of {} holds the products of all patches of an image with each other"


class OnnxRuntime:
    """A `Runtime` over an exported folder.

    Args:
        folder: made by `penguin-vl export`.
        device: "cpu", "cuda", "cuda:1", "tensorrt", ...
        precision: what the folder is expected to hold; anything if None.
        threads: of one operator; all cores if None.

    Attributes:
        manifest: of the folder.

    Raises:
        EngineError: the folder is damaged or of another precision, or ONNX Runtime here cannot run it on that device.
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
        self._vision = open_session(folder / VISION, self._device, threads)
        self._decoder = open_session(folder / DECODER, self._device, threads, float8=manifest.precision == "fp8")
        self._table = EmbeddingTable(folder, manifest)
        self._info = RuntimeInfo(
            name="onnx",
            device=str(self._device),
            dtype=manifest.precision,
            context_length=manifest.decoder.context_length,
            vocab_size=manifest.decoder.vocab,
        )

    @property
    def info(self) -> RuntimeInfo:
        """What this runtime is."""
        return self._info

    def encode(self, images: Sequence[PatchedImage]) -> list[HostVisualTokens]:
        """Visual tokens of each image; they wait in host memory.

        Raises:
            EngineError: an image is too large for the memory of the device.
        """
        equal_frames = PROFILES[self.manifest.profile].equal_frames
        return encode_in_passes(images, equal_frames, self._run_vision)

    def open_cache(self, max_length: int) -> OnnxCache:
        """An empty cache."""
        check_fits(max_length, self._info.context_length, "the cache")
        return OnnxCache(self._decoder, self._table, self.manifest, self._device, max_length)

    def synchronize(self) -> None:
        """Nothing: ONNX Runtime returns when it is done."""

    def _run_vision(self, inputs: dict[str, Array]) -> Array:
        binding = self._vision.io_binding()
        for name, value in inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        shape = (inputs["blocks"].shape[0], self.manifest.decoder.hidden)
        tokens = np.empty(shape, STORAGE[self.manifest.dtype])
        _bind_host_output(binding, "tokens", tokens, self.manifest.dtype)
        patches, profile = inputs["patches"].shape[0], self.manifest.profile
        remedy = "make images smaller by a lower token budget"
        if not PROFILES[profile].contrib:
            remedy += f", or export with --profile onnxruntime: {_SCORES.format(profile)}"
        run(self._vision, binding, f"encoding {patches} patches", remedy)
        return tokens


class OnnxCache(ReservedCache):
    """A `KVCache` in memory reserved once."""

    def __init__(self, session: Any, table: EmbeddingTable, manifest: Manifest, device: Device, max_length: int):
        super().__init__(max_length)
        self._session, self._table = session, table
        self._dtype, self._vocab = manifest.dtype, manifest.decoder.vocab
        self._binding: Any = session.io_binding()
        profile = PROFILES[manifest.profile]
        memory = _Rows if profile.cache == "rows" else _Buffers
        self._memory: _Memory | None = memory(self._binding, manifest.decoder, manifest.cache_dtype, device, max_length)
        self._inputs = _gqa_inputs if profile.contrib else _position_inputs

    def append(self, parts: Sequence[PromptSegment]) -> Float32Array:
        """Extends the cache; see `KVCache.append`."""
        new = self._count(parts)
        embeddings = self._table.embed(parts)
        for start in range(0, new, TOKENS_PER_STEP):
            logits = self._step(embeddings[start : start + TOKENS_PER_STEP])
        return logits

    def close(self) -> None:
        """Frees the memory."""
        self._memory = self._binding = None

    def _step(self, embeddings: Array) -> Float32Array:
        assert self._memory is not None, "the cache is closed"
        new = embeddings.shape[0]
        inputs = {"embeddings": embeddings, **self._inputs(self._length, new), **self._memory.bind(self._length, new)}
        for name, value in inputs.items():
            _bind_host_input(self._binding, name, value, self._dtype)
        logits: Float32Array = np.empty((1, self._vocab), np.float32)
        _bind_host_output(self._binding, "logits", logits, "float32")
        run(self._session, self._binding, f"{new} tokens behind {self._length}", "lower the token budget")
        self._length += new
        return logits.reshape(-1)


class _Memory(Protocol):
    """The memory of a cache, bound to a graph."""

    def bind(self, length: int, new: int) -> dict[str, Array]:
        """Prepares a step that adds `new` tokens to `length`; further inputs of the graph."""
        ...


class _Buffers:
    """Input and output of each layer are the same buffer [1, kv_heads, capacity, head_dim]: bound once."""

    def __init__(self, binding: Any, shape: DecoderShape, dtype: str, device: Device, capacity: int):
        size = (1, shape.kv_heads, capacity, shape.head_dim)
        self._buffers = []
        for layer in range(shape.layers):
            for name in ("key", "value"):
                buffer = device.zeros(size, dtype)
                self._buffers.append(buffer)
                place = (device.memory, device.index, _ONNX_TYPES[dtype], size, buffer.data_ptr())
                binding.bind_input(f"past_{name}_{layer}", *place)
                binding.bind_output(f"present_{name}_{layer}", *place)

    def bind(self, length: int, new: int) -> dict[str, Array]:
        """Nothing changes from step to step."""
        return {}


class _Rows:
    """Each layer has rows [capacity, kv_heads, head_dim]: a step reads a prefix and writes right behind it."""

    def __init__(self, binding: Any, shape: DecoderShape, dtype: str, device: Device, capacity: int):
        self._binding, self._device, self._type = binding, device, _ONNX_TYPES[dtype]
        self._row = (shape.kv_heads, shape.head_dim)
        self._row_bytes = shape.kv_heads * shape.head_dim * np.dtype(STORAGE[dtype]).itemsize
        self._rows = {
            f"{name}_{layer}": device.zeros((capacity, *self._row), dtype)
            for layer in range(shape.layers)
            for name in ("key", "value")
        }
        self._unmasked = np.zeros(capacity, np.float32)

    def bind(self, length: int, new: int) -> dict[str, Array]:
        """Binds the prefix and what follows it. An empty prefix is one row that the mask hides."""
        past = max(length, 1)
        for name, rows in self._rows.items():
            start = rows.data_ptr()
            place = (self._device.memory, self._device.index, self._type)
            self._binding.bind_input(f"past_{name}", *place, (past, *self._row), start)
            self._binding.bind_output(f"new_{name}", *place, (new, *self._row), start + length * self._row_bytes)
        return {"past_mask": self._unmasked[:past] if length else np.full(1, MASKED, np.float32)}


def _gqa_inputs(length: int, new: int) -> dict[str, Array]:
    return {
        "last_position": np.array([length + new - 1], np.int32),
        "total_length": np.array(length + new, np.int32),
    }


def _position_inputs(length: int, new: int) -> dict[str, Array]:
    return {"positions": np.arange(length, length + new)}


def _bind_host_input(binding: Any, name: str, value: Array, dtype: str) -> None:
    value = np.ascontiguousarray(value)
    if dtype == "bfloat16" and value.dtype == np.uint16:
        binding.bind_input(name, "cpu", 0, _ONNX_TYPES[dtype], value.shape, value.ctypes.data)
    else:
        binding.bind_cpu_input(name, value)


def _bind_host_output(binding: Any, name: str, value: Array, dtype: str) -> None:
    binding.bind_output(name, "cpu", 0, _ONNX_TYPES[dtype], value.shape, value.ctypes.data)
