"""Running compiled plans: frames through the vision plan, chunks and single tokens through the decoder's.

Inputs go through two sets of page-locked memory in turn, one being filled while the other is on its way. Of a decoding
step the inputs, the plan and the logits are recorded once for each kind and launched as one piece, each kind with an
execution of its own, as NVIDIA advises; what a cache does with new rows comes after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penguin_engine.export.manifest import PROFILES, Manifest
from penguin_engine.runtimes.exported import STORAGE, TOKENS_PER_STEP, Array, EmbeddingTable, Piece, VisionPass
from penguin_engine.runtimes.tensorrt.gpu import (
    Addresses,
    BufferMemory,
    CacheMemory,
    Execution,
    Gpu,
    Memory,
    Plan,
    Recorded,
    RowMemory,
)
from penguin_engine.runtimes.tensorrt.shapes import BATCH, DECODE, PREFILL, SINGLE, PlanLimits, vision_profiles
from penguin_models.types import Float32Array


@dataclass(frozen=True, eq=False)
class DeviceVisualTokens:
    """Visual tokens [length, hidden] on the GPU."""

    memory: Memory
    length: int


@dataclass(frozen=True, eq=False)
class RecordedStep:
    """A recorded decoding step, and the execution that belongs to it."""

    execution: Execution
    recorded: Recorded


class VisionSteps:
    """Runs the vision plan."""

    def __init__(self, plan: Plan, manifest: Manifest, limits: PlanLimits, gpu: Gpu):
        self._executions = {profile: plan.execution(profile) for profile in (SINGLE, BATCH)}
        self._gpu = gpu
        self._token_bytes = manifest.decoder.hidden * np.dtype(STORAGE[manifest.dtype]).itemsize
        sizes: dict[str, int] = {}
        for profile in vision_profiles(manifest, limits):
            for name, shape in profile.items():
                size = int(np.prod(shape.maximum)) * (4 if name == "patches" else 8)
                sizes[name] = max(sizes.get(name, 0), size)
        self._stages = Turns([_Stage(sizes, gpu) for _ in range(2)])

    def run(self, vision_pass: VisionPass) -> list[DeviceVisualTokens]:
        """Visual tokens of each image of a pass; returns while the GPU works."""
        stage = self._stages.next()
        for name, values in vision_pass.inputs.items():
            stage.send(name, values)
        total = self._gpu.allocate(sum(vision_pass.tokens) * self._token_bytes)
        shapes = {name: values.shape for name, values in vision_pass.inputs.items()}
        profile = SINGLE if len(vision_pass.indices) == 1 else BATCH
        self._executions[profile].run(shapes, stage.addresses() | {"tokens": int(total)})
        encoded, start = [], int(total)
        for count in vision_pass.tokens:
            # Copied: a view would keep the tokens of all images of the pass alive.
            own = self._gpu.allocate(count * self._token_bytes)
            self._gpu.copy(int(own), start, count * self._token_bytes)
            encoded.append(DeviceVisualTokens(own, count))
            start += count * self._token_bytes
        stage.done(total)
        return encoded


class DecoderSteps:
    """Runs the decoder's plan; what all caches share lies here."""

    def __init__(self, plan: Plan, manifest: Manifest, limits: PlanLimits, table: EmbeddingTable, gpu: Gpu):
        self._plan, self._gpu, self._table, self._manifest, self._limits = plan, gpu, table, manifest, limits
        self._prefill = plan.execution(PREFILL)
        self._hidden = manifest.decoder.hidden
        dtype = np.dtype(STORAGE[manifest.dtype])
        self._dtype, self._row_bytes = dtype, self._hidden * dtype.itemsize
        sizes = {"embeddings": TOKENS_PER_STEP * self._row_bytes, "positions": TOKENS_PER_STEP * 8}
        self._stages = Turns([_Stage(sizes, gpu) for _ in range(2)])
        self._single = _Stage({"embeddings": self._row_bytes, "positions": 8}, gpu)
        self._logits = gpu.allocate(4 * manifest.decoder.vocab)
        self._logits_host: Float32Array = gpu.page_locked((manifest.decoder.vocab,), np.float32)

    def open_memory(self, max_length: int) -> CacheMemory:
        """Memory for a cache."""
        itemsize = np.dtype(STORAGE[self._manifest.cache_dtype]).itemsize
        if PROFILES[self._manifest.profile].cache == "buffer":
            return BufferMemory(self._manifest.decoder, self._limits.max_tokens, itemsize, self._gpu)
        return RowMemory(self._manifest.decoder, max_length, itemsize, self._gpu)

    def prefill(self, chunk: Sequence[Piece], length: int, memory: CacheMemory) -> int:
        """Puts a chunk behind `length` tokens; returns its tokens while the GPU works."""
        stage = self._stages.next()
        count = chunk[-1].offset + chunk[-1].length
        rows = np.zeros((count, self._hidden), self._dtype)
        for piece in chunk:
            if isinstance(piece.part, Sequence):
                ids = piece.part[piece.start : piece.start + piece.length]
                rows[piece.offset : piece.offset + piece.length] = self._table.rows(ids)
        stage.send("embeddings", rows)
        stage.send("positions", np.arange(length, length + count))
        embeddings = stage.addresses()["embeddings"]
        for piece in chunk:
            if isinstance(piece.part, DeviceVisualTokens):
                source = int(piece.part.memory) + piece.start * self._row_bytes
                target = embeddings + piece.offset * self._row_bytes
                self._gpu.copy(target, source, piece.length * self._row_bytes)
        memory.prepare(length)
        self._execute(self._prefill, count, length, stage.addresses(), memory)
        memory.extend(length, count)
        stage.done(chunk)
        self._gpu.to_host(self._logits_host, int(self._logits))
        return count

    def decode(self, token: int, length: int, memory: CacheMemory, recorded: dict[int, RecordedStep]) -> None:
        """Puts one token behind `length` tokens. The first step of each kind runs as it is, and is recorded then."""
        stage = self._single
        stage.write("embeddings", self._table.rows([token]))
        stage.write("positions", np.array([length]))
        memory.prepare(length)

        kind = memory.kind(length)
        if kind in recorded:
            recorded[kind].recorded.launch()
        else:
            execution = self._plan.execution(DECODE)

            def step() -> None:
                stage.send_written()
                self._execute(execution, 1, length, stage.addresses(), memory)
                self._gpu.to_host(self._logits_host, int(self._logits))

            step()
            self._gpu.wait()
            recorded[kind] = RecordedStep(execution, self._gpu.record(step))
        memory.extend(length, 1)

    def logits(self) -> Float32Array:
        """Waits for the GPU; logits of the last step, float32 [vocab]."""
        self._gpu.wait()
        return self._logits_host.copy()

    def _execute(self, execution: Execution, count: int, length: int, inputs: Addresses, memory: CacheMemory) -> None:
        shapes = {"embeddings": (count, self._hidden), "positions": (count,)} | memory.shapes(length)
        execution.run(shapes, inputs | {"logits": int(self._logits)} | memory.addresses())


class _Stage:
    """Page-locked memory for the inputs of one execution, and their place on the GPU."""

    def __init__(self, sizes: dict[str, int], gpu: Gpu):
        self._gpu = gpu
        self._host = {name: gpu.page_locked((size,), np.uint8) for name, size in sizes.items()}
        self._device = {name: gpu.allocate(size) for name, size in sizes.items()}
        self._used = dict.fromkeys(sizes, 0)
        self._finished = gpu.event()
        self._held: Any = None

    def free(self) -> None:
        """Waits until the GPU no longer needs what was sent."""
        self._finished.wait()
        self._held = None

    def write(self, name: str, values: Array) -> None:
        """Puts values into the page-locked memory."""
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self._host[name][: flat.size] = flat
        self._used[name] = flat.size

    def send(self, name: str, values: Array) -> None:
        """Puts values into the page-locked memory and on their way."""
        self.write(name, values)
        self._gpu.to_device(int(self._device[name]), self._host[name][: self._used[name]])

    def send_written(self) -> None:
        """Sends all that was written."""
        for name, size in self._used.items():
            self._gpu.to_device(int(self._device[name]), self._host[name][:size])

    def addresses(self) -> Addresses:
        """Where the inputs lie on the GPU."""
        return {name: int(memory) for name, memory in self._device.items()}

    def done(self, held: Any) -> None:
        """Everything that needs this memory is on the stream; `held` is kept until that is over."""
        self._held = held
        self._finished.record()


class Turns:
    """Stages that are used in turn."""

    def __init__(self, stages: Sequence[_Stage]):
        self._stages, self._next = stages, 0

    def next(self) -> _Stage:
        """The stage that was used longest ago, when the GPU no longer needs it."""
        stage = self._stages[self._next]
        self._next = (self._next + 1) % len(self._stages)
        stage.free()
        return stage
